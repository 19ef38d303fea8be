//! Redis, PostgreSQL and MariaDB, started for one command and gone after it.
//! A test must not depend on what else runs on the machine, nor leave anything running on it.
//! 1. Missing programs are installed or asked for. 2. Each server gets a folder and a port of its
//!    own and is polled until it answers. 3. Its address goes into an environment variable.
//! 4. Dropping [`Servers`] stops them and removes the folders.
//!
//! Invariant: only processes started here are ever signalled, by their id.
//! Invariant: an end that runs no destructors is covered by `watchdog`.
//! Not here: a system-wide server, which is neither used nor touched.

mod account;
mod mariadb;
pub(crate) mod packages;
mod postgres;
pub(crate) mod process;
mod redis;
pub(crate) mod watchdog;

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use larder_testing::clock::Deadline;
use tempfile::TempDir;

use crate::cargo;
use crate::failure::{Attempt, Failure, Outcome};
use crate::interrupt::Interrupt;
use process::Server;
use watchdog::Watchdog;

/// A kind of server the tests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The shared store.
    Redis,
    /// A database.
    Postgres,
    /// MariaDB, which speaks MySQL's protocol.
    Mysql,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::Mysql];

    /// Reads `redis,postgres,mysql`.
    pub(crate) fn parse_list(text: &str) -> Outcome<Vec<Self>> {
        text.split(',')
            .map(|name| match name.trim() {
                "redis" => Ok(Self::Redis),
                "postgres" => Ok(Self::Postgres),
                "mysql" => Ok(Self::Mysql),
                other => Err(Failure::usage(format!(
                    "unknown server `{other}`; there are `redis`, `postgres` and `mysql`"
                ))),
            })
            .collect()
    }
}

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The death of the server process; enough for tests, and many times faster.
    Relaxed,
    /// The loss of power as well, as in production.
    Full,
}

/// How long the removal of the temporary folder is tried.
const REMOVAL: Duration = Duration::from_secs(5);

/// An environment variable for the programs that use a server.
type Variable = (&'static str, String);

/// Where a server may live and how it is to be started.
pub(crate) struct Place<'a> {
    folder: &'a Path,
    watchdog: &'a Watchdog,
    interrupt: &'a Interrupt,
    durability: Durability,
}

/// Running servers; they stop when this is dropped.
// Fields are dropped in this order: processes first, then their files, then who watches over both.
pub(crate) struct Servers {
    running: Vec<Server>,
    environment: Vec<Variable>,
    folder: Folder,
    watchdog: Watchdog,
}

/// A temporary folder whose removal is insisted on: a process that was killed a moment ago may have
/// created one more file while we were removing the others.
struct Folder(Option<TempDir>);

impl Folder {
    fn create() -> Outcome<Self> {
        let folder = tempfile::Builder::new()
            .prefix("larder-")
            .tempdir()
            .attempt(|| "create a temporary folder".to_owned())?;
        // Servers run under other accounts, which must be able to reach their folder in this one.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711))
            .attempt(|| "open the temporary folder to the servers".to_owned())?;
        Ok(Self(Some(folder)))
    }

    fn path(&self) -> &Path {
        self.0
            .as_ref()
            .expect("the folder exists until it is dropped")
            .path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let Some(folder) = self.0.take() else { return };
        let path = folder.keep();
        let deadline = Deadline::after(REMOVAL);
        while let Err(error) = fs::remove_dir_all(&path) {
            if !deadline.pause() {
                eprintln!("xtask: failed to remove {}: {error}", path.display());
                return;
            }
        }
    }
}

impl Servers {
    /// Starts servers of these kinds and waits until each answers.
    pub(crate) fn start(
        interrupt: &Interrupt,
        kinds: &[Kind],
        install: bool,
        durability: Durability,
    ) -> Outcome<Self> {
        packages::ensure(interrupt, kinds, install)?;
        let folder = Folder::create()?;
        let watchdog = Watchdog::start(folder.path())?;
        let mut servers = Self {
            running: Vec::new(),
            environment: Vec::new(),
            folder,
            watchdog,
        };
        servers.start_all(interrupt, kinds, durability)?;
        Ok(servers)
    }

    fn start_all(
        &mut self,
        interrupt: &Interrupt,
        kinds: &[Kind],
        durability: Durability,
    ) -> Outcome {
        let folder = self.folder.path();
        let watchdog = &self.watchdog;
        let started: Vec<Outcome<(Server, Vec<Variable>)>> = std::thread::scope(|scope| {
            // All are started before the first is waited for.
            let starts: Vec<_> = kinds
                .iter()
                .map(|&kind| {
                    scope.spawn(move || {
                        let place = Place {
                            folder,
                            watchdog,
                            interrupt,
                            durability,
                        };
                        match kind {
                            Kind::Redis => redis::start(&place),
                            Kind::Postgres => postgres::start(&place),
                            Kind::Mysql => mariadb::start(&place),
                        }
                    })
                })
                .collect();
            starts
                .into_iter()
                .map(|start| {
                    start
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let mut failures = Vec::new();
        for start in started {
            match start {
                Ok((server, variables)) => {
                    self.running.push(server);
                    self.environment.extend(variables);
                }
                Err(failure) => failures.push(failure),
            }
        }
        interrupt.check()?;
        if failures.is_empty() {
            return Ok(());
        }
        let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
        Err(Failure::message(texts.join("\n")))
    }

    /// The variables that tell programs where the servers are.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
    }

    /// A folder that disappears with the servers, however this ends.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Also cleans up after programs that use the servers.
    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Stops the servers; dropping does the same.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

/// `cargo xtask servers`: keeps servers for manual use, or for the length of one command.
pub(crate) fn manual(
    interrupt: &Interrupt,
    kinds: &[Kind],
    install: bool,
    command: &[OsString],
) -> Outcome {
    let servers = Servers::start(interrupt, kinds, install, Durability::Relaxed)?;
    if let Some((program, arguments)) = command.split_first() {
        let mut command = Command::new(program);
        command.args(arguments).envs(servers.environment());
        return cargo::run(interrupt, Some(servers.watchdog()), command);
    }
    for (name, value) in servers.environment() {
        println!("export {name}='{value}'");
    }
    eprintln!("xtask: the servers run until Ctrl-C or the end of the input");
    let input = input_end();
    loop {
        interrupt.check()?;
        match input.recv_timeout(Duration::from_millis(100)) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Hears from this channel when standard input ends.
fn input_end() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    // Not joined: reading cannot be cancelled, and the thread owns nothing that needs an end.
    std::thread::spawn(move || {
        // An input that cannot be read counts as ended; dropping the sender says so either way.
        let _end = io::copy(&mut io::stdin().lock(), &mut io::sink());
        drop(sender);
    });
    receiver
}
