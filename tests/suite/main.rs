//! The tests that need a server or both crates. Each module is named after the concept that it tests. Tests of the Redis server are in
//! `redis`.
//!
//! There are three binaries of the files in this folder, because one would need too much memory to compile. `groups.rs` has the tests of
//! several rows or entities at once, `writes.rs` those of writes, and this one has all others.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod adopted;
mod altered_table;
mod audit;
mod binding;
mod documentation;
#[expect(dead_code, reason = "the other binaries make further entities")]
mod entities;
mod examples;
mod expiry;
mod fuzzed;
mod health;
mod hostile_bytes;
mod immutable;
mod key;
mod large_rows;
mod loads;
mod log_lines;
mod metrics;
mod negative;
mod on_outage;
mod ops;
mod outage;
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
mod spans;
mod stampede;
mod stats;
mod type_matrix;
mod types;
mod upgrade;
mod version;
#[expect(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "the other binaries make tests in more ways"
)]
mod world;
mod write_through;

use larder_testing::process::work;

/// Becomes a worker of one of these files, when the environment says so.
#[test]
fn worker_entry() {
    work(&[
        binding::FORKING,
        metrics::PANICKING,
        processes::CROWD,
        processes::DOOMED,
    ]);
}
