//! `cargo xtask mutants`: changes the runtime in one place at a time, and lists the changes that no test notices.
//! A rule that no test misses is either dead or unproven.
//! 1. `cargo mutants` lists the changes of the given files, or of those on which the promises rest; with `--sample N` some of
//!    them are drawn. 2. Each is tried against the unit tests of the runtime (about ten seconds for a change). 3. What they let
//!    through is tried against the models. 4. With `--suite`, what is left is tried against `tests/suite`, with servers; that
//!    takes minutes for a change. 5. What is left then is listed, and fails the command.
//!
//! A survivor is killed by a test, or its code goes, or it stands in `.cargo/mutants.toml` with the reason why it changes
//! nothing.
//! Invariant: of one seed the same changes are drawn, as long as the files are the same.
//! Invariant: a change is tried against a stage only if it survived the stages before.
//! Not here: how code is changed; that is cargo-mutants (<https://mutants.rs>), which has to be installed.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cargo::{cargo, is_installed, root, status};
use crate::failure::{Attempt, Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::servers::{Durability, Kind, Servers};

/// The files on which the promises rest.
const FILES: [&str; 18] = [
    "protocol/state.rs",
    "protocol/entry.rs",
    "protocol/claim.rs",
    "protocol/queue_position.rs",
    "read/mod.rs",
    "read/load.rs",
    "read/flight.rs",
    "read/turn.rs",
    "write/mod.rs",
    "write/row_gate.rs",
    "write/announce/mod.rs",
    "write/announce/intent.rs",
    "write/announce/pending.rs",
    "repair/backlog.rs",
    "behind/flush/mod.rs",
    "behind/flush/log_view.rs",
    "behind/flush/commit.rs",
    "behind/flush/barrier.rs",
];

/// What is to be tried.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) install: bool,
    /// How many changes are drawn; all if it is not given.
    pub(crate) sample: Option<usize>,
    pub(crate) seed: u64,
    /// Whether survivors are tried against the suite.
    pub(crate) suite: bool,
    pub(crate) files: Vec<OsString>,
}

/// Tries changes, and fails if one survives.
pub(crate) fn run(interrupt: &Interrupt, options: &Options) -> Outcome {
    if !is_installed("mutants") {
        return Err(Failure::message(
            "cargo-mutants is not installed; `cargo install --locked cargo-mutants` installs it",
        ));
    }
    let files = files(&options.files);
    let mut changes = list(&files)?;
    let all = changes.len();
    if let Some(sample) = options.sample {
        changes = drawn(changes, sample, options.seed);
    }
    eprintln!(
        "xtask: {} of {all} changes (seed {})",
        changes.len(),
        options.seed
    );
    let tried = changes.len();
    let mut survivors = changes;
    for stage in [&UNIT_TESTS, &MODELS] {
        survivors = stage.survivors(interrupt, None, survivors, &files)?;
    }
    if options.suite && !survivors.is_empty() {
        let servers = Servers::start(interrupt, &Kind::ALL, options.install, Durability::Relaxed)?;
        survivors = SUITE.survivors(interrupt, Some(&servers), survivors, &files)?;
        servers.stop();
    }
    report(tried, &survivors)
}

/// Tests that changes are tried against.
struct Stage {
    name: &'static str,
    /// The package whose tests these are.
    package: &'static str,
    /// Which of its tests.
    tests: &'static [&'static str],
}

const UNIT_TESTS: Stage = Stage {
    name: "unit",
    package: "larder-runtime",
    tests: &["--lib"],
};

const MODELS: Stage = Stage {
    name: "models",
    package: "larder",
    tests: &["--test", "model"],
};

const SUITE: Stage = Stage {
    name: "suite",
    package: "larder",
    tests: &["--test", "suite", "--test", "groups", "--test", "writes"],
};

