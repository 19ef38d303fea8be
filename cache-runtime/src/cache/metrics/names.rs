//! The metrics of larder: their names, their help texts and their labels. docs/metrics.md lists them, and a test compares both.
//!
//! Labels are `cache` (the namespace that the cache was built with), `entity`, `partition`, and words of fixed lists. None is a key, an
//! id, a tag or a text of a server.

use crate::stats::Stats;

/// A metric: its name and what it says.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
}

/// A counter of an entity that follows one of its [`Stats`].
pub(super) struct EntityCounter {
    pub(super) metric: &'static Metric,
    pub(super) value: fn(&Stats) -> u64,
    /// A label beside `entity`.
    pub(super) label: Option<(&'static str, &'static str)>,
}

macro_rules! metrics {
    ($($kind:ident { $($name:ident $text:literal $help:literal),* $(,)? })*) => {
        $($(pub(super) const $name: Metric = Metric { name: $text, help: $help };)*)*

        /// Describes all metrics to the recorder.
        pub(super) fn describe() {
            $($(metrics!(@$kind $name);)*)*
        }
    };
    (@counters $name:ident) => { metrics::describe_counter!($name.name, $name.help) };
    (@gauges $name:ident) => { metrics::describe_gauge!($name.name, $name.help) };
    (@durations $name:ident) => {
        metrics::describe_histogram!($name.name, metrics::Unit::Seconds, $name.help)
    };
}

metrics! {
    counters {
        READS "larder_reads_total" "Reads of rows, lookups, lists and queries, by entity and outcome.",
        BYPASSES "larder_bypassed_reads_total" "Reads that went to the database without using the cache, by entity and reason.",
        LOADS "larder_loads_total" "Rows that were looked for in the database.",
        LOAD_FAILURES "larder_load_failures_total" "Loads that were not made or failed, by entity and reason.",
        FILLS "larder_fills_total" "Loads whose result was offered to the store, by entity and result.",
        LEASE_WAITS "larder_lease_waits_total" "Times that a reader waited for a load of another process.",
        REPLACED "larder_replaced_entries_total" "Entries that could not be used and were loaded again, by entity and reason.",
        NOT_STORED "larder_rows_not_stored_total" "Rows that were not stored, by entity and reason.",
        AUDITED "larder_audited_entries_total" "Cached rows and lists that audits have compared with the database.",
        STALE "larder_stale_entries_total" "Cached rows and lists that audits have found to be stale.",
        STORE_ERRORS "larder_store_errors_total" "Commands of the store that failed or were refused, by entity.",
        WRITES "larder_writes_total" "Writes, by entity, operation and result.",
        WRITTEN_ROWS "larder_written_rows_total" "Rows that were inserted, updated, saved or deleted.",
        INVALIDATIONS "larder_invalidations_total" "Calls of invalidate, invalidate_all and refresh.",
        FLUSHED_WRITES "larder_flushed_writes_total" "Queued writes that have left the queue.",
        FLUSHED_ROWS "larder_flushed_rows_total" "Rows that flushes have written to the database.",
        FLUSHES "larder_flushes_total" "Transactions of flushes, by entity and result.",
        NEW_DEAD_LETTERS "larder_rejected_writes_total" "Queued writes that the database refused, and that are dead letters now.",
        LOST_WRITES "larder_lost_writes_total" "Acknowledged writes that the store lost before they were flushed, as this process saw it.",
        BACKPRESSURE "larder_backpressure_total" "Writes that met a full queue.",
        CONNECTIONS "larder_store_connections_total" "Connections that were made to the store.",
        EVICTIONS "larder_memory_evictions_total" "Entries of the in-process store that were dropped because there was no room.",
    }
    gauges {
        USABLE "larder_store_usable" "Whether the store answers and is believed: 1 or 0.",
        TRUSTED "larder_store_trusted" "Whether the store is known to be the primary: 1 or 0.",
        PROBLEM "larder_problem" "Whether there is a problem of this kind: 1 or 0.",
        PENDING_INVALIDATIONS "larder_pending_invalidations" "Invalidations that wait until they can be delivered.",
        MEMORY_ENTRIES "larder_memory_entries" "Entries of the in-process store.",
        MEMORY_USED "larder_memory_used" "What they take of the capacity, in rows or bytes.",
        MEMORY_CAPACITY "larder_memory_capacity" "The capacity of the in-process store, in rows or bytes.",
        QUEUE_DEPTH "larder_queue_depth" "Acknowledged writes that wait in a partition.",
        QUEUE_OLDEST "larder_queue_oldest_seconds" "How long the oldest of them has waited.",
        QUEUE_LOST "larder_queue_lost" "Acknowledged writes of a partition that the store has lost, by the database.",
        DEAD_LETTERS "larder_dead_letters" "Dead letters in the database.",
        TAG_MARKS "larder_tag_marks" "Tags whose last invalidation is remembered; the bookkeeping takes about 50 bytes for each.",
        TAG_FLOOR "larder_tag_floor" "The time of the tags' clock before which entries are loaded again, because marks were forgotten.",
    }
    durations {
        READ_SECONDS "larder_read_duration_seconds" "How long reads took. One of 8 is measured, and one of 64 in process.",
        LOAD_SECONDS "larder_load_duration_seconds" "How long statements of loads took, with the wait for a connection.",
        WRITE_SECONDS "larder_write_duration_seconds" "How long writes took.",
        FLUSH_SECONDS "larder_flush_duration_seconds" "How long transactions of flushes took.",
        ANNOUNCEMENT_SECONDS "larder_announcement_duration_seconds" "How long writes waited until they were announced in the store.",
        ROUND_TRIP_SECONDS "larder_store_round_trip_duration_seconds" "How long the store took to answer.",
    }
}

