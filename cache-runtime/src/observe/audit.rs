//! What an audit is asked for, and what it tells.
//!
//! Not here: how it is made (`read::audit`).

use std::time::Duration;

/// How many stale rows are described.
const DESCRIBED: usize = 20;

/// How an audit is made.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct AuditOptions {
    pub(crate) rows: u64,
    pub(crate) per_second: u32,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            rows: 10_000,
            per_second: 1_000,
        }
    }
}

impl AuditOptions {
    /// Compares about so many rows at most. Default: 10,000.
    pub fn rows(mut self, rows: u64) -> Self {
        self.rows = rows;
        self
    }

    /// Compares no more rows in a second than this. Default: 1,000. With 0, there is no limit.
    pub fn per_second(mut self, rows: u32) -> Self {
        self.per_second = rows;
        self
    }
}

/// The result of an audit.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Audit {
    /// How many rows were compared.
    pub checked: u64,
    /// How many of them were stale: the cache would have served a row that the database did not have any more.
    pub stale: u64,
    /// How many were written at the same time, so that nothing can be said of them. They are not among the checked ones.
    pub changing: u64,
    /// How many have values that cannot be compared. They are not among the checked ones.
    pub not_comparable: u64,
    /// Whether all keys of the entity were looked at.
    pub is_complete: bool,
    /// The first of the stale rows.
    pub examples: Vec<StaleRow>,
}

/// A row that was stale.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StaleRow {
    /// Its key in the store.
    pub key: String,
    /// How long ago it was loaded.
    pub age: Duration,
    /// The columns that differ, or `None` if the database has no such row.
    pub columns: Option<Vec<&'static str>>,
}

impl Audit {
    /// Returns how many rows were looked at.
    pub(crate) fn seen(&self) -> u64 {
        self.checked + self.changing + self.not_comparable
    }

    /// Describes a row that is stale, unless enough were.
    pub(crate) fn describe(&mut self, row: StaleRow) {
        if self.examples.len() < DESCRIBED {
            self.examples.push(row);
        }
    }

    /// Returns the share of the rows that were right, or `None` if none was checked.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio need not be exact")]
    pub fn right(&self) -> Option<f64> {
        (self.checked > 0).then(|| 1.0 - self.stale as f64 / self.checked as f64)
    }
}
