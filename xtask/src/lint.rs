//! `cargo xtask lint`: everything about the code that a machine can judge without running it.
//! 1. Formatting. 2. Clippy with all features, then with subsets, because code behind a missing
//!    feature is not compiled and so not checked. 3. Documentation. 4. Licences and sources of dependencies, where `cargo deny` is installed.
//!    5. That the published crates are complete. 6. Our own rules, `tidy`.
//!
//! Invariant: all steps run, so that one push shows all complaints; any of them fails the command.

use std::process::Command;

use crate::cargo::{cargo, is_installed, status};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::{package, tidy};

/// Feature sets that must compile without warnings on their own.
const SUBSETS: [&[&str]; 3] = [
    &[
        "-p",
        "larder-runtime",
        "--no-default-features",
        "--features",
        "sqlite,msgpack",
    ],
    &[
        "-p",
        "larder-runtime",
        "--no-default-features",
        "--features",
        "postgres,redis,msgpack",
    ],
    &[
        "-p",
        "larder",
        "--no-default-features",
        "--features",
        "mysql,redis,msgpack",
    ],
];

/// Runs every check and lists those that failed.
pub(crate) fn run(interrupt: &Interrupt) -> Outcome {
    let mut failed = Vec::new();
    for (name, command) in steps() {
        if !status(interrupt, None, command)?.success() {
            failed.push(name);
        }
    }
    for (name, outcome) in [("package", package::run(interrupt)), ("tidy", tidy::run())] {
        if let Err(failure) = outcome {
            eprintln!("xtask: {failure}");
            failed.push(name.to_owned());
        }
    }
    if failed.is_empty() {
        eprintln!("xtask: no complaints");
        return Ok(());
    }
    Err(Failure::message(format!("failed: {}", failed.join(", "))))
}

fn steps() -> Vec<(String, Command)> {
    let mut steps = vec![
        ("fmt".to_owned(), cargo(["fmt", "--all", "--", "--check"])),
        (
            "clippy".to_owned(),
            clippy(&["--workspace", "--all-targets", "--all-features"]),
        ),
    ];
    for subset in SUBSETS {
        steps.push((format!("clippy {}", subset.join(" ")), clippy(subset)));
    }
    let mut doc = cargo(["doc", "--workspace", "--no-deps", "--all-features"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    steps.push(("doc".to_owned(), doc));
    if is_installed("deny") {
        steps.push((
            "deny".to_owned(),
            cargo(["deny", "--all-features", "check"]),
        ));
    }
    steps
}

fn clippy(what: &[&str]) -> Command {
    let mut command = cargo(["clippy"]);
    command.args(what).args(["--", "-D", "warnings"]);
    command
}
