//! A TCP proxy that breaks connections on request, at the request the test names.
//! "The commit reached the server, its answer did not reach us" is the failure that matters most,
//! and no server can be asked to produce it.
//! 1. Clients connect to [`Proxy::address`]; bytes pass both ways. 2. Switches slow, swallow, refuse
//!    or reset from now on. 3. A [`Trap`] waits for a request that contains certain bytes and then
//!    cuts or holds the connection, before the request or before its reply. 4. [`Proxy::heal`]
//!    takes all switches back.
//!
//! Invariant: a switch has taken effect when its method returns.
//! Invariant: a connection that lost bytes is reset before it carries any others.
//! Invariant: the proxy runs on a thread of its own, so a test may block, or stop tokio's clock.
//! Not here: how a trap catches a request (`trap`), how bytes pass (`forward`); requests longer than one read (64 KiB),
//! which a trap may miss; what the bytes mean, which is the business of [`crate::wire`].

mod forward;
mod shared;
#[cfg(test)]
mod tests;
mod trap;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use shared::Observers;
use shared::{Shared, Switches};
use trap::Kind;
pub use trap::{Point, Trap};

use crate::port::Port;

/// How long anything in here may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which way bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests.
    ToServer,
    /// From the server to the client: replies.
    ToClient,
}

/// A proxy in front of one server; it and its connections end on drop.
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy in front of this address.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::start_observed(upstream, None)
    }

    /// Starts a proxy that shows the bytes of each connection to an observer.
    pub fn start_observed(upstream: SocketAddr, observers: Option<Observers>) -> Self {
        let port = Port::reserve().expect("one of many ports is free");
        let address = port.address();
        let shared = Arc::new(Shared::new(upstream, observers));
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || forward::run(&shared, address)
            })
            .expect("a thread can be started");
        let proxy = Self {
            port,
            shared,
            thread: Some(thread),
        };
        proxy.shared.wait("listen", |progress| progress.listening);
        proxy
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Holds all bytes of one direction for this long, each time they are read.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.shared.switch(|switches| match direction {
            Direction::ToServer => switches.delay_requests = delay,
            Direction::ToClient => switches.delay_replies = delay,
        });
    }

    /// Accepts connections and swallows all bytes, both ways, like a network that lost its route.
    pub fn blackhole(&self) {
        self.shared.switch(|switches| switches.blackhole = true);
    }

    /// Stops listening: new connections are refused, open ones go on.
    pub fn refuse(&self) {
        self.shared.switch(|switches| switches.refuse = true);
        self.shared
            .wait("stop listening", |progress| !progress.listening);
    }

    /// Resets all open connections (the peer sees `ECONNRESET`, not an orderly end).
    pub fn reset(&self) {
        let open = self.shared.progress().open.clone();
        self.shared
            .switch(|switches| switches.reset_below = open.last().map_or(0, |id| id + 1));
        self.shared.wait("reset connections", |progress| {
            progress.open.is_disjoint(&open)
        });
    }

    /// Leads new connections to another server, and resets those that are open.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.shared.redirect(upstream);
        self.reset();
    }

    /// Takes back delays, blackhole and refusal; traps stay.
    pub fn heal(&self) {
        self.shared.switch(|switches| {
            *switches = Switches {
                reset_below: switches.reset_below,
                traps: std::mem::take(&mut switches.traps),
                ..Switches::default()
            };
        });
        self.shared
            .wait("listen again", |progress| progress.listening);
    }

    /// Cuts the connection of the next request that contains these bytes, once.
    pub fn cut(&self, point: Point, bytes: impl Into<Vec<u8>>) -> Trap {
        Trap::set(&self.shared, point, bytes.into(), Kind::Cutting)
    }

    /// Holds the next request that contains these bytes, or its reply, until [`Trap::release`].
    pub fn hold(&self, point: Point, bytes: impl Into<Vec<u8>>) -> Trap {
        Trap::set(&self.shared, point, bytes.into(), Kind::Holding)
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.shared.progress().open.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.switch(|switches| switches.stop = true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the proxy panicked"
            );
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}
