//! The announcement of a write: its intent on every key it touches, from before its commit until after it.
//!
//! Every write is announced here, whether it is one statement, a batch or a transaction over several entities. Without it
//! a reader could store a row it read before the commit, and serve it for as long as a row lives.
//!
//! 1. [`Announcement::begin`] puts the intent on all keys, in one round trip per store.
//! 2. [`Announcement::attempt`] does it again, just before what may commit, where the first announcement is old or was made
//!    to an earlier run of the store, which may have lost it.
//!    Then it runs the statement or the commit, and renews the intent as long as that takes.
//! 3. [`Announcement::end`] takes the intent back and leaves the cache updates of the write, if it was committed.
//!
//! Invariant: with coherence `intent`, every commit lies between an acknowledged `begin` and its `end`, or, where the store
//! was away and the entity is `available`, the key is remembered for repair before the write returns.
//! Invariant: a write whose outcome is unknown keeps its intent, which then expires by itself: the statement may still
//! commit after the connection broke.
//! Not here: what is written (`write`, `transaction`), and what becomes of keys that could not be reached (`repair`).

mod intent;
mod pending;
#[cfg(all(test, feature = "internal-faults"))]
mod tests;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;

use self::intent::Intent;
pub(crate) use self::pending::PendingWrites;
use crate::{
    cache,
    clock::{Deadline, Stopwatch, millis},
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    policy::{Coherence, OnOutage, Policy},
    protocol::{key::Key, token::Token},
    repair::Repair,
    stats::Counters,
    store::{AnnouncedKey, CacheUpdate, Point, Store},
};

/// How soon an announcement that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What an announcement has to know of a repository, whatever its entity and its database.
pub(crate) trait WriteTarget: Send + Sync {
    fn cache(&self) -> &Arc<cache::Inner>;
    /// What all keys begin with.
    fn prefix(&self) -> &[u8];
    fn policy(&self) -> &Policy;
    fn counters(&self) -> &Counters;
    fn entity(&self) -> &'static str;
}

impl<E: Entity, DB: Backend> WriteTarget for Context<E, DB> {
    fn cache(&self) -> &Arc<cache::Inner> {
        &self.cache
    }

    fn prefix(&self) -> &[u8] {
        self.keys.prefix()
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn entity(&self) -> &'static str {
        E::SPEC.name
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// It was committed.
    Committed,
    /// It certainly changed nothing.
    Undone,
    /// It may have been committed, or may yet be.
    Unknown,
}

/// The announcement of one write.
pub(crate) struct Announcement {
    intent: Token,
    parts: Vec<TargetIntent>,
    /// Since the intent was first placed.
    begun: Stopwatch,
    /// When it has to be placed again.
    renewal: Deadline,
}

/// The keys of one repository.
struct TargetIntent {
    target: Arc<dyn WriteTarget>,
    keys: Vec<AnnouncedKey>,
    /// Whether any row may have changed.
    all: bool,
    intent: Intent,
}

impl Announcement {
    /// The announcement of everything that was staged. Nothing has been sent yet.
    pub(crate) fn new(intent: Token, staging: PendingWrites) -> Self {
        let parts = staging.targets.into_iter().map(|staged| TargetIntent {
            target: staged.target,
            keys: staged
                .keys
                .into_iter()
                .map(|(key, update)| AnnouncedKey { key, update })
                .collect(),
            all: staged.all,
            intent: Intent::NotPlaced,
        });
        Self {
            intent,
            parts: parts.collect(),
            begun: Stopwatch::start(),
            renewal: Deadline::after(Duration::ZERO),
        }
    }

    /// The announcement of a write of one row.
    pub(crate) fn of_one(intent: Token, target: Arc<dyn WriteTarget>, key: Key) -> Self {
        let mut announcement = Self::new(intent, PendingWrites::default());
        announcement.parts.push(TargetIntent {
            target,
            keys: vec![AnnouncedKey { key, update: None }],
            all: false,
            intent: Intent::NotPlaced,
        });
        announcement
    }

    /// Says what the write of one row publishes, once that is known.
    pub(crate) fn publish(&mut self, update: Option<CacheUpdate>) {
        if let [TargetIntent { keys, .. }] = &mut self.parts[..]
            && let [one] = &mut keys[..]
        {
            one.update = update;
        }
    }

