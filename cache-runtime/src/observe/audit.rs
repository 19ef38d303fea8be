//! What an audit is asked for, and what it tells.
//!
//! Not here: how it is made (`read::audit`).

use std::{fmt, time::Duration};

/// How many stale entries are described.
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
    /// Compares about so many rows and lists at most. Default: 10,000.
    pub fn rows(mut self, rows: u64) -> Self {
        self.rows = rows;
        self
    }

    /// Compares no more rows and lists in a second than this. Default: 1,000. With 0, there is no limit.
    pub fn per_second(mut self, rows: u32) -> Self {
        self.per_second = rows;
        self
    }
}

/// The result of an audit.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Audit {
    /// How many entries were compared: rows, and lists of ids that lookups have found.
    pub checked: u64,
    /// How many of them were lists of ids.
    pub lists: u64,
    /// How many of the checked entries were stale: the cache would have served what the database did not have any more.
    pub stale: u64,
    /// How many were written at the same time, or had a queued write, so that nothing can be said of them. They are not among the checked
    /// ones.
    pub changing: u64,
    /// How many cannot be compared: rows with values that cannot be, and lists of which no row has the values any more. They are not
    /// among the checked ones.
    pub not_comparable: u64,
    /// Whether all keys of the entity were looked at.
    pub is_complete: bool,
    /// The first of the stale entries.
    pub examples: Vec<StaleEntry>,
}

/// An entry that was stale.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StaleEntry {
    /// Its key in the store.
    pub key: String,
    /// How long ago it was loaded or written.
    pub age: Duration,
    /// The token of the load or the write that has left it. It begins with the id of its process, and is in no other entry.
    pub token: String,
    /// How it differs from the database.
    pub difference: Difference,
}

/// How a stale entry differs from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The row has other values in these columns.
    Columns(Vec<&'static str>),
    /// The database has no such row.
    NoRow,
    /// A list lacks rows, or has them in another order.
    Rows,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns(columns) => write!(f, "differs in {}", columns.join(", ")),
            Self::NoRow => f.write_str("is not in the database"),
            Self::Rows => f.write_str("lacks rows, or has them in another order"),
        }
    }
}

impl Audit {
    /// Returns how many entries were looked at.
    pub(crate) fn seen(&self) -> u64 {
        self.checked + self.changing + self.not_comparable
    }

    /// Describes an entry that is stale, unless enough were.
    pub(crate) fn describe(&mut self, entry: StaleEntry) {
        if self.examples.len() < DESCRIBED {
            self.examples.push(entry);
        }
    }

    /// Returns the share of the entries that were right, or `None` if none was checked.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio need not be exact")]
    pub fn right(&self) -> Option<f64> {
        (self.checked > 0).then(|| 1.0 - self.stale as f64 / self.checked as f64)
    }
}
