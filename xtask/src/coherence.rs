//! `cargo xtask coherence` and `cargo xtask crash`: workers on real servers, while things go wrong; what they read, and what
//! became of their queued writes.
//! The programs that do it need servers they may make databases on, and must not meet those of a developer.
//! 1. The programs are built. 2. Servers start in temporary folders. 3. One runs with their addresses in its environment and with the
//!    options that were given here; its output and its status pass through. 4. Servers stop.
//!
//! Invariant: the program's last line is the last line.
//! Invariant: the options are the program's own; this command knows none of them, so there is one list of them.
//! Not here: the workers, the faults and the judges, which are the package `coherence`; it starts the Redis it breaks by itself.

use std::ffi::OsString;

use crate::cargo::{cargo, last_word, run as run_command};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::servers::{Durability, Kind, Servers};

const PACKAGE: &str = "larder-coherence";

/// A program of the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Judges what was read.
    Coherence,
    /// Counts what became of queued writes.
    Crash,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Coherence => "larder-coherence",
            Self::Crash => "larder-crash",
        }
    }
}

/// Runs the workers and judges what they did.
pub(crate) fn run(
    interrupt: &Interrupt,
    program: Program,
    install: bool,
    options: &[OsString],
) -> Outcome {
    // Tests run the same build: the servers and the scheduler decide how fast this goes, not the optimiser.
    run_command(interrupt, None, cargo(["build", "--package", PACKAGE]))?;
    let asks_only = |option: &OsString| option == "--help" || option == "-h" || option == "list";
    if options.iter().any(asks_only) {
        return run_command(interrupt, None, command(program, options));
    }
    let servers = Servers::start(interrupt, &Kind::ALL, install, Durability::Relaxed)?;
    let mut command = command(program, options);
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

fn command(program: Program, options: &[OsString]) -> std::process::Command {
    let mut command = cargo(["run", "--quiet", "--package", PACKAGE]);
    command.args(["--bin", program.name(), "--"]);
    command.args(options);
    command
}
