//! All tests that need a server or both crates, in one binary. Each module is named after the concept that it tests. Tests
//! of queued writes are in `behind`, and tests of the Redis server in `redis`.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod adopted;
mod altered_table;
mod batch;
mod behind;
mod binding;
mod bulk;
mod bulk_by_lookup;
mod cache_update;
mod cascades;
mod crash;
mod documentation;
mod dropped;
mod entities;
mod examples;
mod expiry;
mod families;
mod generated_ids;
mod hostile_bytes;
mod immutable;
mod journal;
mod key;
mod large_rows;
mod late_fills;
mod list;
mod loads;
mod log_lines;
mod lookup;
mod lookup_processes;
mod lost_transactions;
mod modify;
mod negative;
mod omit;
mod on_outage;
mod outage;
mod panics;
mod processes;
mod queries;
mod read;
mod read_options;
mod redis;
mod relations;
mod repair;
mod round_trip;
mod same_table;
mod schema;
mod schema_keys;
mod secrets;
mod skipped_writes;
mod stampede;
mod stats;
mod tag_processes;
mod tags;
mod transaction;
mod ttl_from;
mod type_matrix;
mod types;
mod upgrade;
mod version;
mod within_lookups;
mod world;
mod write;
mod write_through;

use larder_testing::process::work;

/// Becomes a worker of one of these files, when the environment says so.
#[test]
fn worker_entry() {
    work(&[
        binding::FORKING,
        crash::WRITER,
        journal::APPENDER,
        lookup_processes::MEMBER,
        processes::CROWD,
        processes::DOOMED,
        tag_processes::CLERK,
        tag_processes::DOOMED_CLERK,
    ]);
}