    /// Puts the intent on the keys, or prolongs it. A store that fails stops the write only where its entity says so
    /// (see [`Announcement::reject_reason`]).
    pub(crate) async fn begin(&mut self) {
        self.reach(Point::BeforeBegin);
        let lives = self
            .parts
            .iter()
            .map(|part| part.target.policy().intent_ttl);
        let Some(shortest) = lives.min() else { return };
        // Counted from before the commands are sent, so from earlier than the store counts.
        self.renewal = Deadline::after(shortest / 3);
        let intent = self.intent;
        let placed = match &mut self.parts[..] {
            [only] => only.begin(intent).await,
            parts => {
                let placed = join_all(parts.iter_mut().map(|part| part.begin(intent))).await;
                placed.into_iter().all(|placed| placed)
            }
        };
        if !placed {
            self.renewal = Deadline::after(RETRY);
        }
        self.reach(Point::AfterBegin);
    }

    /// Announces again, just before what may commit, if the announcement is old, if its store was replaced, or if the write
    /// would be refused.
    async fn confirm(&mut self) {
        let again = |part: &TargetIntent| part.is_lost() || part.refuses();
        if self.renewal.has_passed() || self.parts.iter().any(again) {
            self.begin().await;
        }
        self.reach(Point::BeforeCommit);
    }

    /// The error of a write that must not be made, because an entity that is `consistent` could not announce it.
    fn reject_reason(&self, verb: &str) -> Result<(), Error> {
        let unannounced = self.parts.iter().find(|part| part.refuses());
        let Some(part) = unannounced else {
            return Ok(());
        };
        let described = match &part.keys[..] {
            [one] => format!("{} with key {}", part.target.entity(), one.key),
            several => format!("{} rows of {}", several.len(), part.target.entity()),
        };
        Err(Error::new(
            ErrorKind::CacheUnavailable,
            format!(
                "failed to {verb} {described}: the cache cannot be told, and `on_outage = \"consistent\"` refuses such a write; \
                 nothing was changed"
            ),
        ))
    }

    /// Runs what may commit: announces again if need be, refuses if an entity demands an announcement that could not be made,
    /// and renews the intent as long as the step takes. What the step returns, and the announcement, which is still to be
    /// ended; if the write is refused, the step was not begun and the announcement has ended.
    pub(crate) async fn attempt<T>(
        mut self,
        verb: &str,
        step: impl Future<Output = T>,
    ) -> Result<(T, Self), Error> {
        self.confirm().await;
        if let Err(reason) = self.reject_reason(verb) {
            self.end(WriteEnd::Undone).await;
            return Err(reason);
        }
        let done = self.renew_while(step).await;
        Ok((done, self))
    }

    /// Runs a step of the write, renewing the intent as long as it takes. The step goes on meanwhile.
    async fn renew_while<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = std::pin::pin!(step);
        loop {
            let renewal = self.renewal;
            let note_write = self.parts.iter().any(TargetIntent::is_announced);
            tokio::select! {
                biased;
                done = step.as_mut() => return done,
                // A renewal that is dropped half-way was sent before the end of the write, on the same connection.
                () = async { renewal.passed().await; self.begin().await; }, if note_write => {}
            }
        }
    }

    /// Takes the intent back, and leaves behind what is published if the write was committed.
    pub(crate) async fn end(mut self, ending: WriteEnd) {
        if ending == WriteEnd::Committed {
            self.reach(Point::AfterCommit);
        }
        let (intent, age_ms) = (self.intent, millis(self.begun.elapsed()));
        for part in &mut self.parts {
            part.decide_updates(ending, age_ms);
        }
        self.reach(Point::BeforeEnd);
        match &self.parts[..] {
            [only] => only.end(intent, ending).await,
            parts => {
                join_all(parts.iter().map(|part| part.end(intent, ending))).await;
            }
        }
        self.reach(Point::AfterEnd);
    }

    fn reach(&self, point: Point) {
        for part in &self.parts {
            part.target.cache().store.reach(point);
        }
    }
}

impl TargetIntent {
    /// Whether the writes of this entity are announced at all.
    fn is_announced(&self) -> bool {
        self.target.policy().coherence == Coherence::Intent
    }

    /// Whether the store that acknowledged the intent has been replaced, or the connection to it made anew.
    fn is_lost(&self) -> bool {
        self.intent
            .is_lost(self.target.cache().store.connection_number())
    }

