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
        tags::{MAX_MARKS, Reading, Stamp, Tag, TagClock},
        token::{self, Token},
    },
    store::tags::{Covered, Marks, TagStore},
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
    async fn read_clock(&self, clock: &Key) -> Result<Option<Reading>, StoreError> {
        Ok(self.clocks.read(clock, TagClock::reading))
    }

    async fn read_marks(&self, clock: &Key, tags: &[Tag]) -> Result<Marks, StoreError> {
        let read = |clock: &TagClock| (clock.reading(), clock.marks(tags));
        Ok(self.clocks.read(clock, read))
    }

    async fn start_clock(&self, clock: &Key) -> Result<Reading, StoreError> {
        Ok(self.clocks.change(clock, |clock| clock.reading()))
    }

    async fn advance_clock(&self, clock: &Key, covered: Covered<'_>) -> Result<(), StoreError> {
        self.clocks.change(clock, |clock| match covered {
            Covered::Tags(tags) => clock.invalidate(tags, MAX_MARKS),
            Covered::All => clock.invalidate_all(),
        });
        Ok(())
    }

    async fn restamp(&self, key: &Key, token: Token, stamp: Stamp) -> Result<bool, StoreError> {
        Ok(self.step(key, |slot| state::restamp(slot, token, stamp)))
    }
}
