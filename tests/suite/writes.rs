//! The tests of writes: single ones, those that are committed together, transactions, queued writes and the journal, and what becomes of a
//! write whose caller leaves. `main.rs` says how the files are divided.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod behind;
mod cache_update;
mod crash;
mod dropped;
mod entities;
mod gathered;
mod generated_ids;
mod journal;
mod lost_transactions;
mod modify;
mod panics;
mod skipped_writes;
mod transaction;
#[expect(dead_code, reason = "the other binaries make tests in more ways")]
mod world;
mod write;

use larder_testing::process::work;

/// Becomes a worker of one of these files, when the environment says so.
#[test]
fn worker_entry() {
    work(&[crash::WRITER, journal::APPENDER]);
}
