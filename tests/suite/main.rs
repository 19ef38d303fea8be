//! All tests that need a server or both crates, in one binary: one module per concept, named as the module it tests.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../support/mod.rs"]
mod support;

fn workers() -> &'static [(&'static str, support::process::WorkerFn)] {
    &[
        binding::FORKING,
        crash::WRITER,
        journal::APPENDER,
        processes::CROWD,
        processes::DOOMED,
    ]
}

mod binding;
mod breaker;
mod bulk;
mod crash;
mod dead_letters;
mod documentation;
mod draining;
mod dropped;
mod durability;
mod expiry;
mod failover;
mod flush_apply;
mod flushed_rows;
mod flushers;
mod incarnations;
mod journal;
mod journaled;
mod key;
mod large_rows;
mod late_fills;
mod lost_transactions;
mod messages;
mod negative;
mod offsets;
mod on_outage;
mod outage;
mod processes;
mod publication;
mod read;
mod refusals;
mod repair;
mod round_trip;
mod schema;
mod scripts;
mod stampede;
mod stats;
mod transaction;
mod types;
mod upgrade;
mod version;
mod world;
mod write;
mod write_behind;
mod write_through;
