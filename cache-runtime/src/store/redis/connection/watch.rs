//! Watching a connection while it is used: the heartbeat, fencing of a primary, and when the connection is given up.
//!
//! Not here: the state that the heartbeat keeps (`heartbeat`).

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use redis::RedisResult;

use super::{Connector, Link, ends_the_link, field, handshake::usable};
use crate::{
    clock::timer_us,
    store::{
        failpoint::Mechanism,
        redis::{
            condition::Unavailable,
            heartbeat::{BEAT, Beat, Ending, PROBE_PAUSE, PROBES},
        },
    },
};

/// `min-replicas-max-lag` if a server does not report it (the default of Redis).
const DEFAULT_LAG: Duration = Duration::from_secs(10);
/// How much longer keys are recorded: until the trust has ended in all processes, and a margin.
const LAG_MARGIN: Duration = Duration::from_secs(2);
/// The name of the heartbeat's writes in the log.
const HEARTBEAT: &str = "heartbeat";

impl Connector {
    /// Tries a write immediately, without waiting for the next heartbeat.
    pub(super) async fn prove_writable(&self, link: &Link) -> Result<(), Unavailable> {
        let sent_us = timer_us();
        let mut connection = link.connection.clone();
        let heartbeat_key = redis::Cmd::del(&self.options.heartbeat_key);
        match heartbeat_key.exec_async(&mut connection).await {
            Err(error) if ends_the_link(&error) || error.is_timeout() => {
                Err(Unavailable::from(error))
            }
            written => {
                self.heard(link, sent_us, &written);
                Ok(())
            }
        }
    }

    /// Records whether a heartbeat write was accepted.
    pub(super) fn heard(&self, link: &Link, sent_us: u64, written: &RedisResult<()>) {
        match written {
            Ok(()) => {
                self.conditions.accepted(HEARTBEAT);
                link.heartbeat.trust_from(sent_us);
                // Not during the handshake with a new server: before it is complete, no key may be forgotten.
                if self.connection_number() == link.number {
                    self.observer.write_accepted(sent_us);
                }
            }
            Err(error) => self.conditions.refused(HEARTBEAT, error),
        }
    }

    /// Returns whether a server with this INFO must be fenced. Logs if it should be fenced but cannot.
    pub(super) fn must_fence(&self, info: &str, history: u64) -> bool {
        if self.options.disabled.has(Mechanism::TrustLease) {
            return false;
        }
        let replicas = field(info, "connected_slaves").is_some_and(|count| count != "0");
        // Reported only by a server that rejects writes when replicas are missing.
        let minds = field(info, "min_slaves_good_slaves").is_some();
        let unfenced_was_logged = replicas && !minds;
        if self
            .unfenced_was_logged
            .swap(unfenced_was_logged, Ordering::Relaxed)
            != unfenced_was_logged
            && unfenced_was_logged
        {
            tracing::warn!(
                address = self.address(),
                code = "min-replicas-to-write",
                "Redis has replicas but `min-replicas-to-write` is 0: after a network partition, an old primary can serve stale \
                 rows; set it to at least 1"
            );
        }
        let remembered = history != 0 && self.fenced.load(Ordering::Relaxed) == history;
        let fenced = self.options.fence || replicas || minds || remembered;
        if fenced {
            self.fenced.store(history, Ordering::Relaxed);
        }
        fenced
    }

    /// Evaluates a heartbeat. Fails if the link must be dropped.
    pub(super) async fn conclude(
        self: &Arc<Self>,
        link: &Link,
        beat: &Beat,
    ) -> Result<(), Unavailable> {
        if let Some(error) = beat.errors().find(|error| ends_the_link(error)) {
            return Err(Unavailable::from(error));
        }
        if let Some(written) = &beat.written {
            self.heard(link, beat.sent_us, written);
        }
        if link.heartbeat.answer() {
            self.conditions.back();
        }
        if let Ok(Some(info)) = &beat.info {
            usable(info)?;
            // So that an earlier closing is not taken as the reason of a later loss.
            self.closings.note(link.history, info);
            if self.history_of(info) != link.history {
                return Err(Unavailable::new(
                    "REPLACED",
                    "the server was restarted or its replication changed",
                ));
            }
            if self.must_fence(info, link.history) && !link.heartbeat.is_fenced() {
                let window = suspect_window(link).await;
                self.observer.watch_writes_for(Some(window));
                link.heartbeat.fence();
                self.prove_writable(link).await?;
            }
        }
        Ok(())
    }
}

/// Returns how long a fenced server may accept writes that its successor never gets: until it rejects writes because of
/// missing replicas, and until the trust in it has ended.
pub(super) async fn suspect_window(link: &Link) -> Duration {
    let mut connection = link.connection.clone();
    let lag = redis::cmd("CONFIG")
        .arg("GET")
        .arg("min-replicas-max-lag")
        .query_async::<Vec<String>>(&mut connection)
        .await;
    let lag = lag.ok().and_then(|lag| lag.get(1)?.parse().ok());
    lag.map_or(DEFAULT_LAG, Duration::from_secs) + LAG_MARGIN
}

/// The task of a link: sends heartbeats and probes until the link is lost or the connector is dropped.
pub(super) async fn run(connector: Weak<Connector>, link: Link) {
    // Ends the link also if the task is stopped with its runtime.
    let ending = Ending(Arc::clone(&link.heartbeat));
    let mut unanswered = 0;
    while wait_for_beat(&link).await {
        let Some((asks, heartbeat_key)) = connector.upgrade().map(|connector| {
            let heartbeat_key = link
                .heartbeat
                .is_fenced()
                .then(|| connector.options.heartbeat_key.clone());
            (link.history != 0, heartbeat_key)
        }) else {
            return;
        };
        let beat = Beat::of(&link.connection, asks, heartbeat_key.as_deref()).await;
        let Some(connector) = connector.upgrade() else {
            return;
        };
        let concluded = if let Some(error) = beat.silence() {
            connector.silent(&link, error);
            unanswered += 1;
            if unanswered < PROBES {
                Ok(())
            } else {
                Err(Unavailable::from(error))
            }
        } else {
            unanswered = 0;
            connector.conclude(&link, &beat).await
        };
        if let Err(away) = concluded {
            connector.lost(link.number, &away);
            return;
        }
    }
    drop(ending);
}

/// Waits until the next heartbeat or probe is due. Returns `false` if the link is no longer used.
pub(super) async fn wait_for_beat(link: &Link) -> bool {
    let heartbeat = &link.heartbeat;
    let due = async {
        if heartbeat.is_silent() {
            tokio::time::sleep(PROBE_PAUSE).await;
        } else {
            // The first probe follows the first time-out immediately.
            let beat = tokio::time::sleep(BEAT);
            tokio::select! {
                () = beat => {}
                () = heartbeat.fell_silent() => {}
            }
        }
    };
    tokio::select! {
        () = due => true,
        () = heartbeat.ended() => false,
    }
}
