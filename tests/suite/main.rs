//! All tests that need a server or both crates, in one binary: one module per concept, named for the concept it tests. What is about queued writes
//! is in `behind`, what is about the Redis server in `redis`.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod behind;
mod binding;
mod bulk;
mod crash;
mod documentation;
mod dropped;
mod entities;
mod expiry;
mod journal;
mod key;
mod large_rows;
mod late_fills;
mod lost_transactions;
mod negative;
mod on_outage;
mod outage;
mod processes;
mod publication;
mod read;
mod redis;
mod repair;
mod round_trip;
mod schema;
mod stampede;
mod stats;
mod transaction;
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
        processes::CROWD,
        processes::DOOMED,
    ]);
}
