//! Traps: requests of which the test has named some bytes, and what becomes of their connections.
//! A moment between two messages cannot be hit by a timer.
//! 1. A trap is set for certain bytes. 2. The first request that contains them takes it. 3. It springs before the request is
//!    passed on, or before the reply is: the connection is cut, or held until the test lets go.
//!
//! Invariant: a trap catches one request; once it is dropped it catches none, and holds none.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::PATIENCE;
use super::shared::{Shared, Switches};

/// Where a trap stops a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The server never sees the request.
    BeforeRequest,
    /// The server has carried out the request; the client does not see the reply.
    BeforeReply,
}

/// What a trap does to the connection it catches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Cuts it.
    Cutting,
    /// Holds it until the trap is gone.
    Holding,
}

/// The connection must be reset: a switch or a trap says so, or its other end broke.
pub(super) struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// A trap set by [`super::Proxy::cut`] or [`super::Proxy::hold`]; dropping it disarms it and lets go.
#[must_use = "a trap is disarmed when it is dropped"]
#[derive(Debug)]
pub struct Trap {
    armed: Arc<ArmedTrap>,
    shared: Arc<Shared>,
}

impl Trap {
    /// Sets a trap.
    pub(super) fn set(shared: &Arc<Shared>, point: Point, bytes: Vec<u8>, kind: Kind) -> Self {
        let armed = Arc::new(ArmedTrap {
            point,
            bytes,
            kind,
            state: watch::Sender::new(TrapState::Set),
        });
        shared.switch(|switches| switches.traps.push(Arc::clone(&armed)));
        Self {
            armed,
            shared: Arc::clone(shared),
        }
    }

    /// Waits until the request has come: it is being held now, or its connection has been cut.
    pub async fn sprung(&self) {
        let mut state = self.armed.state.subscribe();
        let sprung = state.wait_for(|state| *state == TrapState::Sprung);
        let in_time = tokio::time::timeout(PATIENCE, sprung).await;
        let seen = in_time.unwrap_or_else(|_| panic!("no request came into {:?}", self.armed));
        seen.expect("the trap keeps its own sender");
    }

    /// Whether the request has come.
    pub fn has_sprung(&self) -> bool {
        *self.armed.state.borrow() == TrapState::Sprung
    }

    /// Lets a held request or reply go on; dropping does the same.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.shared.switch(|switches| {
            switches
                .traps
                .retain(|trap| !Arc::ptr_eq(trap, &self.armed));
        });
        self.armed.state.send_replace(TrapState::Gone);
    }
}

/// What a connection sees of a trap.
pub(super) struct ArmedTrap {
    pub(super) point: Point,
    bytes: Vec<u8>,
    kind: Kind,
    state: watch::Sender<TrapState>,
}

impl ArmedTrap {
    /// Takes the first trap that waits for these bytes; it catches nothing else.
    pub(super) fn take(switches: &watch::Sender<Switches>, bytes: &[u8]) -> Option<Arc<Self>> {
        let waits = |trap: &Arc<Self>| contains(bytes, &trap.bytes);
        if !switches.borrow().traps.iter().any(waits) {
            return None;
        }
        let mut caught = None;
        // Nobody waits for this change.
        switches.send_if_modified(|switches| {
            let at = switches.traps.iter().position(waits);
            caught = at.map(|at| switches.traps.remove(at));
            false
        });
        caught
    }

    /// Catches a request: breaks its connection, or holds it until the trap is gone.
    pub(super) async fn spring(&self) -> Result<(), Broken> {
        let sprung = self.state.send_if_modified(|state| {
            let armed = *state == TrapState::Set;
            if armed {
                *state = TrapState::Sprung;
            }
            armed
        });
        if !sprung {
            return Ok(());
        }
        if self.kind == Kind::Cutting {
            return Err(Broken);
        }
        let mut state = self.state.subscribe();
        let gone = state.wait_for(|state| *state == TrapState::Gone).await;
        gone.map(drop).map_err(|_| Broken)
    }
}

impl fmt::Debug for ArmedTrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = String::from_utf8_lossy(&self.bytes);
        write!(f, "the trap {:?} for {bytes:?}", self.point)
    }
}

/// The life of a trap: set, sprung by a request, gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrapState {
    Set,
    Sprung,
    Gone,
}

/// Whether bytes occur in a chunk; no bytes occur in every chunk.
fn contains(chunk: &[u8], bytes: &[u8]) -> bool {
    bytes.is_empty() || chunk.windows(bytes.len()).any(|window| window == bytes)
}
