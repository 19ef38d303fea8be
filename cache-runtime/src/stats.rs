//! Counters per entity: what reads and writes met. Cheap enough for every hit: one relaxed addition.
//!
//! Reads of rows, lookups and lists = `hits + negative_hits + misses`. A miss ends in a load of its own (`loads`), in a shared one
//! (`coalesced`), or in a hit after a wait (`hits_after_wait`); so without errors these three add up to `misses`. Failures of
//! the store are counted apart.
//!
//! The counters of a repository that is dropped are added to those of its cache ([`Totals`]).

use std::{
    collections::HashMap,
    iter::Sum,
    ops::AddAssign,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

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

        impl AddAssign for Stats {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
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
    /// Reads by id served with a row from the cache.
    hits,
    /// Reads by id answered "does not exist" from the cache.
    negative_hits,
    /// Reads by id that the cache could not serve at once. Without errors and loads that were given up, `misses = loads +
    /// coalesced + hits_after_wait`.
    misses,
    /// Rows that were looked for in the database by `find` and its like. A load that waits for a connection counts, also if
    /// it is given up then (`abandoned_loads`). One that failed together with others is repeated by itself, and counts twice.
    loads,
    /// Statements that looked for them, each on a connection of the pool. Loads that meet share one.
    load_statements,
    /// Misses answered by a load that another caller of this process had in flight.
    coalesced,
    /// Misses that found the row in the cache after all, because another process had just filled it.
    hits_after_wait,
    /// Loads that ended in an error.
    load_errors,
    /// Loads that were given up before their statement was sent, because their callers had all been dropped.
    abandoned_loads,
    /// Loads that failed immediately because too many waited for their turn (`max_waiting_loads`).
    rejected_loads,
    /// Loads whose result the store took.
    fills_accepted,
    /// Loads whose result the store refused, because a write or another load came in between.
    fills_refused,
    /// Times that a reader waited for a load of another process.
    lease_waits,
    /// Loads whose result was not offered to the store: a write was in progress, the store was away, or a wait timed out.
    /// They are counted in `loads` too, unless they had to wait for their turn and never got it.
    uncached_loads,
    /// Lookups whose ids were loaded again, because a row had no longer the values that it was found by.
    changed_lookups,
    /// Entries of another struct layout, or from before the server's last restart, that were overwritten.
    incompatible_entries,
    /// Entries that were overwritten, because one of their tags was invalidated, or because that could not be excluded.
    outdated_entries,
    /// Entries whose bytes could not be read, and that were overwritten.
    corrupt_entries,
    /// Rows that the codec would not give back as they are. They were not cached, or not queued.
    codec_mismatches,
    /// Reads that went to the database because an invalidation of their key is not delivered yet
    /// ([`RepairStats::pending`]).
    blocked_reads,
    /// Reads that went to the database because reads are paused ([`Cache::pause_reads`](crate::Cache::pause_reads)).
    paused_reads,
    /// Reads that went to the database because a write of the row was in progress.
    reads_during_writes,
    /// Reads that went to the database because their entity is not cached now: another program may write to its table without
    /// announcing it.
    held_reads,
    /// Reads that went to the database because the store was away, or failed.
    reads_without_store,
    /// Reads that waited for a load of another process until their wait budget (`lease(wait = "..")`) was used up.
    waits_given_up,
    /// Cached rows and lists that an audit has compared with the database.
    audited_entries,
    /// Cached rows and lists that an audit has found to be stale.
    stale_entries,
    /// Commands that the store failed or refused.
    store_errors,
    /// Rows that were too large to be cached, or to be queued.
    too_large,
    /// Rows written: inserted, updated, saved or deleted.
    writes,
    /// Those among them that were committed together with writes of other callers (`gather_writes`).
    gathered_writes,
    /// Writes that ended in an error.
    write_errors,
    /// Calls of `invalidate`, `invalidate_all` and `refresh`.
    invalidations,
    /// Queued writes that have left the queue: applied, overwritten by a later one of the same batch, or dead letters.
    flushed_writes,
    /// Rows that flushes have written to the database.
    flushed_rows,
    /// Transactions of flushes.
    flushes,
    /// Statements that flushes have sent to the database, `BEGIN` and `COMMIT` included.
    flush_statements,
    /// Flushes that were tried again, because the database or the store had failed.
    flush_retries,
    /// Flushes that another process had made first. A few are normal after a takeover.
    flush_conflicts,
    /// Queued writes that the database refused, and that are dead letters now.
    dead_letters,
    /// Acknowledged writes that the store lost before they were flushed.
    lost_writes,
    /// Writes that met a full queue.
    backpressure,
}

impl Sum for Stats {
    fn sum<I: Iterator<Item = Self>>(stats: I) -> Self {
        let mut sum = Self::default();
        stats.for_each(|stats| sum += stats);
        sum
    }
}

impl Stats {
    /// The share of reads by id that the cache served: `(hits + negative_hits + hits_after_wait) / (hits + negative_hits +
    /// misses)`. `None` before the first read.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a ratio of counters need not be exact"
    )]
    pub fn hit_ratio(&self) -> Option<f64> {
        let reads = self.hits + self.negative_hits + self.misses;
        let served = self.hits + self.negative_hits + self.hits_after_wait;
        (reads > 0).then(|| served as f64 / reads as f64)
    }
}

/// Invalidations of this process that the store has not received yet, and those that were delivered late; see
/// [`Cache::repairs`](crate::Cache::repairs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairStats {
    /// How many keys wait for their invalidation. This process reads them from the database until then.
    pub pending: usize,
    /// Whether there were too many to list (`max_tracked_invalidations`). Then this process serves nothing from the cache
    /// until all keys of its entities were dropped.
    pub all_keys: bool,
    /// How many invalidations were delivered late, since the program started.
    pub repaired: u64,
    /// How often all keys were dropped by a scan, since the program started.
    pub full_scans: u64,
}

/// What the repositories of a cache counted that exist no more, by entity.
#[derive(Debug, Default)]
pub(crate) struct Totals(Mutex<HashMap<&'static str, Stats>>);

impl Totals {
    /// Adds what a repository has counted, which is dropped now.
    pub(crate) fn add(&self, entity: &'static str, stats: Stats) {
        *self.lock().entry(entity).or_default() += stats;
    }

    /// Returns what was counted, by entity.
    pub(crate) fn by_entity(&self) -> HashMap<&'static str, Stats> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Stats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One counter. It has a cache line of its own, so that hits on one core do not slow down misses on another.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
