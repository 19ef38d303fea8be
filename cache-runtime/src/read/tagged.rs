//! What the clock of an entity's tags says about the entries that a read has found, and about a load.
//!
//! 1. A read of entries reads the clock with them ([`Context::look`]), so that it takes no further round trip.
//! 2. If the clock has moved since an entry was loaded, the marks of the entry's own tags are read and compared. If none is
//!    later, the entry gets a new stamp in the background, so that the next read need not compare.
//! 3. A load takes its stamp with its lease, before it reads the database ([`Context::clock_of_load`]).
//! 4. A caller that has joined a load shares its result only if the clock has not moved since ([`Context::is_undisturbed`]): it
//!    may have joined after an invalidation of a tag had returned.
//!
//! 5. While a write of many rows is open, what it may change is read from the database, and not filled. If it stays open, its process
//!    may have died: from time to time a reader asks the store to forget the writes whose time is over.
//!
//! The tags of a row are known from the row. Those of an absence or a list are not: any invalidation may concern it, so it is
//! served only while the clock stands. Of an entity that stands for a query, all entries have the same tags, which say what it reads.
//!
//! Invariant: without a reading of the clock, no entry of an entity with tags is served or filled.
//! Not here: the rules (`protocol/tags`), and the invalidation itself (`write/invalidate`).

use std::{sync::Arc, time::Duration};

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    detached,
    error::StoreError,
    protocol::{
        key::Key,
        state::Meta,
        tags::{self, Reading, Stamp, Tags, Verdict},
        token::Token,
    },
    read::content::Content,
    store::{Found, Representation, Store, failpoint::Mechanism, tags::TagStore},
};

/// How often the store is asked to forget open writes.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);

/// What was read of a clock, beside entries.
#[derive(Clone)]
pub(crate) enum Clock {
    /// The entity has no tags.
    None,
    /// The reading, if the store has the clock.
    Read(Result<Option<Reading>, StoreError>),
}

