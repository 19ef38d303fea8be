//! What the tests and the programs of this repository stand on: databases, servers to break, faults on the wire, other processes.
//! A cache is judged by what happens when things around it fail, so the failures must be real ones, and they must happen when
//! the test says so, not when the scheduler feels like it.
//!
//! Without the feature `full`, which is on by default, there is what starts a server:
//!
//! 1. [`clock`] reads time, [`port`] reserves ports, [`readiness`] asks servers whether they answer.
//! 2. [`redis_process`] is a Redis of our own, as far as it is the same for everybody who starts one.
//!
//! With it there is what a test needs besides:
//!
//! 1. [`database`] gives each test a database of its own and counts the statements that reach it.
//! 2. [`proxy`] stands in front of a server and breaks connections at chosen requests.
//! 3. [`redis_server`] is a Redis that a test may stop, freeze, kill and restart.
//! 4. [`log`] keeps what larder has said about a server.
//! 5. [`process`] runs a part of a test in another process, which a test may kill.
//! 6. [`cut`] drops a future after so many polls.
//!
//! Invariant: nothing here outlives the test that asked for it, passed or failed.
//! Invariant: every wait is bounded, and says at its end what it was waiting for.
//! Invariant: larder is not a dependency, so that a test may build it with the features that the test is about.
//! Not here: the shared servers, which `cargo xtask test` and `cargo xtask servers` start; entities and stores, which the tests
//! define beside their claims.

pub mod clock;
pub mod port;
pub mod readiness;
pub mod redis_process;

#[cfg(feature = "full")]
pub mod cut;
#[cfg(feature = "full")]
pub mod database;
#[cfg(feature = "full")]
pub mod disk;
#[cfg(feature = "full")]
pub mod log;
#[cfg(feature = "full")]
pub mod process;
#[cfg(feature = "full")]
pub mod proxy;
#[cfg(feature = "full")]
pub mod redis_server;
#[cfg(feature = "full")]
pub mod statements;
#[cfg(feature = "full")]
pub mod wire;

/// Returns the address of a shared server, from the environment that `cargo xtask` sets.
///
/// # Panics
///
/// When the variable is missing, with the way to set it.
#[cfg(feature = "full")]
#[must_use]
pub fn server_url(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set; run the tests with `cargo xtask test`, or start the servers \
             with `cargo xtask servers` and export what it prints"
        )
    })
}

/// Becomes a worker of a test of [`process`], when the environment says so.
#[cfg(all(test, feature = "full"))]
#[test]
fn worker_entry() {
    process::work(process::tests::WORKERS);
}
