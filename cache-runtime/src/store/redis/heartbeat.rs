//! The heartbeat of a link: it checks whether Redis answers (the circuit breaker), and whether it is still the primary
//! (the trust, or primary lease).
//!
//! Without the breaker, every read of a frozen Redis would wait for its own time-out. Without the trust, a primary that
//! was cut off would serve rows whose writes are announced to its successor.
//!
//! 1. Each link has one task. Every 400 ms it sends INFO. If the server has become a replica, or its history has
//!    changed, the task drops the link.
//! 2. If Redis must be *fenced* (it has replicas, or requires some, or `fence_primary` is set), the task also tries a
//!    write: `DEL` of a key that never exists. Redis rejects it if replicas are missing (`NOREPLICAS`), and a replica
//!    rejects it too, but it does not fail when memory is full. It changes nothing. The link is trusted for one second
//!    from the time when the last accepted write was *sent*.
//! 3. The first command that times out opens the breaker. Then operations fail immediately, and those under way stop
//!    waiting. The task probes immediately, then every 100 ms. A reply closes the breaker. After the second failed
//!    probe the task drops the link, and another is made in the background.
//!
//! Invariant: at most one command per caller waits for a server that has stopped answering, and for at most one
//! response time-out. A put that joins a batch may first wait for the batch before it (`gathering`).
//! Invariant: every operation gets its link through [`Heartbeat::check`], and its reply counts only if the trust has
//! not ended in the meantime. So a reply that counts comes from a server that accepted writes less than a second
//! before.
//! Not here: how links are made (`connection`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisError, RedisResult};
use tokio::sync::Notify;

#[cfg(feature = "metrics")]
use crate::observe::timing::Timing;
use crate::{clock::timer_us, error::StoreError, store::redis::connection::Connection};

/// The pause between two beats.
pub(crate) const BEAT: Duration = Duration::from_millis(400);
/// The pause between two probes of a server that is silent.
pub(crate) const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// How many failed probes end a link.
pub(crate) const PROBES: u32 = 2;
/// How long an accepted write keeps the link trusted, counted from when it was sent.
pub(crate) const TRUST: Duration = Duration::from_secs(1);
/// The trust in a server that need not be fenced.
const FOR_EVER: u64 = u64::MAX;

/// The current state of a link.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    silent: AtomicBool,
    ended: AtomicBool,
    trusted_until_us: AtomicU64,
    changed: Notify,
    /// How long the server took to answer, on this link and those before.
    #[cfg(feature = "metrics")]
    pub(crate) round_trips: Arc<Timing>,
}

impl Heartbeat {
    /// Returns the state of a new link. A fenced link is trusted only after a write was accepted, others always.
    pub(crate) fn new(fenced: bool, #[cfg(feature = "metrics")] round_trips: Arc<Timing>) -> Self {
        Self {
            silent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            trusted_until_us: AtomicU64::new(if fenced { 0 } else { FOR_EVER }),
            changed: Notify::new(),
            #[cfg(feature = "metrics")]
            round_trips,
        }
    }

