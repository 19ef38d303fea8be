//! `cargo xtask bench`: the benchmarks, against servers started for this run.
//! Numbers taken against a server with other settings, or one that others use, compare nothing.
//! 1. Servers start with every commit flushed, as in production. 2. The package `benches`, which is outside the
//!    workspace, runs with their addresses in its environment; its output and its status pass through.
//! 3. Servers stop.
//!
//! Not here: what is measured; see `benches/`.

use std::ffi::OsString;

use crate::cargo::{cargo, run as run_command};
use crate::failure::Outcome;
use crate::interrupt::Interrupt;
use crate::servers::{Durability, Kind, Servers};

/// Runs all benchmarks, or those named.
pub(crate) fn run(interrupt: &Interrupt, install: bool, names: &[OsString]) -> Outcome {
    let servers = Servers::start(interrupt, &Kind::ALL, install, Durability::Full)?;
    let mut command = cargo(["run", "--release", "--manifest-path", "benches/Cargo.toml"]);
    command.arg("--").args(names).envs(servers.environment());
    run_command(interrupt, Some(servers.watchdog()), command)?;
    servers.stop();
    Ok(())
}
