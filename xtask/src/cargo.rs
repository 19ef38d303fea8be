//! Runs other programs (cargo, mostly) in the repository and waits for them.
//! A test run that outlives its servers reports failures that mean nothing, so a signal ends both.
//! 1. The child gets a process group of its own. 2. The wait looks at the interrupt flag. 3. On a
//!    signal or a panic the whole group is told to end, then killed after a bounded wait.
//!
//! Not here: servers, which run beside everything else; see `servers::process`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use larder_testing::clock::{Stopwatch, pause};

use crate::failure::{Attempt, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::servers::process::Group;
use crate::servers::watchdog::Watchdog;

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("this package lies in a folder of the repository")
        .to_owned()
}

/// A `cargo` command line, started at the top of the repository.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command to its end and fails when it fails.
pub(crate) fn run(interrupt: &Interrupt, watchdog: Option<&Watchdog>, command: Command) -> Outcome {
    let what = describe(&command);
    let status = status(interrupt, watchdog, command)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::Child { what, status })
    }
}

/// Runs a command to its end, says how it went, and returns its status.
pub(crate) fn status(
    interrupt: &Interrupt,
    watchdog: Option<&Watchdog>,
    command: Command,
) -> Outcome<ExitStatus> {
    let what = describe(&command);
    let stopwatch = Stopwatch::start();
    let status = last_word(interrupt, watchdog, command)?;
    let result = if status.success() { "passed" } else { "FAILED" };
    eprintln!("xtask: {what}: {result} after {:.1} s", stopwatch.seconds());
    Ok(status)
}

/// Runs a command whose last line is to be the last one that is seen, and returns its status.
pub(crate) fn last_word(
    interrupt: &Interrupt,
    watchdog: Option<&Watchdog>,
    mut command: Command,
) -> Outcome<ExitStatus> {
    let what = describe(&command);
    eprintln!("xtask: {what}");
    let mut group = Group::start(
        &mut command,
        watchdog.cloned(),
        rustix::process::Signal::TERM,
    )
    .attempt(|| format!("start `{what}`"))?;
    loop {
        interrupt.check()?;
        if let Some(status) = group.ended().attempt(|| format!("wait for `{what}`"))? {
            return Ok(status);
        }
        pause();
    }
}

/// The command as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Whether cargo has a subcommand that is not its own.
pub(crate) fn is_installed(subcommand: &str) -> bool {
    let probe = cargo([subcommand, "--version"])
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // A cargo that cannot be started is reported by the run itself.
    probe.is_ok_and(|status| status.success())
}
