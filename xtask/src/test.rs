//! `cargo xtask test`: every test of the workspace, against servers started for this run.
//! A developer's own Redis or PostgreSQL has settings and data that change what a test proves.
//! 1. Servers start in temporary folders. 2. Unit and integration tests run, with nextest when it
//!    is installed, otherwise with `cargo test`. 3. Documentation tests run. 4. `shipped` runs in the builds that users
//!    get: with one database alone, with the default features and without them. 5. Servers stop.
//!
//! Invariant: all runs happen even when the first one fails; the command then fails.
//! Not here: benchmarks.

use std::ffi::OsString;
use std::process::Command;
use std::thread;

use crate::cargo::{cargo, is_installed, status};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::servers::{Durability, Kind, Servers, packages};

/// The features of builds that users make. All other tests run with all features, the internal ones among them.
const SHIPPED: [&[&str]; 4] = [
    &["--features", "postgres"],
    &["--features", "sqlite"],
    &["--no-default-features", "--features", "mysql,redis,json"],
    &["--no-default-features", "--features", "sqlite,postcard"],
];

/// Runs all tests, or those the filter names.
pub(crate) fn run(interrupt: &Interrupt, install: bool, filter: &[OsString]) -> Outcome {
    packages::ensure_tools(interrupt, install)?;
    let servers = Servers::start(interrupt, &Kind::ALL, install, Durability::Relaxed)?;
    let mut failed = Vec::new();
    let mut runs = vec![
        ("tests".to_owned(), tests(filter)),
        ("documentation tests".to_owned(), doctests(filter)),
    ];
    for features in SHIPPED {
        let name = format!("tests of a build with {}", features.join(" "));
        runs.push((name, shipped(features, filter)));
    }
    for (name, mut command) in runs {
        command.envs(servers.environment());
        command.env("RUST_TEST_THREADS", threads());
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

/// How many tests run at the same time, for both runners. Most tests wait for something, so there are more than processors.
fn threads() -> String {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    std::env::var("RUST_TEST_THREADS").unwrap_or_else(|_| (2 * processors).to_string())
}

fn tests(filter: &[OsString]) -> Command {
    let mut command;
    if is_installed("nextest") {
        command = cargo([
            "nextest",
            "run",
            "--workspace",
            "--all-features",
            "--no-fail-fast",
            "--test-threads",
            &threads(),
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

fn shipped(features: &[&str], filter: &[OsString]) -> Command {
    let mut command = cargo(["test", "--package", "larder-shipped"]);
    command.args(features);
    pass_on(&mut command, filter);
    command
}

fn pass_on(command: &mut Command, filter: &[OsString]) {
    if !filter.is_empty() {
        command.arg("--").args(filter);
    }
}
