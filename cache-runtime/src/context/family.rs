//! The other entities over the table of a repository, as the store has named them, and what follows for the repository.
//!
//! 1. Each claim of the binding returns the family of the table (`protocol/family`).
//! 2. Writes are announced at its members as at those of `same_table` (`groups`). Their keys follow from the recorded prefix and
//!    the written form of the id.
//! 3. A repository whose entity cannot be known to all writers, or cannot be told by them, neither serves nor fills.
//!
//! A member that was found once stays, until the namespace is rebound: its record may be lost while its entries are not. What the
//! store says is bounded: no more than [`MOST_MEMBERS`] are taken, and as many are logged.
//! Not here: when the store is asked (`binding/bind`), and members that are found while a write is under way
//! (`write/announce`).

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    cache,
    clock::{micros, millis},
    context::groups::dependents_of,
    database::entity::EntitySpec,
    policy::{Coherence, OnOutage, Policy, Strategy},
    printed::Printed,
    protocol::{
        family::{self, Hold, MOST_MEMBERS, Recorded, Shape},
        key::KeySpace,
        tags::Tag,
    },
    store::{Store, failpoint::Mechanism},
    write::target::{Beside, Twin},
};

/// The family as one repository knows it.
pub(crate) struct FamilyView {
    own: Shape,
    /// What the store records. Empty for an entity that stands for a query.
    text: String,
    table: &'static str,
    namespace: String,
    on_outage: OnOutage,
    is_found: AtomicBool,
    found: RwLock<Arc<[Twin]>>,
    /// The time, in microseconds of the cache's clock, until which nothing is served or filled. Zero: no time.
    held_until: AtomicU64,
    /// The entities of this process that were logged when the repository was created, and what was logged since.
    logged: Mutex<HashSet<String>>,
    /// Whether rows were written while the store could not name the members.
    has_missed: AtomicBool,
}

impl FamilyView {
    /// Returns the view of a repository that is being created. `id`: the form of its ids.
    pub(crate) fn new(
        namespace: &str,
        spec: &EntitySpec,
        policy: &Policy,
        keys: &KeySpace,
        id: String,
    ) -> Self {
        let names = spec.same_table.iter().map(|other| other().name.to_owned());
        let own = Shape {
            entity: spec.name.to_owned(),
            prefix: String::from_utf8_lossy(keys.prefix()).into_owned(),
            id,
            tags: !spec.tags.is_empty(),
            lookups: !spec.lookups.is_empty(),
            queries: spec.queries,
            read_only: spec.read_only,
            queued: policy.strategy == Strategy::WriteBehind,
            coherence: match policy.coherence {
                Coherence::Ttl => "ttl",
                Coherence::Lease => "lease",
                Coherence::Intent => "intent",
            }
            .to_owned(),
            intent_ttl_ms: millis(policy.intent_ttl),
            names: names.collect(),
        };
        Self {
            text: match spec.is_query {
                true => String::new(),
                false => own.encode(),
            },
            own,
            table: spec.table,
            namespace: namespace.to_owned(),
            on_outage: policy.on_outage,
            is_found: AtomicBool::new(false),
            found: RwLock::new(Arc::new([])),
            held_until: AtomicU64::new(0),
            logged: Mutex::default(),
            has_missed: AtomicBool::new(false),
        }
    }

    /// Returns what the store records of the entity. Empty: nothing.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether the entity is recorded, as the answer to a claim says.
    pub(crate) fn is_recorded(&self, answer: &family::Family) -> bool {
        self.text.is_empty() || answer.own_age_ms.is_some()
    }

