//! What the tests stand on: databases, servers to break, faults on the wire, other processes.
//! A cache is judged by what happens when things around it fail, so the failures must be real ones,
//! and they must happen when the test says so, not when the scheduler feels like it.
//! 1. [`database`] gives each test a database of its own and counts the statements that reach it.
//! 2. [`proxy`] stands in front of a server and breaks connections at chosen requests.
//! 3. [`redis_server`] is a Redis that a test may stop, freeze, kill and restart.
//! 4. [`log`] keeps what larder has said about a server.
//! 5. [`process`] runs a part of a test in another process, which a test may kill.
//! 6. [`cut`] drops a future after so many polls.
//!
//! Invariant: nothing here outlives the test that asked for it, passed or failed.
//! Invariant: every wait is bounded, and says at its end what it was waiting for.
//! Not here: the shared servers, which `cargo xtask test` and `cargo xtask servers` start; entities
//! and stores, which the tests define beside their claims.

pub(crate) mod cut;
pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod log;
pub(crate) mod port;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod redis_server;
pub(crate) mod statements;
pub(crate) mod wire;

/// The address of a shared server, from the environment that `cargo xtask` sets.
///
/// # Panics
///
/// When the variable is missing, with the way to set it.
pub(crate) fn server_url(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set; run the tests with `cargo xtask test`, or start the servers \
             with `cargo xtask servers` and export what it prints"
        )
    })
}
