//! The result of a read: the row, and where it came from.

use std::{sync::Arc, time::Duration};

use crate::observe::{Tell, Told};

/// A row, and where it came from.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<E> {
    /// The row, or `None` if it does not exist.
    pub row: Option<Arc<E>>,
    /// Where the answer came from.
    pub origin: Origin,
    /// How long ago the row was loaded from the database, by the clocks of the two machines. Zero for a fresh load.
    pub age: Duration,
    /// Whether the row was read from the database without the store confirming that no queued write of it is pending.
    pub(crate) store_was_skipped: bool,
}

impl<E> Outcome<E> {
    /// Returns the outcome of a statement.
    pub(crate) fn fresh(row: Option<Arc<E>>) -> Self {
        Self {
            row,
            origin: Origin::Database,
            age: Duration::ZERO,
            store_was_skipped: false,
        }
    }

    /// Returns the outcome of a statement that was sent without asking the store first.
    pub(crate) fn store_skipped(row: Option<Arc<E>>) -> Self {
        Self {
            store_was_skipped: true,
            ..Self::fresh(row)
        }
    }
}

impl<E> Tell for Outcome<E> {
    fn told(&self) -> Told {
        let outcome = match (self.origin, &self.row) {
            (Origin::Cache, Some(_)) => "hit",
            (Origin::Cache, None) => "negative_hit",
            (Origin::Database, _) => "miss",
            (Origin::Shared, _) => "shared",
        };
        Told {
            outcome: Some(outcome),
            ..Told::rows(usize::from(self.row.is_some()))
        }
    }
}

impl<E> Clone for Outcome<E> {
    fn clone(&self) -> Self {
        Self {
            row: self.row.clone(),
            origin: self.origin,
            age: self.age,
            store_was_skipped: self.store_was_skipped,
        }
    }
}

/// What a read of a row returns: the row alone, or its [`Outcome`].
pub trait ReadResult<E>: Send {
    /// Returns what the caller gets.
    fn of(outcome: Outcome<E>) -> Self;
}

impl<E: Send + Sync> ReadResult<E> for Option<Arc<E>> {
    fn of(outcome: Outcome<E>) -> Self {
        outcome.row
    }
}

impl<E: Send + Sync> ReadResult<E> for Outcome<E> {
    fn of(outcome: Self) -> Self {
        outcome
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The cache.
    Cache,
    /// The database, by a statement of this call.
    Database,
    /// The database, by a statement of another caller in this process, whose load this call shared.
    Shared,
}
