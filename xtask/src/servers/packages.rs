//! Finds the servers' programs, and installs what is missing where that is allowed.
//! A fresh machine has only Rust and a C compiler; the test command must work there as well.
//! 1. Programs are looked for on the path and where packages put them. 2. What is missing is
//!    installed with apt-get, by root or through a `sudo` that asks nothing. 3. Where neither is
//!    possible the command to run is printed, and we fail.
//!
//! Invariant: nothing is installed when nothing is missing, or when the caller said not to.
//! Not here: system services. Package scripts are told (`RUNLEVEL=1`) not to start any, and
//! whatever they start is not ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::is_root;
use super::{Kind, mariadb, postgres, redis};
use crate::cargo;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;

/// Folders that hold servers but are often not on the path.
const EXTRA: [&str; 4] = ["/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/usr/bin"];

/// Debian's PostgreSQL lies in a folder per version below this one.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Makes sure that the programs of these servers exist.
pub(crate) fn ensure(interrupt: &Interrupt, kinds: &[Kind], install: bool) -> Outcome {
    ensure_all(interrupt, install, || missing(kinds))
}

/// Makes sure that the programs exist that tests call beside the servers: Prometheus, and its linter of metrics and alerts.
pub(crate) fn ensure_tools(interrupt: &Interrupt, install: bool) -> Outcome {
    ensure_all(interrupt, install, || {
        let missing = ["prometheus", "promtool"].map(|program| find(program).err());
        let reason = missing.into_iter().flatten().next();
        reason
            .map(|reason| ("prometheus", reason))
            .into_iter()
            .collect()
    })
}

/// Installs the packages of what is missing.
fn ensure_all(
    interrupt: &Interrupt,
    install: bool,
    missing: impl Fn() -> Vec<(&'static str, String)>,
) -> Outcome {
    let missing_now = missing();
    if missing_now.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing_now.iter().map(|(package, _)| *package).collect();
    let reasons: Vec<&str> = missing_now
        .iter()
        .map(|(_, reason)| reason.as_str())
        .collect();
    let by_hand = format!(
        "missing programs: {}; install them with\n    apt-get update && apt-get install -y --no-install-recommends {}",
        reasons.join(", "),
        packages.join(" ")
    );
    if !install || find("apt-get").is_err() {
        return Err(Failure::message(by_hand));
    }
    let Some(prefix) = privilege() else {
        return Err(Failure::message(by_hand));
    };
    cargo::run(interrupt, None, apt(prefix, &["update"]))?;
    let arguments = [
        &["install", "-y", "--no-install-recommends"],
        packages.as_slice(),
    ]
    .concat();
    cargo::run(interrupt, None, apt(prefix, &arguments))?;
    let missing_now = missing();
    if missing_now.is_empty() {
        return Ok(());
    }
    let reasons: Vec<&str> = missing_now
        .iter()
        .map(|(_, reason)| reason.as_str())
        .collect();
    Err(Failure::message(format!(
        "still missing after the installation: {}",
        reasons.join(", ")
    )))
}

/// Where a program is, or that it is nowhere.
pub(crate) fn find(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(EXTRA.iter().map(PathBuf::from))
        .chain(postgres_folders(Path::new(POSTGRES)))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("`{program}` is not installed"))
}

/// Packages that would supply what is missing, each with what is wrong now.
fn missing(kinds: &[Kind]) -> Vec<(&'static str, String)> {
    kinds
        .iter()
        .filter_map(|kind| match kind {
            Kind::Redis => redis::program()
                .err()
                .map(|reason| ("redis-server", reason)),
            Kind::Postgres => postgres::programs()
                .err()
                .map(|reason| ("postgresql", reason)),
            Kind::Mysql => mariadb::programs()
                .err()
                .map(|reason| ("mariadb-server", reason)),
        })
        .collect()
}

/// What to put in front of a command that needs root rights, if they can be had silently.
fn privilege() -> Option<&'static [&'static str]> {
    if is_root() {
        return Some(&[]);
    }
    let sudo = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // A `sudo` that is missing is no different from one that refuses.
    sudo.is_ok_and(|status| status.success())
        .then_some(&["sudo", "-n"])
}

fn apt(prefix: &[&str], arguments: &[&str]) -> Command {
    // `env` carries the settings through `sudo`, which drops the environment.
    let settings = [
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "RUNLEVEL=1",
        "apt-get",
    ];
    let words = [prefix, &settings, arguments].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command
}

/// `/usr/lib/postgresql/*/bin`, newest version first.
fn postgres_folders(top: &Path) -> Vec<PathBuf> {
    // A folder that cannot be listed holds no PostgreSQL we could run.
    let Ok(entries) = std::fs::read_dir(top) else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_postgres_comes_first() {
        let top = tempfile::tempdir().unwrap();
        for version in ["9", "17", "15", "notes"] {
            std::fs::create_dir(top.path().join(version)).unwrap();
        }
        let found = postgres_folders(top.path());
        let expected: Vec<PathBuf> = ["17", "15", "9"]
            .iter()
            .map(|v| top.path().join(v).join("bin"))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn missing_program_is_named() {
        assert_eq!(
            find("no-such-server").unwrap_err(),
            "`no-such-server` is not installed"
        );
    }

    #[test]
    fn installation_is_silent_and_starts_no_services() {
        let command = apt(&["sudo", "-n"], &["update"]);
        assert_eq!(
            cargo::describe(&command),
            "sudo -n env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get update"
        );
    }
}
