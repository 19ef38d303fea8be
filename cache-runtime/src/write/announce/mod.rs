//! The announcement of a write: its intent at every key it changes, from before its commit until after it.
//!
//! Every write is announced here: one statement, a batch, or a transaction over several entities. Without the announcement,
//! a reader could store a row that it read before the commit, and the cache would serve it until its time to live ends.
//!
//! 1. [`Announcement::begin`] places the intent at all keys, in one round trip per store.
//! 2. [`Announcement::attempt`] asks the store for entities over the same table that are new, if its last answer is old, and adds
//!    them. It places the intent again, just before a step that may commit, if the intent is old, or was placed on
//!    an earlier connection, whose store may have lost it. Then it runs the step, and renews the intent as long as that
//!    takes.
//! 3. [`Announcement::end`] adds what is new once more, takes the intent back, and stores the cache updates if the write was committed.
//!
//! Invariant: with coherence `intent`, every commit lies between an acknowledged `begin` and its `end`. There is one
//! exception: if the store cannot be reached and the entity is `available`, a repair of the key is recorded before the write
//! returns.
//! Invariant: a write with an unknown outcome keeps its intent until it expires. The statement may still commit after the
//! connection was lost.
//! Not here: the statements (`write`, `transaction`), and the keys that the store did not receive (`repair`).

mod intent;
mod pending;
#[cfg(all(test, feature = "internal-faults"))]
mod tests;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};

use self::intent::Intent;
pub(crate) use self::pending::PendingWrites;
#[cfg(feature = "metrics")]
use crate::observe::timing::Began;
use crate::{
    cache,
    clock::{Deadline, Stopwatch, millis},
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    policy::{Coherence, OnOutage, Policy},
    protocol::{key::Key, tags::Changed, token::Token},
    repair::Repair,
    stats::Counters,
    store::{AnnouncedKey, CacheUpdate, Point, Store, failpoint::Mechanism, tags::TagStore},
    write::target::{Dependents, Twin, WriteTarget},
};

/// The pause before a failed announcement is repeated.
const RETRY: Duration = Duration::from_millis(100);

impl<E: Entity, DB: Backend> WriteTarget for Context<E, DB> {
    fn cache(&self) -> &Arc<cache::Inner> {
        &self.cache
    }

    fn prefix(&self) -> &[u8] {
        self.keys.prefix()
    }

    fn prefixes(&self) -> Vec<Vec<u8>> {
        self.keys.prefixes(Self::HAS_LOOKUPS)
    }

    fn tag_clock(&self) -> Option<&Key> {
        self.groups.clock.as_ref()
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn entity(&self) -> &str {
        E::SPEC.name
    }

    fn dependents(&self) -> Option<&Dependents> {
        self.groups.dependents.as_ref()
    }

    fn family(&self) -> Option<Arc<[Twin]>> {
        self.groups.family.found()
    }

    fn ask_for_family(&self) -> Option<BoxFuture<'_, ()>> {
        (!self.knows_family()).then(|| self.look_for_family().boxed())
    }
}

/// How a write has ended. That of several is the greatest of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WriteEnd {
    /// It changed nothing.
    Undone,
    /// It was committed.
    Committed,
    /// It may have been committed, or may still be.
    Unknown,
}

/// The announcement of one write.
pub(crate) struct Announcement {
    intent: Token,
    parts: Vec<TargetIntent>,
    /// Measures the time since the intent was first placed.
    begun: Stopwatch,
    /// When the intent must be placed again.
    renewal: Deadline,
}

/// The keys of the write in one repository.
struct TargetIntent {
    target: Arc<dyn WriteTarget>,
    keys: Vec<AnnouncedKey>,
    /// Whether any row may have changed.
    all: bool,
    /// What may have changed by its tags.
    tagged: Option<Changed>,
    intent: Intent,
}

impl Announcement {
    /// Returns the announcement of all collected writes. Nothing is sent yet.
    pub(crate) fn new(intent: Token, staging: PendingWrites) -> Self {
        Self {
            intent,
            parts: TargetIntent::of(staging).collect(),
            begun: Stopwatch::start(),
            renewal: Deadline::after(Duration::ZERO),
        }
    }