    /// Returns the members that no `same_table` names, if there are any.
    #[inline]
    pub(crate) fn found(&self) -> Option<Arc<[Twin]>> {
        let is_found = self.is_found.load(Ordering::Acquire);
        is_found.then(|| Arc::clone(&self.found.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Returns the time until which nothing is served or filled, in microseconds of the cache's clock.
    #[inline]
    pub(crate) fn held_until(&self) -> u64 {
        self.held_until.load(Ordering::Acquire)
    }

    /// Records that rows were written while the store could not be asked.
    pub(crate) fn note_missed(&self) {
        self.has_missed.store(true, Ordering::Relaxed);
    }

    /// Records that an entity was logged.
    pub(crate) fn note_logged(&self, other: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.insert(other.to_owned());
    }

    /// Forgets what was found, because the namespace was bound again.
    pub(crate) fn forget(&self) {
        self.is_found.store(false, Ordering::Release);
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        *found = Arc::new([]);
    }

    /// Takes an answer of the store. `asked_at_us`: when it was asked.
    pub(crate) fn learn(
        &self,
        cache: &Arc<cache::Inner>,
        answer: &family::Family,
        asked_at_us: u64,
    ) {
        if self.text.is_empty() || cache.store.disables(Mechanism::Family) {
            return;
        }
        let others = answer.others.iter().filter_map(|other| {
            let shape = Shape::decode(&other.shape)?;
            // The same keys: another version of the same entity.
            let is_other = shape.prefix != self.own.prefix && shape.is_of(&self.namespace);
            is_other.then_some(Recorded {
                shape,
                age_ms: other.age_ms,
                idle_ms: other.idle_ms,
            })
        });
        let mut others: Vec<_> = others.collect();
        self.hold(cache, answer, &others, asked_at_us);
        others.truncate(MOST_MEMBERS);
        if others.is_empty() {
            return;
        }
        let is_any_new = self.add(cache, &others);
        if self.has_missed.swap(false, Ordering::Relaxed) && is_any_new {
            // They may have rows from before those writes.
            cache.repairs.remember_all(None);
        }
        for Recorded { shape, .. } in &others {
            let misses = |writer: &Shape, other: &Shape| !writer.read_only && !writer.names(other);
            if misses(&self.own, shape) || misses(shape, &self.own) {
                self.log_once(&shape.entity, || {
                    tracing::warn!(
                        entity = self.own.entity,
                        other = %Printed::short(&shape.entity),
                        table = self.table,
                        "two entities have the same table and do not name each other; the store knows both, so the writes of each are \
                         announced to the other; name the other one in the attribute of each entity that is written, so that this \
                         does not depend on the store: `#[cached(same_table(..))]`"
                    );
                });
            }
        }
    }

    /// Adds members that are not known yet. Returns whether there are any.
    fn add(&self, cache: &Arc<cache::Inner>, others: &[Recorded<Shape>]) -> bool {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        let mut twins = found.to_vec();
        let mut is_any_new = false;
        for Recorded { shape, .. } in others {
            if self.own.names(shape) || !shape.has_keys_of(&self.own) {
                continue;
            }
            let prefix = shape.prefix.as_bytes();
            let known = twins.iter().position(|twin| twin.target.prefix() == prefix);
            let mut merged = shape.clone();
            if let Some(known) = known {
                // Another version of it. What is announced must be enough for both.
                let twin = &twins[known];
                let (tags, queries) = (
                    twin.target.tag_clock().is_some(),
                    twin.target.dependents().is_some(),
                );
                let is_more = (shape.tags && !tags)
                    || (shape.lookups && !twin.has_lookups)
                    || (shape.queries && !queries);
                if !is_more {
                    continue;
                }
                merged.tags |= tags;
                merged.lookups |= twin.has_lookups;
                merged.queries |= queries;
                twins.swap_remove(known);
            }
            if twins.len() >= MOST_MEMBERS {
                break;
            }
            is_any_new = true;
            twins.push(self.twin(cache, &merged));
        }
        if is_any_new {
            *found = twins.into();
            self.is_found.store(true, Ordering::Release);
        }
        is_any_new
    }

    fn twin(&self, cache: &Arc<cache::Inner>, shape: &Shape) -> Twin {
        let dependents = || dependents_of(cache, &self.namespace, &shape.entity, self.on_outage);
        let dependents = shape.queries.then(dependents);
        let target = Beside::recorded(cache, shape, self.on_outage, dependents);
        let twin = Twin {
            keys: KeySpace::of_prefix(&shape.prefix),
            has_lookups: shape.lookups,
            writer: Tag::of_entity(&self.own.entity),
            target: Arc::new(target),
        };
        for prefix in twin.target.prefixes() {
            cache.repairs.register(&prefix);
        }
        twin
    }

    /// Decides until when nothing is served or filled.
    fn hold(
        &self,
        cache: &Arc<cache::Inner>,
        answer: &family::Family,
        others: &[Recorded<Shape>],
        asked_at_us: u64,
    ) {
        if cache.store.disables(Mechanism::FamilyHold) {
            return;
        }
        let until = match self.own.hold(answer.own_age_ms.unwrap_or(0), others) {
            Hold::None => 0,
            // The store tells all writers at once.
            Hold::For(..) if cache.store.family_changes().is_some() => 0,
            Hold::For(left, other) => {
                self.log_once(&format!("{} waits", other.entity), || {
                    tracing::warn!(
                        entity = self.own.entity,
                        other = %Printed::short(&other.entity),
                        table = self.table,
                        wait_ms = millis(left),
                        "the entity is new beside another one over its table, which does not name it: until all programs that write the \
                         other one know of it, its rows are read from the database; `#[cached(same_table(..))]` of both entities \
                         avoids the wait"
                    );
                });
                asked_at_us.saturating_add(micros(left))
            }
            Hold::Crowded => {
                self.log_once("crowded", || {
                    tracing::warn!(
                        entity = self.own.entity,
                        table = self.table,
                        "the rows of the entity are not cached, because the store names more than {MOST_MEMBERS} other entities over \
                         its table; if the programs do not have as many, call `Cache::rebind` for the namespace, which forgets them"
                    );
                });
                u64::MAX
            }
            Hold::Always(other) => {
                self.log_once(&format!("{} is held", other.entity), || {
                    tracing::warn!(
                        entity = self.own.entity,
                        other = %Printed::short(&other.entity),
                        table = self.table,
                        "the rows of the entity are not cached, because the writes of another one over its table cannot be announced to \
                         it: the ids differ, the writes are queued, or it has `unique` or `index` and no `tags`; give both the same \
                         id, and this one a tag such as `tags(\"rows\")`; or allow rows to be old until their time to live ends \
                         with `coherence = \"ttl\"`"
                    );
                });
                u64::MAX
            }
        };
        self.held_until.store(until, Ordering::Release);
    }

    fn log_once(&self, what: &str, log: impl FnOnce()) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MOST_MEMBERS && logged.insert(what.to_owned()) {
            drop(logged);
            log();
        }
    }
}
