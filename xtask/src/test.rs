//! `cargo xtask test`: every test of the workspace, against servers started for this run.
//! A developer's own Redis or PostgreSQL has settings and data that change what a test proves.
//! 1. Servers start in temporary folders. 2. Unit and integration tests run, with nextest when it
//!    is installed, otherwise with `cargo test`. 3. Documentation tests run. 4. Servers stop.
//!
//! Invariant: both runs happen even when the first one fails; the command then fails.
//! Not here: benchmarks.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::cargo::{cargo, root, status};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::servers::{Durability, Kind, Servers};

/// Runs all tests, or those the filter names.
pub(crate) fn run(interrupt: &Interrupt, install: bool, filter: &[OsString]) -> Outcome {
    let servers = Servers::start(interrupt, &Kind::ALL, install, Durability::Relaxed)?;
    let mut failed = Vec::new();
    for (name, mut command) in [
        ("tests", tests(filter)),
        ("documentation tests", doctests(filter)),
    ] {
        command.envs(servers.environment());
        if !status(interrupt, Some(servers.watchdog()), command)?.success() {
            failed.push(name);
        }
    }
    servers.stop();
    if failed.is_empty() {
        eprintln!("xtask: all tests passed");
        return Ok(());
    }
    Err(Failure::message(format!("failed: {}", failed.join(", "))))
}

fn tests(filter: &[OsString]) -> Command {
    let mut command;
    if nextest_is_installed() {
        command = cargo([
            "nextest",
            "run",
            "--workspace",
            "--all-features",
            "--no-fail-fast",
        ]);
        if !filter.is_empty() {
            // The filter may name documentation tests only.
            command.arg("--no-tests=warn");
        }
    } else {
        command = cargo(["test", "--workspace", "--all-features", "--no-fail-fast"]);
        command.args(["--lib", "--bins", "--tests", "--examples"]);
    }
    pass_on(&mut command, filter);
    command
}

fn doctests(filter: &[OsString]) -> Command {
    let mut command = cargo([
        "test",
        "--workspace",
        // Its examples name the facade, which compiles them for it.
        "--exclude=larder-derive",
        "--all-features",
        "--no-fail-fast",
        "--doc",
    ]);
    pass_on(&mut command, filter);
    command
}

fn pass_on(command: &mut Command, filter: &[OsString]) {
    if !filter.is_empty() {
        command.arg("--").args(filter);
    }
}

fn nextest_is_installed() -> bool {
    let probe = cargo(["nextest", "--version"])
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // A cargo that cannot be started is reported by the run itself.
    probe.is_ok_and(|status| status.success())
}