    /// Returns the announcement of a write of one row: at its own key, at those of its lookups, and at what it changes beside.
    pub(crate) fn of_one(
        intent: Token,
        target: Arc<dyn WriteTarget>,
        key: Key,
        lookups: Vec<Key>,
        beside: PendingWrites,
    ) -> Self {
        let mut announcement = Self::new(intent, beside);
        let own = TargetIntent {
            target,
            keys: std::iter::once(key)
                .chain(lookups)
                .map(|key| AnnouncedKey { key, update: None })
                .collect(),
            all: false,
            tagged: None,
            intent: Intent::NotPlaced,
        };
        announcement.parts.insert(0, own);
        announcement
    }

    /// Sets the cache update of a write of one row ([`Announcement::of_one`]), once it is known.
    pub(crate) fn set_update(&mut self, update: Option<CacheUpdate>) {
        if let Some(TargetIntent { keys, .. }) = self.parts.first_mut()
            && let Some(row) = keys.first_mut()
        {
            row.update = update;
        }
    }

    /// Sets the cache updates of rows, once they are known.
    pub(crate) fn set_updates(&mut self, mut updates: HashMap<Key, CacheUpdate>) {
        let keys = self.parts.iter_mut().flat_map(|part| &mut part.keys);
        for announced in keys {
            if let Some(update) = updates.remove(&announced.key) {
                announced.update = Some(update);
            }
        }
    }

    /// Places the intent at the keys, or prolongs it. A store that fails stops the write only if an entity demands it
    /// ([`Announcement::reject_reason`]).
    pub(crate) async fn begin(&mut self) {
        self.reach(Point::BeforeBegin);
        let lives = self
            .parts
            .iter()
            .map(|part| part.target.policy().intent_ttl);
        let Some(shortest) = lives.min() else { return };
        // Counts from before the commands are sent, which is earlier than the store counts from.
        self.renewal = Deadline::after(shortest / 3);
        let intent = self.intent;
        #[cfg(feature = "metrics")]
        let (began, cache) = (Began::now(), Arc::clone(self.parts[0].target.cache()));
        let placed = match &mut self.parts[..] {
            [only] => only.begin(intent).await,
            parts => {
                let placed = join_all(parts.iter_mut().map(|part| part.begin(intent))).await;
                placed.into_iter().all(|placed| placed)
            }
        };
        #[cfg(feature = "metrics")]
        cache.announcements.add(began);
        if !placed {
            self.renewal = Deadline::after(RETRY);
        }
        self.reach(Point::AfterBegin);
    }

    /// Places the intent unless it was placed before. [`Announcement::attempt`] renews it if it is old.
    pub(crate) async fn begin_once(&mut self) {
        let is_new = |part: &TargetIntent| part.intent == Intent::NotPlaced;
        if self.parts.iter().any(is_new) {
            self.begin().await;
        }
    }

    /// Announces again, just before a step that may commit, if the announcement is old, if the connection was replaced, or
    /// if the write would otherwise be refused.
    async fn confirm(&mut self) {
        let is_more = self.add_family().await;
        let again = |part: &TargetIntent| part.is_lost() || part.refuses();
        if is_more || self.renewal.has_passed() || self.parts.iter().any(again) {
            Box::pin(self.begin()).await;
        }
        self.reach(Point::BeforeCommit);
    }

    /// Adds the entities over the same tables that are not announced yet, because the store has named them since the write was
    /// staged. Returns whether there are any.
    async fn add_family(&mut self) -> bool {
        let parts = self.parts.iter();
        join_all(parts.filter_map(|part| part.target.ask_for_family())).await;
        let mut missing = PendingWrites::default();
        for part in &self.parts {
            for twin in part.target.family().iter().flat_map(|found| &**found) {
                self.add_missing(part, twin, &mut missing);
            }
        }
        if missing.targets.is_empty() {
            return false;
        }
        self.parts.extend(TargetIntent::of(missing));
        true
    }

    /// Collects what a part changes in another entity over its table and is not announced there.
    fn add_missing(&self, part: &TargetIntent, twin: &Twin, missing: &mut PendingWrites) {
        let store = &twin.target.cache().store;
        if store.disables(Mechanism::SameTable) {
            return;
        }
        let there = || {
            let parts = self.parts.iter();
            parts.filter(|there| {
                Arc::ptr_eq(there.target.cache(), twin.target.cache())
                    && there.target.prefix() == twin.target.prefix()
            })
        };
        let own = part.target.prefix();
        for announced in &part.keys {
            let key = &announced.key;
            if key.as_bytes() == own {
                // It stands for any row.
                if !there().any(TargetIntent::is_of_all) {
                    missing.mark_beside(Arc::clone(&twin.target), Changed::All);
                }
            } else if let Some(key) = twin.keys.key_of_same_id(key, own)
                && !there().any(|there| there.keys.iter().any(|known| known.key == key))
            {
                missing.mark_twin(Arc::clone(&twin.target), key, twin.changed());
            }
        }
    }

