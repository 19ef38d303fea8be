//! What the entries of a repository are invalidated by together, and what its writes change beside its own entries.
//!
//! 1. An entity with tags has a clock of its own. The cached queries of a namespace have one, and so have the entities that
//!    stand for a query (`select`), which use the same.
//! 2. An entity with `queries` announces each write at that clock too, with the tag of the entity: whatever depends on its rows
//!    is neither served nor filled while the write is open, and outdated afterwards.
//! 3. An entity with `on_delete` announces a delete at the clocks of the entities whose rows the database deletes with it, and of
//!    the others over their tables. Of the rows that are deleted with those, nothing is known, so all of them are announced.
//! 4. An entity with `same_table` announces each write of a row at the key that the row has in each of the other entities, and, if
//!    those have lookups, at their clock: their absences and lists may be concerned. The same holds for the entities over the
//!    table that the store has named (`family`).
//!
//! Not here: the clock (`protocol/tags`), and how a write is announced (`write/announce`).

use std::{collections::HashSet, sync::Arc};

use serde::Serialize;

use crate::{
    cache,
    context::family::FamilyView,
    database::{
        entity::{Entity, EntitySpec},
        queries::NoRow,
    },
    error::{Error, ErrorKind},
    policy::OnOutage,
    protocol::{
        key::{Key, KeySpace},
        tags::{Changed, Tag, TagPattern, Tags},
    },
    store::{Store, failpoint::Mechanism},
    write::target::{Beside, Dependents, Twin, WriteTarget},
};

/// The groups of one repository.
pub(crate) struct Groups {
    /// The clock that entries are compared with.
    pub(crate) clock: Option<Key>,
    /// The tags that every entry has, absences and lists too.
    pub(crate) common: Option<Tags>,
    /// The cached queries that depend on the rows.
    pub(crate) dependents: Option<Dependents>,
    /// The entities whose rows the database changes when it deletes a row of this one.
    cascades: Vec<Cascaded>,
    /// The other entities over the same table.
    twins: Vec<Twin>,
    /// The entities over the same table that the store has named.
    pub(crate) family: FamilyView,
}

/// An entity whose rows the database changes.
struct Cascaded {
    target: Arc<dyn WriteTarget>,
    /// The tag with the id of the deleted row. `None`: any row may be changed.
    tag: Option<TagPattern>,
}

impl Groups {
    /// Returns the groups of an entity. `namespace`: that of the cache.
    pub(crate) fn new(
        cache: &Arc<cache::Inner>,
        namespace: &str,
        keys: &KeySpace,
        spec: &EntitySpec,
        family: FamilyView,
    ) -> Result<Self, Error> {
        let own = spec.policy.namespace.unwrap_or(namespace);
        let groups = Self {
            clock: match spec.is_query {
                true => Some(clock_of_queries(own)),
                false => (!spec.tags.is_empty()).then(|| keys.clock_key()),
            },
            common: match spec.is_query {
                true => Some(common_tags(namespace, spec)?),
                false => None,
            },
            dependents: dependents(cache, namespace, spec, spec.policy.on_outage),
            cascades: cascades(cache, namespace, spec),
            twins: twins(cache, namespace, spec),
            family,
        };
        // What could not be announced is dropped by these.
        let cascades = groups.cascades.iter().map(|cascade| &cascade.target);
        let targets = cascades.chain(groups.twins.iter().map(|twin| &twin.target));
        let queries = groups
            .dependents
            .iter()
            .map(|dependents| &dependents.queries);
        for prefix in targets.chain(queries).flat_map(|target| target.prefixes()) {
            cache.repairs.register(&prefix);
        }
        Ok(groups)
    }

    /// Returns what the database may change in other entities when it deletes the row with this id, as it stands in tags.
    /// `None`: any rows.
    pub(crate) fn cascades(&self, id: Option<&str>) -> Vec<(Arc<dyn WriteTarget>, Changed)> {
        let cascades = self.cascades.iter();
        let enabled = cascades.filter(|cascade| {
            let store = &cascade.target.cache().store;
            !store.disables(Mechanism::Cascade)
        });
        enabled
            .map(|cascade| {
                let changed = match (id, &cascade.tag) {
                    (Some(id), Some(tag)) => Changed::Tags(vec![tag.with(id)]),
                    _ => Changed::All,
                };
                (Arc::clone(&cascade.target), changed)
            })
            .collect()
    }

    /// Returns the keys of a row in the other entities over its table, and what is announced at the clock of each.
    pub(crate) fn twins<I: Serialize>(
        &self,
        id: &I,
    ) -> Vec<(Arc<dyn WriteTarget>, Key, Option<Changed>)> {
        let found = self.family.found();
        let twins = self
            .twins
            .iter()
            .chain(found.iter().flat_map(|found| &**found));
        let twins = twins.filter_map(|twin| {
            if twin.target.cache().store.disables(Mechanism::SameTable) {
                return None;
            }
            // An id that cannot be written has no key here either, and was refused.
            let key = twin.keys.key(id).ok()?;
            Some((Arc::clone(&twin.target), key, twin.changed()))
        });
        twins.collect()
    }

