//! What a write is announced at: the keys and the clock of one entity.
//!
//! A repository is one. So is an entity that a write changes without a repository of it ([`Beside`]): rows that the database
//! deletes with their parent, cached queries that depend on the rows, and other entities over the table ([`Twin`]).
//!
//! Not here: the announcement (`announce`).

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    cache,
    database::entity::EntitySpec,
    policy::{Coherence, OnOutage, Policy},
    protocol::{
        family::Shape,
        key::{Key, KeySpace},
        tags::{Changed, Tag},
    },
    stats::Counters,
    store::{Store, failpoint::Mechanism},
};

/// What an announcement needs of a repository, of any entity and database.
pub(crate) trait WriteTarget: Send + Sync {
    fn cache(&self) -> &Arc<cache::Inner>;
    /// Returns what the keys of all rows begin with.
    fn prefix(&self) -> &[u8];
    /// Returns what the keys of all rows and of all lookups begin with.
    fn prefixes(&self) -> Vec<Vec<u8>>;
    /// Returns the key of the clock of the tags, for an entity with tags.
    fn tag_clock(&self) -> Option<&Key>;
    fn policy(&self) -> &Policy;
    fn counters(&self) -> &Counters;
    fn entity(&self) -> &str;
    /// Returns the cached queries that depend on the rows, if there can be any.
    fn dependents(&self) -> Option<&Dependents>;

    /// Returns the entities over the same table that the store has named. Writes are announced at them too.
    fn family(&self) -> Option<Arc<[Twin]>> {
        None
    }

    /// Asks the store for them, if the last answer is too old.
    fn ask_for_family(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }
}

/// Another entity over the same table.
#[derive(Clone)]
pub(crate) struct Twin {
    pub(crate) target: Arc<dyn WriteTarget>,
    pub(crate) keys: KeySpace,
    pub(crate) has_lookups: bool,
    /// The tag of the written entity, which is announced at the clock of one that has lookups.
    pub(crate) writer: Tag,
}

impl Twin {
    /// Returns what a write of a row changes at the clock of this entity.
    pub(crate) fn changed(&self) -> Option<Changed> {
        let is_told = self.has_lookups && self.target.tag_clock().is_some();
        is_told.then(|| Changed::Tags(vec![self.writer]))
    }
}

/// The cached queries that depend on the rows of an entity.
pub(crate) struct Dependents {
    /// All cached queries of the namespace.
    pub(crate) queries: Arc<dyn WriteTarget>,
    /// The tag of those that depend on this entity.
    pub(crate) tag: Tag,
}

/// An entity that a write changes without a repository of it.
pub(crate) struct Beside {
    cache: Arc<cache::Inner>,
    keys: KeySpace,
    has_lookups: bool,
    clock: Option<Key>,
    policy: Policy,
    counters: Counters,
    entity: Cow<'static, str>,
    dependents: Option<Dependents>,
}

impl Beside {
    /// Returns an entity of a cache. `namespace`: that of entities without one of their own. A write of an entity that is
    /// `consistent` is refused if it cannot be announced, wherever that is.
    pub(crate) fn new(
        cache: &Arc<cache::Inner>,
        namespace: &str,
        spec: &EntitySpec,
        of_writer: OnOutage,
        dependents: Option<Dependents>,
    ) -> Self {
        let keys = KeySpace::new(namespace, spec.name, &spec.policy);
        let on_outage = match cache.store.disables(Mechanism::StrictBeside) {
            true => spec.policy.on_outage,
            false => of_writer,
        };
        Self {
            clock: (!spec.tags.is_empty()).then(|| keys.clock_key()),
            cache: Arc::clone(cache),
            keys,
            has_lookups: !spec.lookups.is_empty(),
            policy: Policy {
                intent_ttl: cache.intent_ttl.unwrap_or(spec.policy.intent_ttl),
                on_outage,
                ..spec.policy.clone()
            },
            counters: Counters::default(),
            entity: Cow::Borrowed(spec.name),
            dependents,
        }
    }

    /// Returns an entity that is not compiled into this program, as the store has recorded it.
    pub(crate) fn recorded(
        cache: &Arc<cache::Inner>,
        shape: &Shape,
        of_writer: OnOutage,
        dependents: Option<Dependents>,
    ) -> Self {
        let keys = KeySpace::of_prefix(&shape.prefix);
        let recorded = Duration::from_millis(shape.intent_ttl_ms);
        Self {
            clock: shape.tags.then(|| keys.clock_key()),
            cache: Arc::clone(cache),
            keys,
            has_lookups: shape.lookups,
            policy: Policy {
                intent_ttl: cache.intent_ttl.unwrap_or(recorded),
                on_outage: of_writer,
                coherence: match &*shape.coherence {
                    "ttl" => Coherence::Ttl,
                    "lease" => Coherence::Lease,
                    _ => Coherence::Intent,
                },
                ..Policy::DEFAULT
            },
            counters: Counters::default(),
            entity: Cow::Owned(shape.entity.clone()),
            dependents,
        }
    }
}

impl WriteTarget for Beside {
    fn cache(&self) -> &Arc<cache::Inner> {
        &self.cache
    }

    fn prefix(&self) -> &[u8] {
        self.keys.prefix()
    }

    fn prefixes(&self) -> Vec<Vec<u8>> {
        self.keys.prefixes(self.has_lookups)
    }

    fn tag_clock(&self) -> Option<&Key> {
        self.clock.as_ref()
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn entity(&self) -> &str {
        &self.entity
    }

    fn dependents(&self) -> Option<&Dependents> {
        self.dependents.as_ref()
    }
}