    /// Fails if an entity is `consistent` and its keys could not be announced. Then the write must not be executed.
    fn reject_reason(&self, verb: &str) -> Result<(), Error> {
        let unannounced = self.parts.iter().find(|part| part.refuses());
        let Some(part) = unannounced else {
            return Ok(());
        };
        let prefix = part.target.prefix();
        let rows = part.keys.iter();
        let rows: Vec<_> = rows
            .filter(|announced| announced.key.as_bytes().starts_with(prefix))
            .collect();
        let described = match &rows[..] {
            [one] => format!("{} with key {}", part.target.entity(), one.key),
            several => format!("{} rows of {}", several.len(), part.target.entity()),
        };
        Err(Error::new(
            ErrorKind::CacheUnavailable,
            format!(
                "failed to {verb} {described}: the store cannot be reached to announce the write, and \
                 `on_outage = \"consistent\"` refuses a write without it; nothing was changed; try again"
            ),
        ))
    }

    /// Runs a step that may commit. Announces again first if needed, and renews the intent as long as the step takes.
    /// Returns the result of the step and the announcement, which the caller must end. Fails if an entity demands an
    /// announcement that is not possible. Then the step was not begun, and the announcement has ended.
    pub(crate) async fn attempt<T>(
        mut self,
        verb: &str,
        step: impl Future<Output = T>,
    ) -> Result<(T, Self), Error> {
        self.confirm().await;
        if let Err(reason) = self.reject_reason(verb) {
            Box::pin(self.end(WriteEnd::Undone)).await;
            return Err(reason);
        }
        let done = self.renew_while(step).await;
        Ok((done, self))
    }

    /// Runs a step of the write, and renews the intent while the step runs.
    async fn renew_while<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = std::pin::pin!(step);
        loop {
            let renewal = self.renewal;
            let note_write = self.parts.iter().any(TargetIntent::is_announced);
            tokio::select! {
                biased;
                done = step.as_mut() => return done,
                // A renewal that is dropped half-way was sent before the end of the write, on the same connection.
                () = async { renewal.passed().await; Box::pin(self.begin()).await; }, if note_write => {}
            }
        }
    }

    /// Takes the intent back. Stores the cache updates if the write was committed.
    pub(crate) async fn end(mut self, ending: WriteEnd) {
        if ending == WriteEnd::Committed {
            self.reach(Point::AfterCommit);
        }
        if ending != WriteEnd::Undone {
            self.add_family().await;
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
        self.parts.clear();
    }

    fn reach(&self, point: Point) {
        for part in &self.parts {
            part.target.cache().store.reach(point);
        }
    }
}

/// An announcement that is dropped before its end: the write may still be committed.
impl Drop for Announcement {
    fn drop(&mut self) {
        for part in &self.parts {
            match part.target.policy().coherence {
                Coherence::Ttl => {}
                Coherence::Lease => {
                    part.remember(Repair::Drop);
                    if part.all {
                        part.target.cache().repairs.remember_all(None);
                    }
                    if part.tagged.is_some() {
                        part.remember_tags();
                    }
                }
                Coherence::Intent if part.intent == Intent::NotPlaced => {}
                Coherence::Intent => part.leave(self.intent),
            }
        }
    }
}

impl TargetIntent {
    /// Returns what is announced in each repository, of all collected writes.
    fn of(staging: PendingWrites) -> impl Iterator<Item = Self> {
        staging.targets.into_iter().map(|staged| Self {
            target: staged.target,
            keys: staged
                .keys
                .into_iter()
                .map(|(key, update)| AnnouncedKey { key, update })
                .collect(),
            all: staged.all,
            tagged: staged.tagged.map(Changed::of_open_write),
            intent: Intent::NotPlaced,
        })
    }

    /// Returns whether the writes of this entity are announced at all.
    fn is_announced(&self) -> bool {
        self.target.policy().coherence == Coherence::Intent
    }

    /// Returns whether any row of the entity counts as changed.
    fn is_of_all(&self) -> bool {
        self.all || matches!(self.tagged, Some(Changed::All))
    }