    /// Returns the other entities over the same table.
    pub(crate) fn all_of_twins(&self) -> Vec<(Arc<dyn WriteTarget>, Changed)> {
        let found = self.family.found();
        let twins = self
            .twins
            .iter()
            .chain(found.iter().flat_map(|found| &**found));
        twins
            .map(|twin| (Arc::clone(&twin.target), Changed::All))
            .collect()
    }
}

/// Returns the key of the clock of the cached queries of a namespace.
fn clock_of_queries(namespace: &str) -> Key {
    let spec = NoRow::SPEC;
    KeySpace::new(namespace, spec.name, &spec.policy).clock_key()
}

/// Returns the tags of all entries of an entity that stands for a query: what it depends on, and its own name.
fn common_tags(namespace: &str, spec: &EntitySpec) -> Result<Tags, Error> {
    let own = spec.policy.namespace.unwrap_or(namespace);
    let mut tags = Tags::default();
    tags.push(Tag::of_entity(spec.name));
    for read in spec.depends_on {
        let read = read();
        let other = read.policy.namespace.unwrap_or(namespace);
        if other != own {
            return Err(other_namespace(spec.name, own, read.name, other));
        }
        tags.push(Tag::of_entity(read.name));
    }
    Ok(tags)
}

/// Returns the error of a dependency whose writes would not be noticed.
pub(crate) fn other_namespace(what: &str, own: &str, read: &str, other: &str) -> Error {
    Error::new(
        ErrorKind::Configuration,
        format!(
            "{what} in the namespace {own} cannot depend on {read} in the namespace {other}: a write is announced to the queries of \
             its own namespace; give both the same `namespace`"
        ),
    )
}

/// Returns the queries that depend on an entity, which a write of this or of another entity changes.
fn dependents(
    cache: &Arc<cache::Inner>,
    namespace: &str,
    spec: &EntitySpec,
    of_writer: OnOutage,
) -> Option<Dependents> {
    let namespace = spec.policy.namespace.unwrap_or(namespace);
    let dependents = || dependents_of(cache, namespace, spec.name, of_writer);
    spec.queries.then(dependents)
}

/// Returns the queries of a namespace that depend on an entity.
pub(super) fn dependents_of(
    cache: &Arc<cache::Inner>,
    namespace: &str,
    entity: &str,
    of_writer: OnOutage,
) -> Dependents {
    Dependents {
        queries: Arc::new(Beside::new(cache, namespace, &NoRow::SPEC, of_writer, None)),
        tag: Tag::of_entity(entity),
    }
}

fn twins(cache: &Arc<cache::Inner>, namespace: &str, spec: &EntitySpec) -> Vec<Twin> {
    let twins = spec.same_table.iter().map(|other| {
        let other = other();
        let on_outage = spec.policy.on_outage;
        let dependents = dependents(cache, namespace, &other, on_outage);
        Twin {
            keys: KeySpace::new(namespace, other.name, &other.policy),
            has_lookups: !other.lookups.is_empty(),
            writer: Tag::of_entity(spec.name),
            target: Arc::new(Beside::new(cache, namespace, &other, on_outage, dependents)),
        }
    });
    twins.collect()
}

/// Returns the entities of the cascades, all that are deleted with their rows, and the other entities over their tables.
fn cascades(cache: &Arc<cache::Inner>, namespace: &str, written: &EntitySpec) -> Vec<Cascaded> {
    let on_outage = written.policy.on_outage;
    let cascaded = |spec: &EntitySpec, tag: Option<TagPattern>| {
        let dependents = dependents(cache, namespace, spec, on_outage);
        let beside = Beside::new(cache, namespace, spec, on_outage, dependents);
        Cascaded {
            target: Arc::new(beside),
            tag,
        }
    };
    let (mut found, mut reached, mut known) = (Vec::new(), Vec::new(), HashSet::new());
    for cascade in written.cascades {
        let spec = (cascade.entity)();
        let tag = cascade.pattern();
        found.push(cascaded(&spec, tag));
        reached.push((spec, tag.and_then(|tag| tag.column())));
    }
    // The column with the id of the deleted row. `None`: the rows are deleted with others, and nothing tells which.
    while let Some((spec, column)) = reached.pop() {
        let same_rows = spec.same_table.iter().map(|other| (other(), column));
        let further = spec.cascades.iter().map(|next| ((next.entity)(), None));
        for (other, column) in same_rows.chain(further) {
            // Entities can name each other, and themselves.
            if known.insert((other.name, column)) {
                let tag = column.and_then(|column| other.tag_of_column(column));
                found.push(cascaded(&other, tag));
                reached.push((other, column));
            }
        }
    }
    found
}
