//! What a write is announced at: the keys and the clock of one entity.
//!
//! A repository is one. So is an entity that a write changes without a repository of it ([`Beside`]): rows that the database
//! deletes with their parent, and cached queries that depend on the rows.
//!
//! Not here: the announcement (`announce`).

use std::sync::Arc;

use crate::{
    cache,
    database::entity::EntitySpec,
    policy::{OnOutage, Policy},
    protocol::{
        key::{Key, KeySpace},
        tags::Tag,
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
    fn entity(&self) -> &'static str;
    /// Returns the cached queries that depend on the rows, if there can be any.
    fn dependents(&self) -> Option<&Dependents>;
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
    entity: &'static str,
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
            entity: spec.name,
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

    fn entity(&self) -> &'static str {
        self.entity
    }

    fn dependents(&self) -> Option<&Dependents> {
        self.dependents.as_ref()
    }
}