    /// Returns whether the intent was acknowledged on an earlier connection. Then the store may have lost it.
    fn is_lost(&self) -> bool {
        self.intent
            .is_lost(self.target.cache().store.connection_number())
    }

    /// Returns whether the intent is known to be at its keys.
    fn is_in_place(&self) -> bool {
        let store = &self.target.cache().store;
        self.intent
            .is_in_place(store.connection_number(), store.is_available())
    }

    /// Returns whether the write must not be executed, because its intent is not in place and the entity demands that.
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
        let (at_keys, at_tags) = tokio::join!(
            store.begin(&self.keys, intent, ttl_ms),
            self.begin_tagged(intent, ttl_ms)
        );
        match at_keys.and(at_tags) {
            Ok(()) => {
                self.intent = self.intent.acknowledged(connection, is_first);
                true
            }
            Err(error) => {
                self.intent = self.intent.failed();
                self.target.counters().store_errors.add_one();
                tracing::debug!(entity = self.target.entity(), %error, "failed to announce a write");
                false
            }
        }
    }

    /// Announces the write at its tags.
    async fn begin_tagged(&self, intent: Token, ttl_ms: u64) -> Result<(), StoreError> {
        match (&self.tagged, self.target.tag_clock()) {
            (Some(changed), Some(clock)) => {
                let store = &self.target.cache().store;
                store.begin_tagged(clock, intent, changed, ttl_ms).await
            }
            _ => Ok(()),
        }
    }

    /// Ends the write at its tags.
    async fn end_tagged(&self, intent: Token) -> Result<(), StoreError> {
        match (&self.tagged, self.target.tag_clock()) {
            (Some(changed), Some(clock)) => {
                let store = &self.target.cache().store;
                store.end_tagged(clock, intent, changed).await
            }
            _ => Ok(()),
        }
    }

    /// Records with the repairs that the store is about to be sent these keys.
    fn note(&self) {
        let repairs = &self.target.cache().repairs;
        for announced in &self.keys {
            repairs.note_write(&announced.key);
        }
        if self.tagged.is_some() {
            repairs.note_write_of_all();
        }
    }

    /// Records repairs for the keys.
    fn remember(&self, how: Repair) {
        for announced in &self.keys {
            self.target.cache().repairs.remember(&announced.key, how);
        }
    }

    /// Records a repair for all rows of an entity with tags.
    fn remember_tags(&self) {
        if let Some(clock) = self.target.tag_clock() {
            let repairs = &self.target.cache().repairs;
            repairs.remember(clock, Repair::Advance);
        }
    }

    /// Decides which cache updates are stored. None is stored if the write may have failed, if its intent may have been
    /// missing for a while, if the write took longer than the row's time to live, or if the key has a pending repair.
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
        let coherence = self.target.policy().coherence;
        let at_keys = async {
            match coherence {
                Coherence::Ttl => Ok(()),
                Coherence::Lease if ending == WriteEnd::Undone => Ok(()),
                Coherence::Lease => self.invalidate().await,
                Coherence::Intent => store.end(&self.keys, intent).await,
            }
        };
        let (at_keys, at_tags) = tokio::join!(at_keys, self.end_tagged(intent));
        if at_tags.is_err() {
            self.remember_tags();
        }
        if let Err(error) = at_keys.and(at_tags) {
            self.target.counters().store_errors.add_one();
            tracing::debug!(entity = self.target.entity(), %error, "failed to end the announcement of a write; its keys are dropped later");
            self.remember(Repair::Drop);
        }
        if self.all && ending == WriteEnd::Committed && coherence != Coherence::Ttl {
            self.drop_all().await;
        }
    }

    /// Drops all rows of the repository. If that fails, it is repeated later as a repair.
    async fn drop_all(&self) {
        let cache = self.target.cache();
        if let Err(error) = cache.repairs.drop_all(self.target.prefixes()).await {
            self.target.counters().store_errors.add_one();
            tracing::debug!(entity = self.target.entity(), %error, "failed to drop the rows of an entity; they are dropped later");
            cache.repairs.remember_all(None);
        }
    }

    /// Lets the intent expire, because the statement may still commit.
    fn leave(&self, intent: Token) {
        tracing::warn!(
            entity = self.target.entity(),
            key = self
                .keys
                .first()
                .map(|first| tracing::field::display(&first.key)),
            keys = self.keys.len(),
            "the outcome of a write is unknown; its keys stay uncached until its intent expires"
        );
        if self.all || (self.tagged.is_some() && !self.is_in_place()) {
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
