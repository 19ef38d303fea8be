//! `cargo xtask coherence`: checked histories of workers on real servers, while things go wrong.
//! The program that does it needs servers it may make databases on, and must not meet those of a developer.
//! 1. The program is built. 2. Servers start in temporary folders. 3. It runs with their addresses in its environment and with the
//!    options that were given here; its output and its status pass through. 4. Servers stop.
//!
//! Invariant: the program's last line is the last line.
//! Invariant: the options are the program's own; this command knows none of them, so there is one list of them.
//! Not here: the workers, the faults and the judge, which are the package `coherence`; it starts the Redis it breaks by itself.

use std::ffi::OsString;

use crate::cargo::{cargo, last_word, run as run_command};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::servers::{Durability, Kind, Servers};

const PACKAGE: &str = "larder-coherence";

/// Runs the workers and judges their histories.
pub(crate) fn run(interrupt: &Interrupt, install: bool, options: &[OsString]) -> Outcome {
    // Tests run the same build: the servers and the scheduler decide how fast this goes, not the optimiser.
    run_command(interrupt, None, cargo(["build", "--package", PACKAGE]))?;
    let asks_only = |option: &OsString| option == "--help" || option == "-h" || option == "list";
    if options.iter().any(asks_only) {
        return run_command(interrupt, None, program(options));
    }
    let servers = Servers::start(interrupt, &Kind::ALL, install, Durability::Relaxed)?;
    let mut command = program(options);
    command.envs(servers.environment());
    // It keeps logs and the data of its own servers, and may be interrupted.
    command.env("TMPDIR", servers.folder());
    // A database may crash here, as nobody else uses it.
    command.env("LARDER_SERVERS_ARE_PRIVATE", "1");
    let status = last_word(interrupt, Some(servers.watchdog()), command)?;
    servers.stop();
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Told { status })
    }
}

fn program(options: &[OsString]) -> std::process::Command {
    let mut command = cargo(["run", "--quiet", "--package", PACKAGE, "--"]);
    command.args(options);
    command
}