    /// Fails if the link must not be used now.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.silent.load(Ordering::Acquire) {
            return Err(StoreError::new(
                "Redis does not answer: the circuit breaker is open",
            ));
        }
        self.check_trust()
    }

    /// Fails if a reply that has just arrived does not count.
    #[inline]
    pub(crate) fn check_trust(&self) -> Result<(), StoreError> {
        if self.is_available() {
            return Ok(());
        }
        Err(StoreError::new(
            "Redis has accepted no write for a second, so another server may have replaced it",
        ))
    }

    /// Returns whether the link is trusted now.
    #[inline]
    fn is_available(&self) -> bool {
        let until_us = self.trusted_until_us.load(Ordering::Acquire);
        until_us == FOR_EVER || timer_us() < until_us
    }

    /// Returns whether the link needs accepted writes to be trusted.
    pub(crate) fn is_fenced(&self) -> bool {
        self.trusted_until_us.load(Ordering::Acquire) != FOR_EVER
    }

    /// From now on the link needs accepted writes to be trusted.
    pub(crate) fn fence(&self) {
        self.trusted_until_us.store(0, Ordering::Release);
    }

    /// Extends the trust: the server has accepted a write that was sent at this time.
    pub(crate) fn trust_from(&self, sent_us: u64) {
        let until_us = sent_us.saturating_add(
            u64::try_from(TRUST.as_micros()).expect("a second is few microseconds"),
        );
        self.trusted_until_us.fetch_max(until_us, Ordering::AcqRel);
    }

    /// Returns for how long the link has not been trusted, if it is not now. Zero if it never was.
    pub(crate) fn untrusted_for(&self) -> Option<Duration> {
        let until_us = self.trusted_until_us.load(Ordering::Acquire);
        match until_us {
            FOR_EVER => None,
            0 => Some(Duration::ZERO),
            until_us => timer_us().checked_sub(until_us).map(Duration::from_micros),
        }
    }

    /// Returns whether the breaker is open.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// Opens the breaker.
    pub(crate) fn fall_silent(&self) {
        if !self.silent.swap(true, Ordering::AcqRel) {
            self.changed.notify_waiters();
        }
    }

    /// Closes the breaker. Returns whether it was open.
    pub(crate) fn answer(&self) -> bool {
        self.silent.swap(false, Ordering::AcqRel)
    }

    /// Returns when the breaker opens.
    pub(crate) async fn fell_silent(&self) {
        self.until(&self.silent).await;
    }

    /// Marks the link as no longer used.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Returns whether the link is no longer used.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Returns when the link is no longer used.
    pub(crate) async fn ended(&self) {
        self.until(&self.ended).await;
    }

    async fn until(&self, flag: &AtomicBool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Register before checking, so that a change in between is not missed.
            changed.as_mut().enable();
            if flag.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}

/// One heartbeat: the server's INFO, and whether it accepts writes.
pub(crate) struct Beat {
    /// When it was sent.
    pub(crate) sent_us: u64,
    /// The reply of INFO, or `None` if the server does not report it.
    pub(crate) info: RedisResult<Option<String>>,
    /// Whether a write was accepted, if one was tried.
    pub(crate) written: Option<RedisResult<()>>,
}

impl Beat {
    /// Sends a heartbeat.
    pub(crate) async fn of(
        connection: &Connection,
        asks: bool,
        heartbeat_key: Option<&str>,
    ) -> Self {
        let sent_us = timer_us();
        let info = async {
            let mut connection = connection.clone();
            if asks {
                info().query_async(&mut connection).await.map(Some)
            } else {
                redis::cmd("PING")
                    .exec_async(&mut connection)
                    .await
                    .map(|()| None)
            }
        };
        let written = async {
            let mut connection = connection.clone();
            Some(Cmd::del(heartbeat_key?).exec_async(&mut connection).await)
        };
        let (info, written) = tokio::join!(info, written);
        Self {
            sent_us,
            info,
            written,
        }
    }

    /// Returns the time-out error, if the server has not replied in time.
    pub(crate) fn silence(&self) -> Option<&RedisError> {
        self.info.as_ref().err().filter(|error| error.is_timeout())
    }

    /// Returns the errors of the commands that failed or were rejected.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &RedisError> {
        let written = self
            .written
            .as_ref()
            .and_then(|written| written.as_ref().err());
        self.info.as_ref().err().into_iter().chain(written)
    }
}

/// Returns the INFO command for the identity of a server, its replication, and the number of connections it has closed.
pub(crate) fn info() -> Cmd {
    let mut info = redis::cmd("INFO");
    info.arg("server").arg("replication").arg("stats");
    info
}

/// Ends the link when its task ends.
pub(crate) struct Ending(pub(crate) Arc<Heartbeat>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}
