//! The tests that need a server or both crates. Each module is named after the concept that it tests. Tests of the Redis server are in
//! `redis`.
//!
//! There are two binaries of the files in this folder, which are compiled side by side. `groups.rs` has the tests of several rows or
//! entities at once, and this one has all others. Those of queued writes are in `behind`.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod adopted;
mod altered_table;
mod audit;
mod behind;
mod binding;
mod cache_update;
mod crash;
mod documentation;
mod dropped;
mod entities;
mod examples;
mod expiry;
mod fuzzed;
mod gathered;
mod generated_ids;
mod health;
mod hostile_bytes;
mod immutable;
mod journal;
mod key;
mod large_rows;
mod loads;
mod log_lines;
mod lost_transactions;
mod metrics;
mod modify;
mod negative;
mod on_outage;
mod ops;
mod outage;
mod panics;
mod pause;
mod processes;
mod read;
mod read_options;
mod redis;
mod repair;
mod round_trip;
mod schema;
mod schema_keys;
mod secrets;
mod skipped_writes;
mod spans;
mod stampede;
mod stats;
mod transaction;
mod type_matrix;
mod types;
mod upgrade;
mod version;
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
        metrics::PANICKING,
        processes::CROWD,
        processes::DOOMED,
    ]);
}
