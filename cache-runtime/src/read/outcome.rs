//! What a read answers: the row, and where it came from.

use std::{sync::Arc, time::Duration};

/// A row, and where it came from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<E> {
    /// The row, or `None` if it does not exist.
    pub row: Option<Arc<E>>,
    /// Where the answer came from.
    pub origin: Origin,
    /// How long ago the row was loaded from the database, by the clocks of the two machines; zero for a fresh load.
    pub age: Duration,
    /// Whether the database was read without the store having told that it holds no queued write of the row.
    pub(crate) is_past_store: bool,
}

impl<E> Outcome<E> {
    /// The outcome of a statement.
    pub(crate) fn fresh(row: Option<Arc<E>>) -> Self {
        Self {
            row,
            origin: Origin::Database,
            age: Duration::ZERO,
            is_past_store: false,
        }
    }

    /// The outcome of a statement that nothing was asked before.
    pub(crate) fn past_store(row: Option<Arc<E>>) -> Self {
        Self {
            is_past_store: true,
            ..Self::fresh(row)
        }
    }
}

impl<E> Clone for Outcome<E> {
    fn clone(&self) -> Self {
        Self {
            row: self.row.clone(),
            origin: self.origin,
            age: self.age,
            is_past_store: self.is_past_store,
        }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// From the cache.
    Cache,
    /// From the database, by a statement of this call.
    Database,
    /// From the database, by a statement that another caller of this process had under way.
    Shared,
}
