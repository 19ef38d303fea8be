//! Wake-ups from Redis: its scripts send messages to this process, which arrive on a connection of their own.
//!
//! Redis treats a connection that has subscribed to a channel as a pub/sub client. It closes the connection when its
//! unread messages exceed `client-output-buffer-limit pubsub` (32 MiB by default). On the data connection, a few large
//! rows would then cost all operations their link. On a separate connection, too many or too large messages cost only
//! wake-ups.
//!
//! 1. The connection is made in the handshake of a link, so that wake-ups work from its first operation on. If it
//!    cannot be made, or the server does not allow it to subscribe, the link works without it: waiting callers continue
//!    after their timeout.
//! 2. A task holds the connection while the link is used. When it is lost, the task wakes all waiting callers and
//!    reconnects, with growing pauses until a connection has lasted.
//! 3. Nothing else is sent on the connection, so the task sends a PING every few seconds to detect a dead connection.
//!
//! Invariant: the state of this connection does not affect the link: its history, its breaker and its trust stay.
//! Not here: the waiting callers (`wake`), and what is logged (`condition`).

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use redis::{PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::sync::Notify;

use crate::{
    clock::Deadline,
    protocol::token::ProcessId,
    store::{
        failpoint::Mechanism,
        redis::{
            condition::{UNREACHABLE, Unavailable},
            connection::{Connector, Link, unless_refused},
        },
        wake::Wakeups,
    },
};

const CHANNEL: &[u8] = b"larder:wake:";
/// Longer than any key. A longer message is not a wake-up.
const MAX_MESSAGE: usize = 4 << 10;
const INITIAL_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The pause between two PINGs.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// A connection that receives messages.
pub(super) struct Messages {
    connection: MultiplexedConnection,
    ended: Arc<Notify>,
}

impl Messages {
    /// Subscribes on a new connection to the run of the server that a link leads to.
    pub(super) async fn open(connector: &Arc<Connector>, history: u64) -> Result<Self, RedisError> {
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
        let mut connection = connector.open_another(history, &config).await?;
        connection.subscribe(channel()).await?;
        Ok(Self { connection, ended })
    }

    /// Returns when the connection no longer works.
    async fn lost(&self) {
        let ended = self.ended.notified();
        let mut ended = std::pin::pin!(ended);
        loop {
            let mut connection = self.connection.clone();
            let shows_life = async {
                tokio::time::sleep(SIGN_OF_LIFE).await;
                let shown = redis::cmd("PING").exec_async(&mut connection).await;
                // A rejection also shows that the connection works.
                unless_refused(shown).is_ok()
            };
            tokio::select! {
                () = &mut ended => return,
                alive = shows_life => if !alive { return },
            }
        }
    }
}

/// Returns the name of the channel of this process.
pub(super) fn channel() -> Vec<u8> {
    [CHANNEL, &ProcessId::current().0].concat()
}

/// Wakes the callers that wait for the key in a message.
pub(super) fn on_message(wakeups: &Wakeups, push: PushInfo) {
    if let Some(Value::BulkString(key)) = push.data.into_iter().nth(1)
        && key.len() <= MAX_MESSAGE
    {
        wakeups.wake(&key);
    }
}

/// Holds the message connection of a link, and reconnects whenever it is lost, until the link is no longer used.
pub(super) async fn hold(connector: Weak<Connector>, link: Link, mut messages: Option<Messages>) {
    let mut pause = INITIAL_PAUSE;
    loop {
        if let Some(held) = messages.take() {
            let lasted = Deadline::after(MAX_PAUSE);
            tokio::select! {
                () = link.heartbeat.ended() => return,
                () = held.lost() => {}
            }
            drop(held);
            let Some(connector) = connector.upgrade() else {
                return;
            };
            // Messages may have been lost, so wake all waiting callers.
            connector.wakeups().wake_all();
            if lasted.has_passed() {
                pause = INITIAL_PAUSE;
            }
            connector.messages_lost(&link).await;
        }
        tokio::select! {
            () = link.heartbeat.ended() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(MAX_PAUSE);
        let Some(connector) = connector.upgrade() else {
            return;
        };
        messages = connector.open_messages(link.history).await;
        if messages.is_some() {
            // Messages that were published in between are lost.
            connector.wakeups().wake_all();
        }
    }
}

impl Connector {
    /// Makes the message connection, if possible. Logs when that changes.
    pub(super) async fn open_messages(self: &Arc<Self>, history: u64) -> Option<Messages> {
        if self.disables(Mechanism::OwnMessages) {
            return None;
        }
        match Box::pin(Messages::open(self, history)).await {
            Ok(messages) => {
                self.conditions().hears();
                Some(messages)
            }
            Err(error) => {
                self.conditions().deaf(&Unavailable::from(error));
                None
            }
        }
    }

    /// Logs why the message connection was lost, unless the link was lost too, which is logged elsewhere.
    async fn messages_lost(&self, link: &Link) {
        let Ok(closing) = self.closing_of(link).await else {
            return;
        };
        if link.heartbeat.has_ended() {
            return;
        }
        let lost = || {
            let suspicion = self.closings().suspicion("pubsub");
            let message = format!("the connection for wake-ups was lost{suspicion}");
            Unavailable::new(UNREACHABLE, &message)
        };
        self.conditions().deaf(&closing.unwrap_or_else(lost));
    }
}
