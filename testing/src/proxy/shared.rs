//! What a test wants of its proxy, and how far the proxy has got.
//! The test and the proxy run on different threads, and the test must know when a switch has taken effect.
//! 1. The test changes the [`Switches`], which wakes every connection. 2. The proxy notes its [`Progress`], which wakes the test.
//!
//! Not here: what a connection does when it is woken, see `forward`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::PATIENCE;
use super::trap::ArmedTrap;
use crate::wire::Observer;

/// Makes the observer of a new connection.
pub type Observers = Box<dyn Fn() -> Box<dyn Observer> + Send + Sync>;

/// What the test wants of all connections.
#[derive(Debug, Default)]
pub(super) struct Switches {
    pub(super) delay_requests: Duration,
    pub(super) delay_replies: Duration,
    pub(super) blackhole: bool,
    pub(super) refuse: bool,
    pub(super) reset_below: u64,
    pub(super) stop: bool,
    pub(super) traps: Vec<Arc<ArmedTrap>>,
}

/// How far the proxy has got.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) listening: bool,
    pub(super) open: BTreeSet<u64>,
    pub(super) next: u64,
}

/// What a test, the thread of its proxy and its traps share.
pub(super) struct Shared {
    pub(super) switches: watch::Sender<Switches>,
    progress: Mutex<Progress>,
    changed: Condvar,
    pub(super) observers: Option<Observers>,
    upstream: Mutex<SocketAddr>,
}

impl Shared {
    /// For a proxy that nothing is asked of yet.
    pub(super) fn new(upstream: SocketAddr, observers: Option<Observers>) -> Self {
        Self {
            switches: watch::Sender::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
            observers,
            upstream: Mutex::new(upstream),
        }
    }

    /// Changes what the test wants.
    pub(super) fn switch(&self, change: impl FnOnce(&mut Switches)) {
        self.switches.send_modify(change);
    }

    /// Where the next connection leads.
    pub(super) fn upstream(&self) -> SocketAddr {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leads the next connections elsewhere.
    pub(super) fn redirect(&self, upstream: SocketAddr) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// How far the proxy has got.
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes progress, for those who wait.
    pub(super) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }

    /// Waits for progress.
    pub(super) fn wait(&self, what: &str, done: impl Fn(&Progress) -> bool) {
        let (_progress, result) = self
            .changed
            .wait_timeout_while(self.progress(), PATIENCE, |progress| !done(progress))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "the proxy did not {what} in time");
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("switches", &self.switches)
            .finish_non_exhaustive()
    }
}

/// Waits for the switches to be so, and says whether the proxy is to stop.
pub(super) async fn until(
    switches: &mut watch::Receiver<Switches>,
    reached: impl Fn(&Switches) -> bool,
) -> bool {
    let now = switches.wait_for(|switches| reached(switches)).await;
    now.expect("the proxy keeps its own sender").stop
}
