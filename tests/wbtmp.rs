#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#[path = "support/mod.rs"]
mod support;
fn workers() -> &'static [(&'static str, support::process::WorkerFn)] {
    &[]
}
#[path = "suite/world.rs"]
mod world;
#[path = "suite/write_behind.rs"]
mod write_behind;
