//! The pulse of a link: whether Redis answers (the circuit breaker) and whether it is still the one to ask (the trust).
//!
//! Without the breaker, every read of a frozen Redis would wait for a time-out of its own. Without the trust, a primary that
//! was cut off would serve rows whose writes are announced to its successor.
//!
//! 1. Each link has one task. Every 400 ms it asks for INFO: a server that has become a replica, or whose history is
//!    another one, loses the link.
//! 2. Where Redis must be *fenced* (it has replicas, or wants some, or the user says so), the task also tries a write:
//!    `DEL` of a key that never exists. It is refused when replicas are missed (`NOREPLICAS`) or by a replica, but not for
//!    want of memory, and leaves nothing behind. The link is trusted for one second from the moment the last write that
//!    succeeded was *sent*.
//! 3. The first command that is not answered in time opens the breaker: operations fail at once, those under way stop
//!    waiting. The task probes at once, then every 100 ms; an answer closes the breaker, the second probe in vain drops the
//!    link, and another is made in the background.
//!
//! Invariant: at most one command per caller waits for a server that has fallen silent, and at most one response time-out;
//! a put that meets others may wait for theirs before its own (`gathering`).
//! Invariant: every operation obtains its link through [`Pulse::check`], and its answer counts only if the trust has not
//! ended meanwhile. An answer that arrives in time was given by a server that took writes less than a second before.
//! Not here: how links are made (`connection`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::sync::Notify;

use crate::{clock::timer_us, error::StoreError};

/// The pause between two beats.
pub(crate) const BEAT: Duration = Duration::from_millis(400);
/// The pause between two probes of a server that is silent.
pub(crate) const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// How many probes in vain end a link.
pub(crate) const PROBES: u32 = 2;
/// How long a write that was accepted is a reason for trust, counted from when it was sent.
pub(crate) const TRUST: Duration = Duration::from_secs(1);
/// The trust in a server that need not be fenced.
const FOR_EVER: u64 = u64::MAX;

/// What is known of a link at this moment.
#[derive(Debug)]
pub(crate) struct Pulse {
    silent: AtomicBool,
    ended: AtomicBool,
    trusted_until_us: AtomicU64,
    changed: Notify,
}

impl Pulse {
    /// A link that answers; trusted for ever, or not before a write was accepted.
    pub(crate) fn new(fenced: bool) -> Self {
        Self {
            silent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            trusted_until_us: AtomicU64::new(if fenced { 0 } else { FOR_EVER }),
            changed: Notify::new(),
        }
    }

    /// Whether the link may be used now.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.silent.load(Ordering::Acquire) {
            return Err(StoreError::new("Redis does not answer"));
        }
        self.check_trust()
    }

    /// Whether what the server has just answered counts.
    #[inline]
    pub(crate) fn check_trust(&self) -> Result<(), StoreError> {
        if self.is_trusted() {
            return Ok(());
        }
        Err(StoreError::new(
            "Redis has taken no write for a second, so it may have a successor",
        ))
    }

    /// Whether the server is still the one to ask.
    #[inline]
    fn is_trusted(&self) -> bool {
        let until_us = self.trusted_until_us.load(Ordering::Acquire);
        until_us == FOR_EVER || timer_us() < until_us
    }

    /// Whether trust must be earned.
    pub(crate) fn is_fenced(&self) -> bool {
        self.trusted_until_us.load(Ordering::Acquire) != FOR_EVER
    }

    /// Trust must be earned from now on.
    pub(crate) fn fence(&self) {
        self.trusted_until_us.store(0, Ordering::Release);
    }

    /// A write that was sent at this moment has been accepted.
    pub(crate) fn trust_from(&self, sent_us: u64) {
        let until_us = sent_us.saturating_add(
            u64::try_from(TRUST.as_micros()).expect("a second is few microseconds"),
        );
        self.trusted_until_us.fetch_max(until_us, Ordering::AcqRel);
    }

    /// Whether the breaker is open.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// Opens the breaker.
    pub(crate) fn fall_silent(&self) {
        if !self.silent.swap(true, Ordering::AcqRel) {
            self.changed.notify_waiters();
        }
    }

    /// Closes the breaker. Whether it was open.
    pub(crate) fn answer(&self) -> bool {
        self.silent.swap(false, Ordering::AcqRel)
    }

    /// Returns when the breaker opens.
    pub(crate) async fn fell_silent(&self) {
        self.until(&self.silent).await;
    }

    /// The link is not used any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Whether the link is not used any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Returns when the link is not used any more.
    pub(crate) async fn ended(&self) {
        self.until(&self.ended).await;
    }

    async fn until(&self, flag: &AtomicBool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if flag.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}

/// One beat: what the server says of itself, and whether it takes writes.
pub(crate) struct Beat {
    /// When it was sent.
    pub(crate) sent_us: u64,
    /// The text that INFO returns, or nothing from a server that does not tell.
    pub(crate) told: RedisResult<Option<String>>,
    /// Whether a write was accepted, if one was tried.
    pub(crate) written: Option<RedisResult<()>>,
}

impl Beat {
    /// Sends a beat.
    pub(crate) async fn of(
        connection: &MultiplexedConnection,
        asks: bool,
        heart: Option<&str>,
    ) -> Self {
        let sent_us = timer_us();
        let told = async {
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
            Some(Cmd::del(heart?).exec_async(&mut connection).await)
        };
        let (told, written) = tokio::join!(told, written);
        Self {
            sent_us,
            told,
            written,
        }
    }

    /// The error that says that the server has not answered in time, if so.
    pub(crate) fn silence(&self) -> Option<&RedisError> {
        self.told.as_ref().err().filter(|error| error.is_timeout())
    }

    /// What failed or was refused.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &RedisError> {
        let written = self
            .written
            .as_ref()
            .and_then(|written| written.as_ref().err());
        self.told.as_ref().err().into_iter().chain(written)
    }
}

/// The question that tells who a server is, what it thinks of its replicas, and how many connections it has closed.
pub(crate) fn info() -> Cmd {
    let mut info = redis::cmd("INFO");
    info.arg("server").arg("replication").arg("stats");
    info
}

/// The task of a link ends with it.
pub(crate) struct Ending(pub(crate) Arc<Pulse>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}
