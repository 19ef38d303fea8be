//! The tests of several rows or entities at once: batches, lookups, lists, tags, cached queries, cascades, entities over one table, and
//! columns that are not cached. Late fills are here too, because those of tags play the same scenes. `main.rs` says how the files are
//! divided.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod batch;
mod bulk;
mod bulk_by_lookup;
mod cascades;
#[expect(
    dead_code,
    unused_imports,
    reason = "the other binaries make further entities"
)]
mod entities;
mod families;
mod late_fills;
mod list;
mod lookup;
mod lookup_processes;
mod omit;
mod queries;
mod relations;
mod same_table;
mod tag_processes;
mod tags;
mod ttl_from;
mod within_lookups;
#[expect(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "the other binaries make tests in more ways"
)]
mod world;

use larder_testing::process::work;

/// Becomes a worker of one of these files, when the environment says so.
#[test]
fn worker_entry() {
    work(&[
        lookup_processes::MEMBER,
        tag_processes::CLERK,
        tag_processes::DOOMED_CLERK,
    ]);
}
