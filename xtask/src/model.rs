//! `cargo xtask model`: the protocol, checked state by state; no servers needed.
//! The small bounds run with all tests. The wide ones need minutes and a release build, so they have a command.
//! 1. The test binary `model` is built and run, with optimisations for the wide bounds. 2. Of its output only the models'
//!    own lines and the complaints are passed on.
//!
//! Invariant: whatever is not known to be mere progress of the test runner is passed on.
//! Not here: what is modelled; see `tests/model/`.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};

use crate::cargo::{cargo, run as run_command};
use crate::failure::{Attempt, Outcome};
use crate::interrupt::Interrupt;

/// Runs all models, or those whose tests' names contain one of the filters.
pub(crate) fn run(interrupt: &Interrupt, wide: bool, filter: &[OsString]) -> Outcome {
    let mut command = cargo(["test", "--test", "model", "--all-features"]);
    if wide {
        command.arg("--release");
    }
    // With more than one thread the runner writes whole lines; the memory of two models at once is bounded.
    command.args(["--", "--nocapture", "--test-threads=2"]);
    command.args(filter);
    command.env("LARDER_MODEL", if wide { "wide" } else { "small" });
    let (output, input) = std::io::pipe().attempt(|| "open a pipe".to_owned())?;
    command.stdout(input);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if !is_progress(&line) {
                    println!("{line}");
                }
            }
        });
        // The command, and with it our end of the pipe, is gone when this returns.
        run_command(interrupt, None, command)
    })
}

/// Whether a line only says that the test runner goes on.
fn is_progress(line: &str) -> bool {
    line.is_empty()
        || line.starts_with("running ")
        || line.starts_with("test result: ok.")
        || (line.starts_with("test ") && line.ends_with(" ... ok"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_passed_on() {
        assert!(is_progress("test entry::a ... ok"));
        assert!(!is_progress("test entry::a ... FAILED"));
        assert!(!is_progress("test result: FAILED. 1 passed; 1 failed"));
        assert!(!is_progress("model: a: 5 states, 0.10 s: holds"));
    }
}