impl Stage {
    /// Tries the changes, and returns those that no test noticed.
    fn survivors(
        &self,
        interrupt: &Interrupt,
        servers: Option<&Servers>,
        changes: Vec<String>,
        files: &[OsString],
    ) -> Outcome<Vec<String>> {
        if changes.is_empty() {
            return Ok(changes);
        }
        eprintln!("xtask: {} changes against {}", changes.len(), self.name);
        let mutants = root().join("target").join("mutants");
        let folder = mutants.join(self.name);
        let mut command = of(&changes, files, &folder)?;
        // Each run copies the repository; what it depends on is built once for all of them.
        command.env("CARGO_TARGET_DIR", mutants.join("build"));
        command.args(["--test-package", self.package]);
        if let Some(servers) = servers {
            command.envs(servers.environment());
        }
        if is_installed("nextest") {
            // It ends at the first failure, which is all that is asked.
            command.args(["--test-tool=nextest", "--"]).args(self.tests);
            command.arg("--fail-fast");
        } else {
            command.arg("--").args(self.tests);
        }
        let watchdog = servers.map(Servers::watchdog);
        let status = status(interrupt, watchdog, command)?;
        // 2: some were missed; 3: a test timed out, which counts as noticed.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            return Err(Failure::message("the changes could not be tried"));
        }
        let missed = folder.join("mutants.out").join("missed.txt");
        let text = fs::read_to_string(&missed).attempt(|| format!("read {}", missed.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Says how it went, and fails if a change survived.
fn report(tried: usize, survivors: &[String]) -> Outcome {
    for survivor in survivors {
        println!("survived: {survivor}");
    }
    println!("mutants: tried={tried} survived={}", survivors.len());
    match survivors.len() {
        0 => Ok(()),
        count => Err(Failure::message(format!("{count} changes survived"))),
    }
}

/// The files as cargo-mutants names them.
fn files(given: &[OsString]) -> Vec<OsString> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let files = FILES.map(|file| OsString::from(format!("cache-runtime/src/{file}")));
    files.to_vec()
}

/// All changes of some files, one line each.
fn list(files: &[OsString]) -> Outcome<Vec<String>> {
    let mut command = base(files);
    command.arg("--list").stderr(Stdio::inherit());
    let output = command
        .output()
        .attempt(|| "start `cargo mutants --list`".to_owned())?;
    if !output.status.success() {
        return Err(Failure::message("`cargo mutants --list` failed"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// Some of the changes, in the order of a hash that the seed changes.
fn drawn(mut changes: Vec<String>, sample: usize, seed: u64) -> Vec<String> {
    changes.sort_by_cached_key(|change| {
        let mut hasher = DefaultHasher::new();
        (seed, change).hash(&mut hasher);
        hasher.finish()
    });
    changes.truncate(sample);
    changes
}

fn base(files: &[OsString]) -> Command {
    let mut command = cargo(["mutants", "--colors=never", "--all-features"]);
    command.args(["--package", "larder-runtime"]);
    for file in files {
        command.arg("--file").arg(file);
    }
    command
}

/// The command that tries these changes, and no other. They are named in a file, with what is always left out.
fn of(changes: &[String], files: &[OsString], folder: &Path) -> Outcome<Command> {
    fs::create_dir_all(folder).attempt(|| format!("make the folder {}", folder.display()))?;
    let always = root().join(".cargo").join("mutants.toml");
    let always = fs::read_to_string(&always).attempt(|| format!("read {}", always.display()))?;
    let names = changes
        .iter()
        .map(|change| format!("    \"^{}$\",\n", escaped(change).replace('\\', "\\\\")));
    let config = folder.join("mutants.toml");
    let names = names.collect::<String>();
    let text = format!("{always}\nexamine_re = [\n{names}]\n");
    fs::write(&config, text).attempt(|| format!("write {}", config.display()))?;
    let mut command = base(files);
    command.arg("--config").arg(config);
    // The unmutated tree is tested by everything else.
    command.args([
        "--baseline=skip",
        "--timeout=300",
        "--no-shuffle",
        "--output",
    ]);
    command.arg(folder);
    Ok(command)
}

/// The text as a regular expression that means just it. Only what has a meaning may be escaped: `\<` has one, `<` has none.
fn escaped(text: &str) -> String {
    let is_special = |c: char| r"\.+*?()|[]{}^$#&-~".contains(c);
    text.chars()
        .flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_draws_the_same_changes_in_whatever_order_they_are_listed() {
        let changes = |order: &[u8]| order.iter().map(u8::to_string).collect::<Vec<_>>();
        let one = drawn(changes(&[1, 2, 3, 4, 5, 6]), 3, 7);
        assert_eq!(one, drawn(changes(&[6, 5, 4, 3, 2, 1]), 3, 7));
        assert_eq!(one.len(), 3);
        let others = (0..20).map(|seed| drawn(changes(&[1, 2, 3, 4, 5, 6]), 3, seed));
        assert!(others.into_iter().any(|other| other != one));
    }

    #[test]
    fn change_is_a_pattern_that_means_just_it() {
        let change = "src/a.rs:3:9: replace && with || in f<T>::g";
        assert_eq!(
            escaped(change),
            r"src/a\.rs:3:9: replace \&\& with \|\| in f<T>::g"
        );
    }

    #[test]
    fn survivor_fails_the_command() {
        assert!(report(2, &[]).is_ok());
        let failure = report(2, &["src/a.rs:3:9: replace f with ()".to_owned()]);
        assert!(
            failure
                .unwrap_err()
                .to_string()
                .contains("1 changes survived")
        );
    }

    #[test]
    fn files_of_the_promises_are_there() {
        for file in files(&[]) {
            assert!(root().join(&file).exists(), "{}", file.display());
        }
    }
}
