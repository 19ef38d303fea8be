//! A child process that cannot outlive its owner, and a server as such a child.
//! 1. The child leads a process group of its own, so Ctrl-C in a terminal does not reach it before
//!    its owner has decided what to do. 2. Dropping the owner signals the group, waits a bounded
//!    time, and kills what is left.
//!
//! Invariant: a group is signalled only while its leader has not been waited for, so that its id
//! cannot have been given to a stranger.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use larder_testing::clock::Deadline;
use larder_testing::port::Port;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};

use super::Place;
use super::watchdog::Watchdog;
use crate::failure::{Attempt, Failure, Outcome};

/// How long a process may take to end before it is killed; nextest gives its tests ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a server may take to answer for the first time.
const START: Duration = Duration::from_secs(90);

/// How much of a server's log is quoted when it does not come up.
const QUOTED_LINES: usize = 30;

/// A process group of our own, ended on drop.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    ended: Option<ExitStatus>,
    signal: Signal,
    watchdog: Option<Watchdog>,
}

impl Group {
    /// Starts a command as the leader of a new group; `signal` asks it to end.
    pub(crate) fn start(
        command: &mut Command,
        watchdog: Option<Watchdog>,
        signal: Signal,
    ) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let group = Self {
            child,
            ended: None,
            signal,
            watchdog,
        };
        if let Some(watchdog) = &group.watchdog {
            watchdog.watch(group.id(), signal)?;
        }
        Ok(group)
    }

    /// How the leader ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                self.forget();
            }
        }
        Ok(self.ended)
    }

    /// Asks the group to end, kills what does not, and waits until none of it is left.
    fn end(&mut self) -> io::Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        kill_process_group(self.id(), self.signal)?;
        let deadline = Deadline::after(PATIENCE);
        while !self.leader_has_ended()? && deadline.pause() {}
        // Also when the leader has ended: its children may be slower, and they write to our folder.
        // Until it is waited for, the leader keeps the id of the group from being reused.
        kill_process_group(self.id(), Signal::KILL)?;
        self.ended = Some(self.child.wait()?);
        self.forget();
        let deadline = Deadline::after(PATIENCE);
        while test_kill_process_group(self.id()).is_ok() {
            if !deadline.pause() {
                return Err(io::Error::other("parts of it survive being killed"));
            }
        }
        Ok(())
    }

    /// Whether the leader has ended, without waiting for it in the system's sense of the word.
    fn leader_has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.id()), options)?.is_some())
    }

    fn forget(&self) {
        if let Some(watchdog) = &self.watchdog {
            // A watchdog that is gone cannot signal anybody.
            let _told = watchdog.forget(self.id());
        }
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: failed to end process {}: {error}", self.child.id());
        }
    }
}

/// What is to be started as a server.
pub(crate) struct Start<'a> {
    /// For messages and the log file.
    pub(crate) name: &'static str,
    /// The program with its arguments.
    pub(crate) command: Command,
    /// What asks it for a quick and orderly end.
    pub(crate) signal: Signal,
    /// Where it listens.
    pub(crate) port: Port,
    /// Whether it answers at its address; errors are retried until the time is over.
    pub(crate) ready: &'a dyn Fn(SocketAddr) -> io::Result<()>,
}

/// A running server, stopped on drop.
#[derive(Debug)]
pub(crate) struct Server {
    group: Group,
    // Also reserves the port for as long as the server lives.
    port: Port,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub(crate) fn start(place: &Place<'_>, mut start: Start<'_>) -> Outcome<Self> {
        let Start { name, port, .. } = start;
        let path = place.folder.join(format!("{name}.log"));
        let log = File::create(&path).attempt(|| format!("create {}", path.display()))?;
        let errors = log
            .try_clone()
            .attempt(|| format!("share the log of {name}"))?;
        start
            .command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .current_dir(place.folder);
        let group = Group::start(
            &mut start.command,
            Some(place.watchdog.clone()),
            start.signal,
        )
        .attempt(|| format!("start {name}"))?;
        let mut server = Self { group, port };
        server.wait_until_ready(place, name, start.ready, &path)?;
        Ok(server)
    }

    fn wait_until_ready(
        &mut self,
        place: &Place<'_>,
        name: &str,
        ready: &dyn Fn(SocketAddr) -> io::Result<()>,
        log: &Path,
    ) -> Outcome {
        let deadline = Deadline::after(START);
        loop {
            place.interrupt.check()?;
            if let Some(status) = self.group.ended().attempt(|| format!("wait for {name}"))? {
                let log = quote(log);
                return Err(Failure::message(format!(
                    "{name} ended at once ({status}):\n{log}"
                )));
            }
            let Err(error) = ready(self.port.address()) else {
                return Ok(());
            };
            if !deadline.pause() {
                let log = quote(log);
                return Err(Failure::message(format!(
                    "{name} does not answer ({error}):\n{log}"
                )));
            }
        }
    }
}

/// Runs a program that prepares a server's folder, and quotes its output when it fails.
pub(crate) fn prepare(place: &Place<'_>, name: &str, mut command: Command) -> Outcome {
    let path = place.folder.join(format!("{name}.log"));
    let log = File::create(&path).attempt(|| format!("create {}", path.display()))?;
    let errors = log
        .try_clone()
        .attempt(|| format!("share the log of {name}"))?;
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .current_dir(place.folder);
    let mut group = Group::start(&mut command, Some(place.watchdog.clone()), Signal::TERM)
        .attempt(|| format!("start {name}"))?;
    let deadline = Deadline::after(START);
    loop {
        place.interrupt.check()?;
        match group.ended().attempt(|| format!("wait for {name}"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let log = quote(&path);
                return Err(Failure::message(format!(
                    "{name} failed ({status}):\n{log}"
                )));
            }
            None if deadline.pause() => {}
            None => {
                let log = quote(&path);
                return Err(Failure::message(format!("{name} does not end:\n{log}")));
            }
        }
    }
}

/// The end of a log, indented.
fn quote(log: &Path) -> String {
    match std::fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let start = lines.len().saturating_sub(QUOTED_LINES);
            lines[start..]
                .iter()
                .map(|line| format!("    {line}\n"))
                .collect()
        }
        Err(error) => format!("    (no log: {error})\n"),
    }
}
