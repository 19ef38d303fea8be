//! Wake-ups from Redis: the messages of its scripts to this process, on a connection of their own beside the link.
//!
//! Redis counts a connection that has subscribed to a channel among its pub/sub clients, and closes it when more waits to be
//! read than `client-output-buffer-limit pubsub` allows (32 MiB unless set otherwise). On the connection of the data a few
//! large rows would cost every operation its link; here, a flood or a giant message costs wake-ups.
//!
//! 1. The connection is made in the handshake of a link, so that wake-ups come from its first operation on. Where it cannot
//!    be made, or the server does not let it subscribe, the link goes on without: who waits goes on when its time is up.
//! 2. A task holds it as long as the link is used. When it is lost, everybody who waits is woken, and it is made anew, after
//!    pauses that grow until a connection has lasted.
//! 3. Nothing else is sent on it, so it is asked for a sign of life every few seconds: one that was forgotten on the way is
//!    noticed.
//!
//! Invariant: what becomes of this connection says nothing about the link: its stamp, its breaker and its trust stay.
//! Not here: who waits (`wake`), and what is logged (`condition`).

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use redis::{PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::sync::Notify;

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    clock::Deadline,
    protocol::token::ProcessId,
    store::{
        redis::{
            condition::{Away, UNREACHABLE},
            connection::{Connector, Link, unless_refused},
        },
        wake::Wakeups,
    },
};

const CHANNEL: &[u8] = b"larder:wake:";
/// No key is as long. What is longer is no wake-up.
const LONGEST_MESSAGE: usize = 4 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a sign of life is asked for.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// A connection that messages arrive on.
pub(super) struct Messages {
    connection: MultiplexedConnection,
    ended: Arc<Notify>,
}

impl Messages {
    /// Subscribes on a new connection to the run of the server that a link leads to.
    pub(super) async fn open(connector: &Arc<Connector>, stamp: u64) -> Result<Self, RedisError> {
        let ended = Arc::new(Notify::new());
        let (weak, end) = (Arc::downgrade(connector), Arc::clone(&ended));
        let config = connector.config().set_push_sender(move |push: PushInfo| {
            match push.kind {
                PushKind::Message => {
                    if let Some(connector) = weak.upgrade() {
                        on_message(connector.wakeups(), push);
                    }
                }
                PushKind::Disconnection => end.notify_one(),
                _ => {}
            }
            Ok::<(), redis::aio::SendError>(())
        });
        let mut connection = connector.beside(stamp, &config).await?;
        connection.subscribe(channel()).await?;
        Ok(Self { connection, ended })
    }

    /// Returns when the connection is of no use any more.
    async fn lost(&self) {
        let ended = self.ended.notified();
        let mut ended = std::pin::pin!(ended);
        loop {
            let mut connection = self.connection.clone();
            let shows_life = async {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                let shown = redis::cmd("PING").exec_async(&mut connection).await;
                // A refusal is a sign of life too.
                unless_refused(shown).is_ok()
            };
            tokio::select! {
                () = &mut ended => return,
                alive = shows_life => if !alive { return },
            }
        }
    }
}

/// The name of the channel for this process.
pub(super) fn channel() -> Vec<u8> {
    [CHANNEL, &ProcessId::current().0].concat()
}

/// Wakes those who wait for the key that a message names.
pub(super) fn on_message(wakeups: &Wakeups, push: PushInfo) {
    if let Some(Value::BulkString(key)) = push.data.into_iter().nth(1)
        && key.len() <= LONGEST_MESSAGE
    {
        wakeups.wake(&key);
    }
}

/// Holds the messages of a link, and makes their connection anew whenever it is lost, until the link is not used any more.
pub(super) async fn hold(connector: Weak<Connector>, link: Link, mut messages: Option<Messages>) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(held) = messages.take() {
            let lasted = Deadline::after(LONGEST_PAUSE);
            tokio::select! {
                () = link.pulse.ended() => return,
                () = held.lost() => {}
            }
            drop(held);
            let Some(connector) = connector.upgrade() else {
                return;
            };
            // Whoever waits for a message would wait in vain.
            connector.wakeups().wake_all();
            if lasted.has_passed() {
                pause = FIRST_PAUSE;
            }
            connector.messages_lost(&link).await;
        }
        tokio::select! {
            () = link.pulse.ended() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        let Some(connector) = connector.upgrade() else {
            return;
        };
        messages = connector.open_messages(link.stamp).await;
        if messages.is_some() {
            // What was published in between is gone.
            connector.wakeups().wake_all();
        }
    }
}

impl Connector {
    /// Makes the connection of the messages, if it can be made. Says so when that changes.
    pub(super) async fn open_messages(self: &Arc<Self>, stamp: u64) -> Option<Messages> {
        #[cfg(feature = "test-util")]
        if self.leaves_out(Mechanism::OwnMessages) {
            return None;
        }
        match Box::pin(Messages::open(self, stamp)).await {
            Ok(messages) => {
                self.conditions().hears();
                Some(messages)
            }
            Err(error) => {
                self.conditions().deaf(&Away::from(error));
                None
            }
        }
    }

    /// Says why the connection of the messages was lost, unless its link is lost with it, of which more is said.
    async fn messages_lost(&self, link: &Link) {
        let Ok(closing) = self.closing_of(link).await else {
            return;
        };
        if link.pulse.has_ended() {
            return;
        }
        let lost = || {
            let suspicion = self.closings().suspicion("pubsub");
            let message = format!("the connection for wake-ups was lost{suspicion}");
            Away::new(UNREACHABLE, &message)
        };
        self.conditions().deaf(&closing.unwrap_or_else(lost));
    }
}
