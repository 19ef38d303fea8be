//! A `redis-server` of our own, as a process: its program, its command line, its folder and its port.
//! 1. A port is reserved and a temporary folder created. 2. The server is started in it, and its log is kept there. 3. Its owner
//!    waits until it answers. 4. Drop kills it and removes the folder.
//!
//! Invariant: the port stays reserved while no server listens on it, until the value is dropped.
//! Invariant: the server keeps nothing on disk unless an option asks for it.
//! Not here: process groups and other accounts, under which `cargo xtask` runs its servers, with the same command line; what a
//! test does to a server.

use std::ffi::OsString;
use std::fs::{File, read_to_string};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::clock::Deadline;
use crate::port::Port;
use crate::readiness;

/// The oldest version whose scripts and commands we rely on.
const OLDEST: u32 = 7;

/// How long a start or a stop may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the server that tests are run with: the one that `cargo xtask` names in the environment, or the one on the path.
#[must_use]
pub fn program() -> PathBuf {
    std::env::var_os("LARDER_REDIS_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
}

/// Checks that a server is recent enough.
///
/// # Errors
///
/// Fails with the reason if it does not run or is too old.
pub fn check_version(program: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| format!("{} does not run: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match major_version(&text) {
        Some(major) if major >= OLDEST => Ok(()),
        _ => Err(format!(
            "redis-server {OLDEST} or later is needed, found: {}",
            text.trim()
        )),
    }
}

/// Returns the command line of a server that listens on this port of 127.0.0.1 and on the [`socket`] in its folder. `DEBUG` is
/// allowed because tests use it to make the server slow.
#[must_use]
pub fn arguments(port: u16, folder: &Path, options: &[impl AsRef<str>]) -> Vec<OsString> {
    let port = port.to_string();
    let mut arguments: Vec<OsString> = ["--bind", "127.0.0.1", "--port", &port, "--unixsocket"]
        .map(OsString::from)
        .into();
    arguments.push(socket(folder).into());
    arguments.push("--dir".into());
    arguments.push(folder.into());
    let rest = ["--save", "", "--appendonly", "no", "--daemonize", "no"];
    arguments.extend(rest.map(OsString::from));
    arguments.extend(["--enable-debug-command", "local"].map(OsString::from));
    // Of an option given twice the last one counts.
    arguments.extend(options.iter().map(|option| option.as_ref().into()));
    arguments
}

/// Returns the path of the unix socket of a server in this folder.
#[must_use]
pub fn socket(folder: &Path) -> PathBuf {
    folder.join("redis.sock")
}

/// A server of our own, which may be stopped and started again; it is killed on drop.
#[derive(Debug)]
pub struct RedisProcess {
    child: Option<Child>,
    port: Port,
    folder: TempDir,
    program: PathBuf,
    options: Vec<String>,
}

impl RedisProcess {
    /// Prepares a port and a folder for a server with these options, which [`Self::spawn`] starts.
    ///
    /// # Errors
    ///
    /// Fails if there is no port or no folder.
    pub fn prepare(program: &Path, options: &[&str]) -> io::Result<Self> {
        Ok(Self {
            child: None,
            port: Port::reserve()?,
            folder: tempfile::tempdir()?,
            program: program.to_owned(),
            options: options.iter().map(ToString::to_string).collect(),
        })
    }

    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    ///
    /// Fails with the log of the server if it ends or does not answer.
    pub fn start(program: &Path, options: &[&str]) -> io::Result<Self> {
        let mut server = Self::prepare(program, options)?;
        server.spawn()?;
        let deadline = Deadline::after(PATIENCE);
        while let Err(error) = readiness::redis(server.address()) {
            if server.has_ended() || !deadline.pause() {
                let log = server.log();
                let failure = format!("redis-server does not answer ({error}):\n{log}");
                return Err(io::Error::other(failure));
            }
        }
        Ok(server)
    }

    /// Starts the server on its port and in its folder. It may not answer yet.
    ///
    /// # Errors
    ///
    /// Fails if the program cannot be started.
    ///
    /// # Panics
    ///
    /// If it was started before and has not been waited for.
    pub fn spawn(&mut self) -> io::Result<()> {
        assert!(self.child.is_none(), "the server was started already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let number = self.port.number();
        let child = Command::new(&self.program)
            .args(arguments(number, self.folder(), &self.options))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let named = |error: io::Error| {
            let program = self.program.display();
            io::Error::new(error.kind(), format!("failed to start {program}: {error}"))
        };
        self.child = Some(child.map_err(named)?);
        Ok(())
    }

    /// Returns whether the process has ended, or was never started. One that has ended is waited for.
    ///
    /// # Panics
    ///
    /// If the system refuses to tell.
    pub fn has_ended(&mut self) -> bool {
        let Some(child) = &mut self.child else {
            return true;
        };
        let status = child.try_wait().expect("a child can be waited for");
        if status.is_some() {
            self.child = None;
        }
        status.is_some()
    }

    /// Returns the id of the process, if it was started and has not been waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills the process without warning, and does not wait for it.
    ///
    /// # Panics
    ///
    /// If the server does not run.
    pub fn kill(&mut self) {
        let child = self.child.as_mut();
        child
            .expect("the server is running; it was neither stopped nor killed")
            .kill()
            .expect("a child that was not waited for can be killed");
    }

    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Returns its address as clients want it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    /// Returns the folder where it keeps its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns what it has logged since it was first started.
    ///
    /// # Panics
    ///
    /// If it was never started.
    #[must_use]
    pub fn log(&self) -> String {
        read_to_string(self.log_file()).expect("the log was created at the start")
    }

    /// Returns the path of its log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder().join("redis.log")
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself, which is what we want.
            let _killed = child.kill();
            let _ended = child.wait();
        }
    }
}

/// Reads `Redis server v=7.0.15 sha=..`.
fn major_version(text: &str) -> Option<u32> {
    let version = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn version_is_read_from_the_banner() {
        assert_eq!(
            major_version("Redis server v=7.0.15 sha=00000000:0 bits=64"),
            Some(7)
        );
        assert_eq!(major_version("Redis server v=10.2 sha=0"), Some(10));
        assert_eq!(major_version("something else"), None);
    }
}
