//! How long a row may be cached that says itself when it ends (`ttl_from`).
//!
//! 1. A fill and a write-through store it at most until then, and not at all if it has ended.
//! 2. A hit looks again, because a store may expire an entry late, or live by another clock. A row that has ended is dropped
//!    and loaded.
//!
//! The end is a moment of the wall clock that the database and the programs share, so it is compared with the wall clock of this
//! process.
//!
//! Invariant: no entry is served at or after the end of its row.
//! Not here: rows that come from the database. They are returned as they are, also after their end.

use std::time::{Duration, SystemTime};

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    store::{Store, failpoint::Mechanism},
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns for how long at most an entry with this end may live. Returns `None` if the end has come.
    pub(crate) fn longest_life(&self, end: Option<SystemTime>) -> Option<Duration> {
        match end {
            Some(end) => self.cache.clock.until(end),
            None => Some(Duration::MAX),
        }
    }

    /// Returns whether an entry with this end may not be served any more.
    #[inline]
    pub(crate) fn has_ended(&self, end: Option<SystemTime>) -> bool {
        end.is_some_and(|end| self.cache.clock.until(end).is_none())
            && !self.cache.store.disables(Mechanism::RowEnd)
    }
}