/// The counters that follow [`Stats`]. The outcomes of reads add up to all reads.
pub(super) const ENTITY_COUNTERS: &[EntityCounter] = &[
    follow(&READS, Some(("outcome", "hit")), |stats| stats.hits),
    follow(&READS, Some(("outcome", "negative_hit")), |stats| {
        stats.negative_hits
    }),
    follow(&READS, Some(("outcome", "hit_after_wait")), |stats| {
        stats.hits_after_wait
    }),
    follow(&READS, Some(("outcome", "shared")), |stats| stats.coalesced),
    follow(&READS, Some(("outcome", "load")), |stats| stats.loads),
    follow(
        &BYPASSES,
        Some(("reason", "invalidation_pending")),
        |stats| stats.blocked_reads,
    ),
    follow(&BYPASSES, Some(("reason", "paused")), |stats| {
        stats.paused_reads
    }),
    follow(&BYPASSES, Some(("reason", "write_in_progress")), |stats| {
        stats.reads_during_writes
    }),
    follow(&BYPASSES, Some(("reason", "not_cached_now")), |stats| {
        stats.held_reads
    }),
    follow(&BYPASSES, Some(("reason", "store_failed")), |stats| {
        stats.reads_without_store
    }),
    follow(&BYPASSES, Some(("reason", "waited_too_long")), |stats| {
        stats.waits_given_up
    }),
    follow(&LOADS, None, |stats| stats.loads),
    follow(&LOAD_FAILURES, Some(("reason", "error")), |stats| {
        stats.load_errors
    }),
    follow(&LOAD_FAILURES, Some(("reason", "abandoned")), |stats| {
        stats.abandoned_loads
    }),
    follow(&LOAD_FAILURES, Some(("reason", "rejected")), |stats| {
        stats.rejected_loads
    }),
    follow(&FILLS, Some(("result", "accepted")), |stats| {
        stats.fills_accepted
    }),
    follow(&FILLS, Some(("result", "refused")), |stats| {
        stats.fills_refused
    }),
    follow(&LEASE_WAITS, None, |stats| stats.lease_waits),
    follow(&REPLACED, Some(("reason", "outdated")), |stats| {
        stats.outdated_entries
    }),
    follow(&REPLACED, Some(("reason", "incompatible")), |stats| {
        stats.incompatible_entries
    }),
    follow(&REPLACED, Some(("reason", "damaged")), |stats| {
        stats.corrupt_entries
    }),
    follow(&REPLACED, Some(("reason", "changed_lookup")), |stats| {
        stats.changed_lookups
    }),
    follow(&NOT_STORED, Some(("reason", "too_large")), |stats| {
        stats.too_large
    }),
    follow(&NOT_STORED, Some(("reason", "codec")), |stats| {
        stats.codec_mismatches
    }),
    follow(&AUDITED, None, |stats| stats.audited_entries),
    follow(&STALE, None, |stats| stats.stale_entries),
    follow(&STORE_ERRORS, None, |stats| stats.store_errors),
    follow(&WRITTEN_ROWS, None, |stats| stats.writes),
    follow(&INVALIDATIONS, None, |stats| stats.invalidations),
    follow(&FLUSHED_WRITES, None, |stats| stats.flushed_writes),
    follow(&FLUSHED_ROWS, None, |stats| stats.flushed_rows),
    follow(&FLUSHES, Some(("result", "done")), |stats| stats.flushes),
    follow(&FLUSHES, Some(("result", "retried")), |stats| {
        stats.flush_retries
    }),
    follow(&FLUSHES, Some(("result", "conflict")), |stats| {
        stats.flush_conflicts
    }),
    follow(&NEW_DEAD_LETTERS, None, |stats| stats.dead_letters),
    follow(&LOST_WRITES, None, |stats| stats.lost_writes),
    follow(&BACKPRESSURE, None, |stats| stats.backpressure),
];

const fn follow(
    metric: &'static Metric,
    label: Option<(&'static str, &'static str)>,
    value: fn(&Stats) -> u64,
) -> EntityCounter {
    EntityCounter {
        metric,
        value,
        label,
    }
}
