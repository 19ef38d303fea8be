//! A worker as its parent sees it: a process that is told things, stopped, and killed.
//!
//! Invariant: a dropped worker is a dead one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use larder_testing::process::{is_frozen, signal};
use rustix::process::Signal;

/// How long a worker may take to start or to end, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two looks at a worker.
const STEP: Duration = Duration::from_millis(2);

/// What a worker is told at its start, as the arguments of its process.
pub trait Orders {
    /// The name of the worker, which no other worker of the run has.
    fn name(&self) -> &str;

    /// The arguments that the worker reads its orders from.
    fn to_arguments(&self) -> Vec<String>;

    /// What is set in the environment of the worker.
    fn environment(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
}

/// A running worker.
pub struct Process<O> {
    /// What it was told at its start.
    pub orders: O,
    child: Child,
    input: ChildStdin,
}

impl<O: Orders> Process<O> {
    /// Starts a worker and waits until it is at work.
    pub async fn start(orders: O) -> Self {
        let program = std::env::current_exe().expect("this program has a file");
        let mut child = Command::new(program)
            .args(orders.to_arguments())
            .envs(orders.environment().iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let input = child.stdin.take().expect("the input is piped");
        let output = child.stdout.take().expect("the output is piped");
        let ready = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            read.is_ok() && line == "ready\n"
        });
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        assert!(
            matches!(ready, Ok(Ok(true))),
            "worker {} does not get to work",
            orders.name()
        );
        Self {
            orders,
            child,
            input,
        }
    }

    /// Tells it something. A worker that has died does not hear it.
    pub fn tell(&mut self, line: &str) {
        let _deaf = writeln!(self.input, "{line}");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child of ours can be killed");
        self.child
            .wait()
            .expect("a child of ours can be waited for");
    }

    /// Waits until it has died by itself; whether it has.
    pub async fn died(&mut self, within: Duration) -> bool {
        let dead = async {
            while !self.has_ended() {
                tokio::time::sleep(STEP).await;
            }
        };
        tokio::time::timeout(within, dead).await.is_ok()
    }

    /// Waits until it has stopped by itself; whether it has.
    pub async fn stopped(&self, within: Duration) -> bool {
        let id = self.child.id();
        let stopped = async {
            while !is_frozen(id) {
                tokio::time::sleep(STEP).await;
            }
        };
        tokio::time::timeout(within, stopped).await.is_ok()
    }

    /// Stops it in its tracks.
    pub fn stop(&self) {
        signal(self.child.id(), Signal::STOP);
    }

    /// Lets it go on after [`Self::stop`].
    pub fn go_on(&self) {
        signal(self.child.id(), Signal::CONT);
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait();
        ended.expect("a child of ours can be waited for").is_some()
    }

    /// Lets it finish what it is doing and end.
    ///
    /// # Errors
    ///
    /// Fails when it ends otherwise than well.
    pub async fn finish(mut self) -> Result<(), String> {
        self.tell("stop");
        if !self.died(PATIENCE).await {
            return Err(format!("worker {} does not end", self.orders.name()));
        }
        let status = self
            .child
            .wait()
            .expect("a child of ours can be waited for");
        if status.success() {
            Ok(())
        } else {
            Err(format!("worker {} failed ({status})", self.orders.name()))
        }
    }
}

impl<O> Drop for Process<O> {
    fn drop(&mut self) {
        // It may have ended by itself, which is what we want.
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}