    /// Whether the intent is known to be at its keys.
    fn is_in_place(&self) -> bool {
        let store = &self.target.cache().store;
        self.intent
            .is_in_place(store.connection_number(), store.is_available())
    }

    /// Whether the intent has to be in place for the write to be made, and is not.
    fn refuses(&self) -> bool {
        self.is_announced()
            && self.target.policy().on_outage == OnOutage::Consistent
            && !self.is_in_place()
    }

    async fn begin(&mut self, intent: Token) -> bool {
        if !self.is_announced() {
            return true;
        }
        let store = &self.target.cache().store;
        self.note();
        let is_first = self.intent == Intent::NotPlaced;
        let connection = store.connection_number();
        self.intent = self.intent.sending(store.history());
        let ttl_ms = millis(self.target.policy().intent_ttl);
        match store.begin(&self.keys, intent, ttl_ms).await {
            Ok(()) => {
                self.intent = self.intent.acknowledged(connection, is_first);
                true
            }
            Err(error) => {
                self.intent = self.intent.failed();
                self.target.counters().store_errors.add_one();
                tracing::debug!(entity = self.target.entity(), %error, "a write could not be announced");
                false
            }
        }
    }

    /// Notes with the repairs that the store is about to be told about the keys.
    fn note(&self) {
        for announced in &self.keys {
            self.target.cache().repairs.note_write(&announced.key);
        }
    }

    /// Remembers the keys for repair.
    fn remember(&self, how: Repair) {
        for announced in &self.keys {
            self.target.cache().repairs.remember(&announced.key, how);
        }
    }

    /// Decides what is left in the cache: nothing by a write that may not have been made, whose intent may not have been there
    /// all the while, that took longer than a row lives, or at a key to which an earlier write may yet do something.
    fn decide_updates(&mut self, ending: WriteEnd, age_ms: u64) {
        let repairs = &self.target.cache().repairs;
        for announced in &mut self.keys {
            let is_open = ending == WriteEnd::Committed && !repairs.blocks(&announced.key);
            let update = announced.update.take().filter(|update| {
                is_open
                    && self
                        .intent
                        .covers(update.fill.meta().lease.identity.history)
            });
            announced.update = update.and_then(|update| update.aged(age_ms));
        }
    }

    /// Ends the write at the keys of one repository.
    async fn end(&self, intent: Token, ending: WriteEnd) {
        if ending == WriteEnd::Unknown && self.is_announced() {
            return self.leave(intent);
        }
        let store = &self.target.cache().store;
        self.note();
        let result = match self.target.policy().coherence {
            Coherence::Ttl => return,
            Coherence::Lease if ending == WriteEnd::Undone => return,
            Coherence::Lease => self.invalidate().await,
            Coherence::Intent => store.end(&self.keys, intent).await,
        };
        if let Err(error) = result {
            self.target.counters().store_errors.add_one();
            tracing::debug!(entity = self.target.entity(), %error, "the end of a write could not be told");
            self.remember(Repair::Drop);
        }
        if self.all && ending == WriteEnd::Committed {
            self.drop_all().await;
        }
    }

    /// Drops every row of the repository. Those that cannot be dropped are repaired later.
    async fn drop_all(&self) {
        let cache = self.target.cache();
        let prefix = self.target.prefix().to_vec();
        if let Err(error) = cache.repairs.drop_all([prefix]).await {
            self.target.counters().store_errors.add_one();
            tracing::debug!(entity = self.target.entity(), %error, "the rows of an entity could not be dropped");
            cache.repairs.remember_all(None);
        }
    }

    /// Leaves the intent to expire: the statement may still commit.
    fn leave(&self, intent: Token) {
        tracing::warn!(
            entity = self.target.entity(),
            keys = self.keys.len(),
            "the outcome of a write is unknown; its keys stay uncached for a while"
        );
        if self.all {
            let ended = Deadline::after(self.target.policy().intent_ttl);
            self.target.cache().repairs.remember_all(Some(ended));
        }
        if !self.is_in_place() {
            self.remember(Repair::Announce {
                intent,
                intent_ttl_ms: millis(self.target.policy().intent_ttl),
            });
        }
    }

    async fn invalidate(&self) -> Result<(), StoreError> {
        let store = &self.target.cache().store;
        let keys = self.keys.iter();
        let dropped = keys.map(|announced| store.invalidate(&announced.key));
        join_all(dropped).await.into_iter().collect()
    }
}
