//! What the tests and the programs of this repository stand on.
//!
//! 1. [`clock`] reads time, [`port`] reserves ports, [`readiness`] asks servers whether they answer.
//! 2. [`redis_process`] is a Redis of our own, as far as it is the same for everybody who starts one.
//!
//! Invariant: nothing here outlives its owner, passed or failed.
//! Invariant: every wait is bounded, and says at its end what it was waiting for.
//! Not here: the shared servers, which `cargo xtask test` and `cargo xtask servers` start; larder itself, which this crate does
//! not depend on, so that a test may build it with the features that it is about.

pub mod clock;
pub mod port;
pub mod readiness;
pub mod redis_process;
