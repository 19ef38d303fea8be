//! What is wrong with a cache right now, in one value.
//!
//! It is put together when it is asked for (`cache::health`): from the state of the connection (`store::redis::condition`), the invalidations that
//! are not delivered (`repair`), the entities that are not cached (`context::family`) and what is paused (`pause`). Nothing is
//! sent to Redis.
//!
//! Not here: counters (`stats`).

use std::{fmt, time::Duration};

/// The state of a cache, from [`Cache::health`](crate::Cache::health).
///
/// A service goes on without its cache: reads go to the database, and writes are made. So a readiness probe should *show* the
/// health and succeed all the same. If it failed, a Redis that is away would take all instances out of service at the same time.
///
/// ```
/// # use larder_runtime::{Cache, StoreStatus};
/// let cache = Cache::in_process();
/// let health = cache.health();
/// assert_eq!(health.store, StoreStatus::InProcess);
/// assert!(health.is_ok());
/// assert_eq!(health.to_string(), "ok");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// Whether the store is used.
    pub store: StoreStatus,
    /// What does not work as it should, the most important first.
    pub problems: Vec<Problem>,
}

/// Whether the store of a cache is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreStatus {
    /// It is the memory of this process, and always used.
    InProcess,
    /// Redis answers, and is known to be the primary.
    Usable,
    /// Redis answers, but has not accepted a write for a second, so another server may have replaced it. Nothing is served from
    /// it.
    NotTrusted,
    /// Redis cannot be reached, or must not be used.
    Away,
}

impl fmt::Display for StoreStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProcess => "in process",
            Self::Usable => "usable",
            Self::NotTrusted => "not trusted",
            Self::Away => "away",
        })
    }
}

/// Something that does not work as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// What it is.
    pub kind: ProblemKind,
    /// What it is about, and what follows from it.
    pub message: String,
    /// How long it has lasted, if that is known.
    pub lasts: Option<Duration>,
}

impl Problem {
    pub(crate) fn new(kind: ProblemKind, lasts: Option<Duration>, message: String) -> Self {
        Self {
            kind,
            message,
            lasts,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.lasts {
            Some(lasts) => write!(f, " (for {:.1} s)", lasts.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// The kind of a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// Redis cannot be used. Reads go to the database. Writes of `write_behind` entities fail, and so do writes with
    /// `on_outage = "consistent"`.
    StoreAway,
    /// Redis may have been replaced by another server. As [`ProblemKind::StoreAway`], until it accepts a write.
    StoreNotTrusted,
    /// Redis rejects some commands, for example because its memory is full.
    CommandsRefused,
    /// Callers that wait for a load of another process are not woken, and wait for their time-out.
    NoWakeups,
    /// Rows of 128 KiB and more are read from the database.
    NoLargeEntries,
    /// Invalidations wait until the store can be reached.
    InvalidationsPending,
    /// All operations of an entity fail, because its namespace belongs to another database, or its name to another table.
    NamespaceRefused,
    /// An entity is not cached, because another program may write to its table without announcing it.
    EntityNotCached,
    /// Reads or fills were paused.
    Paused,
}

impl ProblemKind {
    /// All kinds, for exporters.
    pub const ALL: [Self; 9] = [
        Self::StoreAway,
        Self::StoreNotTrusted,
        Self::CommandsRefused,
        Self::NoWakeups,
        Self::NoLargeEntries,
        Self::InvalidationsPending,
        Self::NamespaceRefused,
        Self::EntityNotCached,
        Self::Paused,
    ];

    /// Returns its name in metrics, such as `store_away`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StoreAway => "store_away",
            Self::StoreNotTrusted => "store_not_trusted",
            Self::CommandsRefused => "commands_refused",
            Self::NoWakeups => "no_wakeups",
            Self::NoLargeEntries => "no_large_entries",
            Self::InvalidationsPending => "invalidations_pending",
            Self::NamespaceRefused => "namespace_refused",
            Self::EntityNotCached => "entity_not_cached",
            Self::Paused => "paused",
        }
    }
}

impl Health {
    /// Returns whether there is no problem.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            return f.write_str("ok");
        }
        for (at, problem) in self.problems.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// What a store says of itself.
#[derive(Clone, Debug)]
pub struct StoreHealth {
    pub(crate) status: StoreStatus,
    pub(crate) problems: Vec<Problem>,
}

impl StoreHealth {
    /// Returns that of the memory of this process.
    #[must_use]
    pub fn in_process() -> Self {
        Self {
            status: StoreStatus::InProcess,
            problems: Vec::new(),
        }
    }
}
