//! Counters per entity: what reads and writes met. Cheap enough for every hit: one relaxed addition.
//!
//! Reads by id = hits + negative hits + misses. A miss ends in a load of this caller's own, in one that it shared, or in a
//! late hit; without errors, misses = loads + shared + late hits. Trouble with the store is counted apart.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What an entity's repository has counted since the program started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Every counter with its name, in a fixed order, for exporters.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        /// The live counters behind [`Stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    $($name: self.$name.0.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Reads served with a row from the cache.
    hits,
    /// Reads served from the cache with "does not exist".
    negative_hits,
    /// Reads the cache could not serve.
    misses,
    /// Rows asked of the database by reads, one per statement.
    loads,
    /// Misses served by a load that another caller of this process had under way.
    shared,
    /// Misses that found the entry after all: another process had just filled it.
    late_hits,
    /// Loads that ended in an error.
    load_errors,
    /// Loaded rows and absences that the store took.
    fills_accepted,
    /// Loaded rows that the store refused, because a write or another load came between.
    fills_refused,
    /// Times that a load of another process was waited for.
    waits,
    /// Loads made past the cache: a write was under way, the store was away, or a wait had been in vain.
    bypasses,
    /// Entries of another layout or of another history of the store, which were overwritten.
    foreign,
    /// Entries whose bytes could not be read, which were overwritten.
    undecodable,
    /// Rows that the codec would have given back as other ones. They were not cached, or not queued.
    codec_mismatches,
    /// Times that a read went past the cache because it had not been told yet about a write of this process.
    denied,
    /// Commands that the store failed or refused.
    store_errors,
    /// Rows that were too large to be cached, or to be queued.
    too_large,
    /// Rows written: inserted, updated, saved or deleted.
    writes,
    /// Writes that ended in an error.
    write_errors,
    /// Keys dropped on request.
    invalidations,
    /// Queued writes that were flushed: applied, overwritten by later ones of the same batch, or dead.
    flushed,
    /// Rows that flushes have written to the database.
    flushed_rows,
    /// Transactions of flushes.
    flushes,
    /// Statements that flushes have sent to the database, those that begin and commit included.
    flush_statements,
    /// Flushes that had to be tried again, because the database or the store has failed.
    flush_retries,
    /// Flushes that found that another one had been faster.
    flushes_overtaken,
    /// Queued writes that the database has refused, and that are dead letters now.
    dead_letters,
    /// Queued writes that the store has lost before they were flushed.
    lost,
    /// Writes that met a full queue.
    backpressure,
}

/// The writes of this process that a store could not be told about when they were made; see
/// [`Cache::repairs`](crate::Cache::repairs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairStats {
    /// How many keys are waiting to be dropped; meanwhile this process reads them from the database.
    pub pending: usize,
    /// Whether there were too many to list, so that nothing is served from the cache until all its keys were dropped.
    pub everything: bool,
    /// How many keys were dropped late, since the program started.
    pub repaired: u64,
    /// How often all keys were dropped, since the program started.
    pub sweeps: u64,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
