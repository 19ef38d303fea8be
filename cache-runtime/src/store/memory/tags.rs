//! The clocks of tags in the in-process store.
//!
//! Invariant: a clock is never dropped, so it needs no incarnation of its own.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use super::MemoryStore;
use crate::{
    error::StoreError,
    protocol::{
        key::Key,
        state,
        tags::{Changed, MAX_MARKS, OpenWrite, Reading, Stamp, Tag, TagClock},
        token::{self, Token},
    },
    store::{
        Found, Store,
        tags::{ClockAnswer, Marks, TagStore},
    },
};

/// The clocks by their keys.
#[derive(Debug, Default)]
pub(super) struct Clocks(RwLock<HashMap<Key, TagClock>>);

impl Clocks {
    fn read<T>(&self, clock: &Key, read: impl FnOnce(&TagClock) -> T) -> Option<T> {
        let clocks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        clocks.get(clock.as_bytes()).map(read)
    }

    fn change<T>(&self, clock: &Key, change: impl FnOnce(&mut TagClock) -> T) -> T {
        let mut clocks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let clock = clocks.entry(clock.clone());
        change(clock.or_insert_with(|| TagClock::new(token::random())))
    }
}

impl TagStore for MemoryStore {
    async fn get_many_tagged(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
        clock: &Key,
    ) -> (Vec<Result<Found, StoreError>>, ClockAnswer) {
        let found = self.get_many(keys, fingerprint, codec).await;
        (found, self.read_clock(clock).await)
    }

    async fn read_clock(&self, clock: &Key) -> ClockAnswer {
        let now_ms = self.clock.now_ms();
        let read = |clock: &TagClock| (clock.reading(), clock.has_expired(now_ms));
        Ok(match self.clocks.read(clock, read) {
            None => None,
            Some((reading, false)) => Some(reading),
            Some((_, true)) => Some(self.change_clock(clock, |clock| clock.reading())),
        })
    }

    #[cfg(feature = "metrics")]
    async fn count_marks(&self, clock: &Key) -> Result<u64, StoreError> {
        Ok(self.clocks.read(clock, TagClock::count).unwrap_or_default())
    }

    async fn read_marks(&self, clock: &Key, tags: &[Tag]) -> Result<Marks, StoreError> {
        let read = |clock: &TagClock| (clock.reading(), clock.marks(tags));
        Ok(self.clocks.read(clock, read))
    }

    async fn start_clock(&self, clock: &Key) -> Result<Reading, StoreError> {
        Ok(self.change_clock(clock, |clock| clock.reading()))
    }

    async fn advance_clock(&self, clock: &Key, changed: &Changed) -> Result<(), StoreError> {
        self.change_clock(clock, |clock| clock.invalidate(changed, MAX_MARKS));
        Ok(())
    }

    async fn begin_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
        ttl_ms: u64,
    ) -> Result<(), StoreError> {
        let write = OpenWrite {
            token: write,
            until_ms: self.clock.now_ms().saturating_add(ttl_ms),
            changed: changed.clone(),
        };
        self.change_clock(clock, |clock| clock.announce(write, MAX_MARKS));
        Ok(())
    }

    async fn end_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
    ) -> Result<(), StoreError> {
        self.change_clock(clock, |clock| clock.end(write, changed, MAX_MARKS));
        Ok(())
    }

    async fn expire_tagged(&self, clock: &Key) -> Result<(), StoreError> {
        self.change_clock(clock, |_| ());
        Ok(())
    }

    async fn restamp(&self, key: &Key, token: Token, stamp: Stamp) -> Result<bool, StoreError> {
        Ok(self.step(key, |slot| state::restamp(slot, token, stamp)))
    }
}

impl MemoryStore {
    /// Changes a clock, after the writes were forgotten whose time is over.
    fn change_clock<T>(&self, clock: &Key, change: impl FnOnce(&mut TagClock) -> T) -> T {
        let now_ms = self.clock.now_ms();
        self.clocks.change(clock, |clock| {
            clock.expire(now_ms);
            change(clock)
        })
    }
}