impl Clock {
    /// Returns whether an answer of the store needs no further look: there is no entry, or nothing was invalidated since it was
    /// loaded.
    #[inline]
    pub(crate) fn settles(&self, answer: &Result<Found, StoreError>) -> bool {
        match (self, answer) {
            (Self::None, _) => true,
            (Self::Read(reading), Ok(Found::Value(meta, _) | Found::Negative(meta))) => {
                let Ok(Some(reading)) = reading else {
                    return false;
                };
                reading.open.is_empty()
                    && tags::judge(meta.stamp, Some(reading)) == Verdict::Current
            }
            (Self::Read(_), _) => true,
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Reads a key, and the clock with it.
    #[inline]
    pub(crate) async fn look(
        &self,
        key: &Key,
        fingerprint: u32,
    ) -> (Result<Found, StoreError>, Clock) {
        let store = &self.cache.store;
        let found = store.get(key, fingerprint, self.codec.number());
        match &self.groups.clock {
            None => return (found.await, Clock::None),
            // Nothing is sent, so nothing need be sent together.
            Some(clock) if store.keeps() == Representation::Rows => {
                return (found.await, Clock::Read(store.read_clock(clock).await));
            }
            Some(_) => {}
        }
        let (mut found, clock) = Box::pin(self.look_at_many(&[key], fingerprint)).await;
        let no_answer = || Err(StoreError::new("the store has not answered"));
        (found.pop().unwrap_or_else(no_answer), clock)
    }

    /// Reads several keys, and the clock with them.
    pub(crate) async fn look_at_many(
        &self,
        keys: &[&Key],
        fingerprint: u32,
    ) -> (Vec<Result<Found, StoreError>>, Clock) {
        let (store, codec) = (&self.cache.store, self.codec.number());
        match &self.groups.clock {
            None => (store.get_many(keys, fingerprint, codec).await, Clock::None),
            Some(clock) => {
                let (found, reading) = store.get_many_tagged(keys, fingerprint, codec, clock).await;
                (found, Clock::Read(reading))
            }
        }
    }

    /// Runs an operation of the store, and reads the clock at the same time.
    #[inline]
    pub(crate) async fn with_clock<T>(&self, operation: impl Future<Output = T>) -> (T, Clock) {
        match &self.groups.clock {
            None => (operation.await, Clock::None),
            Some(clock) => {
                let (answer, reading) = tokio::join!(operation, self.cache.store.read_clock(clock));
                (answer, Clock::Read(reading))
            }
        }
    }

    /// Replaces an entry by [`Found::Outdated`] if it must not be served any more.
    pub(crate) async fn check_tags<C: Content<E, DB>>(
        &self,
        key: &Key,
        answer: Result<Found, StoreError>,
        clock: &Clock,
    ) -> Result<Found, StoreError> {
        let Clock::Read(reading) = clock else {
            return answer;
        };
        let found = answer?;
        let (Found::Value(meta, _) | Found::Negative(meta)) = &found else {
            return Ok(found);
        };
        let (store, meta) = (&self.cache.store, *meta);
        if store.disables(Mechanism::TagClock) {
            return Ok(found);
        }
        let reading = self.judged(reading.clone()?, meta);
        if let Some(reading) = reading.as_ref().filter(|reading| !reading.open.is_empty()) {
            let value = match &found {
                Found::Value(_, payload) => C::decode(self, key, payload.clone()),
                _ => None,
            };
            if self.is_open::<C>(value.as_deref(), reading) {
                return Ok(Found::Writing);
            }
        }
        let verdict = match tags::judge(meta.stamp, reading.as_ref()) {
            Verdict::Unclear => self.compare::<C>(key, &found, meta).await?,
            verdict => verdict,
        };
        if verdict == Verdict::Current {
            return Ok(found);
        }
        self.counters.outdated_entries.add_one();
        Ok(Found::Outdated(meta.lease.token))
    }

    /// Compares the marks of an entry's own tags with its stamp.
    async fn compare<C: Content<E, DB>>(
        &self,
        key: &Key,
        found: &Found,
        meta: Meta,
    ) -> Result<Verdict, StoreError> {
        let Some(clock) = &self.groups.clock else {
            return Ok(Verdict::Outdated);
        };
        let value = match found {
            Found::Value(_, payload) => match C::decode(self, key, payload.clone()) {
                // Reported by whoever decodes it next.
                None => return Ok(Verdict::Current),
                value => value,
            },
            _ => None,
        };
        let Some(own) = self.tags_of::<C>(value.as_deref()) else {
            return Ok(Verdict::Outdated);
        };
        let marks = self.cache.store.read_marks(clock, own.as_slice()).await?;
        let (reading, marks) = marks.map_or((None, Vec::new()), |(reading, marks)| {
            (self.judged(Some(reading), meta), marks)
        });
        let verdict = tags::judge_marks(meta.stamp, reading.as_ref(), &marks);
        if let (Verdict::Current, Some(reading)) = (verdict, reading) {
            self.restamp(key, meta.lease.token, reading.now);
        }
        Ok(verdict)
    }

    /// Returns the tags of a value, or of its absence, if they are known.
    fn tags_of<C: Content<E, DB>>(&self, value: Option<&C::Value>) -> Option<Tags> {
        let own = value.and_then(C::tags);
        let Some(common) = &self.groups.common else {
            return own;
        };
        let mut tags = own.unwrap_or_default();
        for tag in common.as_slice() {
            tags.push(*tag);
        }
        Some(tags)
    }

    /// Returns a reading as an entry is judged by it: without what a test leaves out.
    fn judged(&self, reading: Option<Reading>, meta: Meta) -> Option<Reading> {
        let mut reading = reading?;
        let store = &self.cache.store;
        if store.disables(Mechanism::TagFloor) {
            reading.floor = 0;
        }
        if let Some(stamp) = meta
            .stamp
            .filter(|_| store.disables(Mechanism::TagIncarnation))
        {
            reading.now.incarnation = stamp.incarnation;
        }
        Some(reading)
    }

    fn restamp(&self, key: &Key, token: Token, stamp: Stamp) {
        let (cache, key) = (Arc::clone(&self.cache), key.clone());
        let restamp = async move {
            // Without it, the next read compares again.
            let _done = cache.store.restamp(&key, token, stamp).await;
        };
        detached::spawn(restamp);
    }

    /// Returns whether an open write of many rows may change a value, or its absence.
    pub(crate) fn is_open<C: Content<E, DB>>(
        &self,
        value: Option<&C::Value>,
        reading: &Reading,
    ) -> bool {
        if reading.open.is_empty() {
            return false;
        }
        let own = self.tags_of::<C>(value);
        let is_open = reading.is_open(own.as_ref().map(Tags::as_slice));
        if is_open && self.expiries.is_due(EXPIRE_EVERY) {
            let (cache, clock) = (Arc::clone(&self.cache), self.groups.clock.clone());
            let expire = async move {
                if let Some(clock) = clock {
                    // Without it, a later reader asks again.
                    let _done = cache.store.expire_tagged(&clock).await;
                }
            };
            detached::spawn(expire);
        }
        is_open
    }

    /// Returns the clock when a load begins, under a lease of this history of the store.
    pub(crate) async fn clock_of_load(
        &self,
        clock: &Clock,
        history: u64,
    ) -> Result<Option<Reading>, StoreError> {
        let (Clock::Read(reading), Some(key)) = (clock, &self.groups.clock) else {
            return Ok(None);
        };
        let reading = match reading.clone()? {
            Some(reading) => reading,
            None => self.cache.store.start_clock(key).await?,
        };
        *self.last_stamp() = Some((history, reading.now));
        Ok(Some(reading))
    }

    /// Returns the stamp of the entry of a load, which has the one of its beginning.
    pub(crate) async fn stamp_of_entry(&self, of_load: Option<Stamp>) -> Option<Stamp> {
        match self.late_stamp().await {
            None => of_load,
            Some((_, late)) => late,
        }
    }

    /// Returns the stamp of a row that is written through, which has one from before its statement.
    pub(crate) async fn stamp_of_write(
        &self,
        before: Option<(u64, Stamp)>,
    ) -> Option<(u64, Stamp)> {
        match self.late_stamp().await {
            None => before,
            Some((history, late)) => late.map(|late| (history, late)),
        }
    }

    /// Returns the present time of the clock and the history of the store, if a test leaves out that a stamp is from before.
    async fn late_stamp(&self) -> Option<(u64, Option<Stamp>)> {
        if !self.cache.store.disables(Mechanism::TagStamp) {
            return None;
        }
        let history = self.cache.store.history();
        let ((), clock) = self.with_clock(async {}).await;
        let reading = self.clock_of_load(&clock, history).await.ok().flatten();
        Some((history, reading.map(|reading| reading.now)))
    }

    /// Returns whether no tag was invalidated since a load began.
    pub(crate) fn is_undisturbed(&self, stamp: Option<Stamp>, clock: &Clock) -> bool {
        match clock {
            Clock::None => true,
            _ if self.cache.store.disables(Mechanism::TagFlight) => true,
            Clock::Read(Ok(Some(reading))) => Some(reading.now) == stamp,
            Clock::Read(_) => false,
        }
    }
}
