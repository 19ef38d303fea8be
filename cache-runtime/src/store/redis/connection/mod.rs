//! The connection to Redis: how it is made, checked, lost and made again.
//!
//! 1. There is one multiplexed connection, the link. It is made in the background, and made again when it is lost.
//!    Until then every operation fails immediately, and the caller reads the database. A program can start without
//!    Redis, and begins to cache as soon as Redis is reachable.
//! 2. On every connection, larder reads the server's run id and replication id and hashes them into the *history*. A
//!    restart or a failover changes the history, so that entries from before are not served.
//! 3. A server that does not order all operations on every key is not used: a replica, a cluster node, a demoted
//!    primary. A server that is still loading its data is not used either.
//! 4. Wake-ups for waiting callers arrive on a connection of their own (`messages`).
//! 5. While a link is used, its heartbeat checks whether the server answers, and whether it may be trusted
//!    (`heartbeat`).
//! 6. Commands that would delay later ones have other connections: large entries (`large`), and waiting for the
//!    disk of the server (the *blocking connection*). If one of these fails, the link is still used.
//! 7. If a server has closed a connection, its counts show why when the next one is made (`closings`).
//!
//! Errors of a server: `READONLY`, `MASTERDOWN`, `LOADING`, `NOAUTH` and the codes of a cluster mean that this server
//! cannot be used, so the link is dropped. Any other error (`OOM`, `NOREPLICAS`, `NOPERM`, ..) fails one operation.
//! Other operations continue, such as a `GET` when memory is full.
//!
//! Invariant: a link leads to one run of one server, so facts about that run stay true for the link.
//! Invariant: when a link leads to another history than the one before, the recently written keys are handed to
//! `repair` before the new link can be used. An operation records its key before it takes a link, so it is either among
//! those keys or goes to the new server.
//! Not here: the operations (`redis`), and what is logged when (`condition`).

mod handshake;
mod info;
mod kinds;
mod watch;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, RedisResult, aio::MultiplexedConnection,
};
use tokio::runtime::Handle;

pub(crate) use self::handshake::Certificates;
use self::handshake::{MAX_ARGUMENT, client};
pub(super) use self::info::field;
pub(crate) use self::kinds::Connection;

#[cfg(feature = "metrics")]
use crate::observe::{survey::LinkUsage, timing::Timing};
use crate::{
    clock::Deadline,
    error::StoreError,
    health::{Problem, ProblemKind, StoreHealth, StoreStatus},
    printed,
    store::{
        failpoint::{Disabled, Mechanism},
        redis::{
            closings::Closings,
            condition::{ServerStatusLog, UNREACHABLE, Unavailable},
            heartbeat::{Heartbeat, info},
            messages::{self, Messages},
        },
        wake::Wakeups,
    },
};

/// How long a server may take to sync to its disk.
pub(crate) const MAX_SYNC: Duration = Duration::from_secs(5);
/// How long a blocking connection may be idle.
const MAX_IDLE: Duration = Duration::from_secs(5);
const INITIAL_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Returns what is read of the reply to `INFO`.
#[cfg(feature = "internal-faults")]
pub(super) fn info_history(text: &str) -> u64 {
    info::history(text)
}

/// The URL of a server. `Debug` prints only the address, because the URL may contain a password.
#[derive(Clone)]
pub(crate) struct ServerUrl(pub(crate) String);

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str().into_connection_info() {
            // A password with a `#` in it ends there, and its beginning may be taken for the host.
            Ok(_) if self.0.contains('#') => f.write_str("an invalid URL"),
            Ok(info) => write!(f, "{}", info.addr()),
            Err(_) => f.write_str("an invalid URL"),
        }
    }
}

impl ServerUrl {
    /// Returns why the URL is invalid, without any part of it.
    pub(crate) fn mistake(&self) -> Option<String> {
        let error = self.0.as_str().into_connection_info().err()?;
        let text = error.to_string();
        // Such as the value of a parameter.
        let part = error.detail().unwrap_or_default();
        let text = text.strip_suffix(part).unwrap_or("it is invalid");
        Some(text.trim_end_matches([':', ' ']).to_owned())
    }
}

/// The time-outs of the store.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one attempt to connect.
    pub connect: Duration,
    /// For the reply to a command.
    pub response: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            response: Duration::from_millis(500),
        }
    }
}

/// The options of a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// The time-outs of the store.
    pub timeouts: Timeouts,
    /// Whether a server is fenced even if it has and requires no replicas.
    pub fence: bool,
    /// The key that heartbeats write to.
    pub heartbeat_key: String,
    /// What a test has disabled.
    pub disabled: Disabled,
}

/// The observer of the server's state. The connection calls it before a new link can be used.
pub(crate) trait Observer: fmt::Debug + Send + Sync {
    /// Sets for how long the keys of writes are recorded, because the server may have a successor that never gets them.
    /// `None` if it cannot have one.
    fn watch_writes_for(&self, window: Option<Duration>);
    /// Reports that the server has accepted a write that was sent at this time, which shows that it has no successor.
    fn write_accepted(&self, sent_us: u64);
    /// Reports that the new link leads to another history than the last one.
    fn history_changed(&self);
}

/// The connector to one Redis server.
pub(crate) struct Connector {
    client: Client,
    options: Options,
    observer: Arc<dyn Observer>,
    conditions: ServerStatusLog,
    link: RwLock<Option<Link>>,
    /// The history of the latest link, also after it was lost.
    history: AtomicU64,
    /// The number of the latest link.
    number: AtomicU64,
    links_made: AtomicU64,
    connecting: AtomicBool,
    /// The history whose server stays fenced even if it reports no replicas any more: a primary that is cut off forgets
    /// its replicas after a while.
    fenced: AtomicU64,
    /// Whether it was logged that the last server has replicas and accepts writes without them.
    unfenced_was_logged: AtomicBool,
    wakeups: Wakeups,
    closings: Closings,
    /// The maximum length of a command's argument on the latest server.
    #[cfg(feature = "metrics")]
    pub(super) round_trips: Arc<Timing>,
    longest_argument: AtomicU64,
}

/// One connection, to one run of one server.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// The history of that run.
    pub(crate) history: u64,
    /// Whether the link may be used now.
    pub(crate) heartbeat: Arc<Heartbeat>,
    shared: Arc<LinkShared>,
    number: u64,
    /// Whether the connection is the one for large entries.
    is_large: bool,
}

/// Rarely used fields of a link.
struct LinkShared {
    /// Another connection to that run, if one is idle, and until when it may be used.
    blocking_connection: Mutex<Option<(Connection, Deadline)>>,
    /// The connection for large entries.
    large_connection: tokio::sync::Mutex<LargeConnection>,
    /// The runtime that drives its connections.
    runtime: Handle,
}

/// The connection for large entries.
#[derive(Default)]
enum LargeConnection {
    /// There is none yet, or it was lost.
    #[default]
    Missing,
    Open(Connection),
    /// It could not be opened, and nobody tries again before this time. Otherwise each operation would wait for all attempts
    /// before its own.
    Failed(Deadline),
}

impl Link {
    /// Returns its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the runtime that drives its connections.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    fn blocking_connection(&self) -> MutexGuard<'_, Option<(Connection, Deadline)>> {
        self.shared
            .blocking_connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a blocking connection for later. All of its commands must have been answered.
    pub(crate) fn keep_blocking_connection(&self, connection: Connection) {
        *self.blocking_connection() = Some((connection, Deadline::after(MAX_IDLE)));
    }
}

/// The result of a handshake.
struct Made {
    link: Link,
    messages: Option<Messages>,
    /// How long the keys of writes are recorded, if the server is fenced.
    window: Option<Duration>,
}

/// Exists while a task is connecting.
struct Connecting(Weak<Connector>);

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(connector) = self.0.upgrade() {
            connector.connecting.store(false, Ordering::Release);
        }
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        let link = self.link.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = link.take() {
            link.heartbeat.end();
        }
    }
}

impl Connector {
    /// Returns a connector to the server at a URL, with this root certificate (PEM) or else the public ones. It does
    /// not connect yet.
    pub(crate) fn new(
        url: &str,
        certificates: Certificates,
        options: Options,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, RedisError> {
        let info = url.into_connection_info()?;
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let client = client(info.set_redis_settings(settings), certificates)?;
        let address = client.get_connection_info().addr().to_string();
        Ok(Self {
            client,
            options,
            observer,
            conditions: ServerStatusLog::new(address),
            link: RwLock::new(None),
            history: AtomicU64::new(0),
            number: AtomicU64::new(0),
            links_made: AtomicU64::new(0),
            connecting: AtomicBool::new(false),
            fenced: AtomicU64::new(0),
            unfenced_was_logged: AtomicBool::new(false),
            wakeups: Wakeups::default(),
            closings: Closings::default(),
            longest_argument: AtomicU64::new(MAX_ARGUMENT),
            #[cfg(feature = "metrics")]
            round_trips: Arc::default(),
        })
    }

    /// Returns the address of the server, not its URL, which may contain a password.
    pub(crate) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Returns the history of the latest link, also after it was lost.
    pub(crate) fn history(&self) -> u64 {
        self.history.load(Ordering::Acquire)
    }

    /// Returns the number of the latest link.
    pub(crate) fn connection_number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Returns whether there is a link that may be used now.
    pub(crate) fn is_available(&self) -> bool {
        self.current()
            .is_some_and(|link| link.heartbeat.check().is_ok())
    }

    /// Returns how often the server was connected to, and how long it took to answer.
    #[cfg(feature = "metrics")]
    pub(crate) fn usage(&self) -> LinkUsage {
        LinkUsage {
            connections: self.connection_number(),
            round_trips: Arc::clone(&self.round_trips),
        }
    }

    /// Returns whether the server is used, and what does not work.
    pub(crate) fn health(&self) -> StoreHealth {
        let link = self.current();
        let problem = self.conditions.problem_of_link();
        let (status, mut problems) = match (link, problem) {
            (None, None) => {
                let message = format!("not connected to Redis at {} yet", self.address());
                let problem = Problem::new(ProblemKind::StoreAway, None, message);
                (StoreStatus::Away, vec![problem])
            }
            (_, Some(problem)) => (StoreStatus::Away, vec![problem]),
            (Some(link), None) => match link.heartbeat.untrusted_for() {
                None => (StoreStatus::Usable, Vec::new()),
                Some(lasts) => {
                    let message = format!(
                        "reads go to the database, because Redis at {} has accepted no write for a second, so another server may \
                         have replaced it",
                        self.address()
                    );
                    let kind = ProblemKind::StoreNotTrusted;
                    let problem = Problem::new(kind, Some(lasts), message);
                    (StoreStatus::NotTrusted, vec![problem])
                }
            },
        };
        problems.extend(self.conditions.problems_on_link());
        StoreHealth { status, problems }
    }

    /// Returns the maximum length of a command's argument on the server of the latest link.
    pub(crate) fn longest_argument(&self) -> u64 {
        self.longest_argument.load(Ordering::Relaxed)
    }

    /// Returns whether a mechanism is disabled.
    pub(super) fn disables(&self, mechanism: Mechanism) -> bool {
        self.options.disabled.has(mechanism)
    }

    pub(super) fn closings(&self) -> &Closings {
        &self.closings
    }

    pub(super) fn conditions(&self) -> &ServerStatusLog {
        &self.conditions
    }

    /// Returns the registry of the callers that messages wake.
    pub(crate) fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// Tries once to connect, and continues in the background if that fails.
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<(), StoreError> {
        if self.current().is_some() {
            return Ok(());
        }
        let result = self.connect_once().await;
        if result.is_err() {
            self.connect_in_background();
        }
        result
    }

    /// Returns the current link, or an error if it must not be used now. Without a link, it starts to connect in the
    /// background. Every operation gets its link here.
    pub(crate) fn link(self: &Arc<Self>) -> Result<Link, StoreError> {
        let link = self.current().ok_or_else(|| {
            self.connect_in_background();
            StoreError::new("not connected to Redis")
        })?;
        link.heartbeat.check()?;
        Ok(link)
    }

    /// Checks the reply to a command, and records what it shows about the link. Replies from a server that may no
    /// longer be the primary are discarded.
    pub(crate) fn check_reply<T>(
        self: &Arc<Self>,
        link: &Link,
        operation: &'static str,
        answer: RedisResult<T>,
    ) -> Result<T, StoreError> {
        match answer {
            Ok(value) => {
                self.conditions.accepted(operation);
                if link.is_large {
                    self.conditions.large_entries_work();
                }
                let trusted = link.heartbeat.check_trust();
                // The command was executed, but on a server whose data may be discarded.
                trusted.map_err(|error| StoreError::unanswered(printed::short(&error)))?;
                Ok(value)
            }
            Err(error) => {
                if link.is_large && error.code().is_none() {
                    self.large_entry_failed(link, &error);
                } else if error.is_timeout() {
                    self.silent(link, &error);
                } else if ends_the_link(&error) {
                    self.lost(link.number, &Unavailable::from(&error));
                } else {
                    self.conditions.refused(operation, &error);
                }
                // An error with a code is a reply: the server has rejected the command.
                Err(if error.code().is_some() {
                    StoreError::new(printed::short(&error))
                } else {
                    StoreError::unanswered(printed::short(&error))
                })
            }
        }
    }

    fn current(&self) -> Option<Link> {
        self.link
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Opens the breaker of a link: a command was not answered in time.
    fn silent(&self, link: &Link, error: &RedisError) {
        if self.options.disabled.has(Mechanism::Breaker) {
            return;
        }
        // Log before opening the breaker, so that an immediate recovery is logged after it. Skip replaced links: they
        // are not probed.
        let current = self.link.read().unwrap_or_else(PoisonError::into_inner);
        if current
            .as_ref()
            .is_some_and(|now| now.number == link.number)
        {
            self.conditions.away(&Unavailable::from(error));
            link.heartbeat.fall_silent();
        }
    }

    /// Records that an operation on a large entry was not answered. That shows nothing about the link.
    fn large_entry_failed(self: &Arc<Self>, link: &Link, error: &RedisError) {
        let mut away = Unavailable::from(error);
        if error.is_timeout() {
            self.conditions.large_entries_fail(&away);
            return;
        }
        if let Ok(mut large) = link.shared.large_connection.try_lock() {
            // The next operation makes another one.
            *large = LargeConnection::Missing;
        }
        if away.code == UNREACHABLE {
            away.message += &self.closings.suspicion("normal");
        }
        self.conditions.large_entries_fail(&away);
        let Some(link) = self.current() else {
            return;
        };
        let connector = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(Some(closing)) = connector.closing_of(&link).await {
                connector.conditions.large_entries_fail(&closing);
            }
        });
    }

    /// Drops a link whose connection has ended, and makes another.
    fn disconnected(self: &Arc<Self>, number: u64) {
        let away = Unavailable::new(UNREACHABLE, "the connection was lost");
        self.lost(number, &away);
    }

    /// Drops a link, and makes another.
    fn lost(self: &Arc<Self>, number: u64, away: &Unavailable) {
        let mut current = self.link.write().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = current.take_if(|link| link.number == number) else {
            return;
        };
        // Log before another link can be made, so that the recovery is logged after it.
        let mut away = away.clone();
        if away.code == UNREACHABLE {
            away.message += &self.closings.suspicion("normal");
        }
        self.conditions.away(&away);
        drop(current);
        link.heartbeat.end();
        // Messages are lost with the link, so wake all waiting callers.
        self.wakeups.wake_all();
        self.connect_in_background();
    }

    fn connect_in_background(self: &Arc<Self>) {
        if self.connecting.swap(true, Ordering::AcqRel) {
            return;
        }
        let weak = Arc::downgrade(self);
        let connecting = Connecting(Weak::clone(&weak));
        tokio::spawn(async move {
            // Dropped even if the task is stopped with its runtime, so that another task may connect.
            let _connecting = connecting;
            let mut pause = INITIAL_PAUSE;
            loop {
                // Stop when the store is dropped.
                let Some(connector) = weak.upgrade() else {
                    return;
                };
                if connector.connect_once().await.is_ok() {
                    return;
                }
                drop(connector);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        });
    }

    async fn connect_once(self: &Arc<Self>) -> Result<(), StoreError> {
        let number = self.links_made.fetch_add(1, Ordering::Relaxed) + 1;
        let Made {
            link,
            messages,
            window,
        } = match Box::pin(self.handshake(number)).await {
            Ok(made) => made,
            Err(away) => {
                self.conditions.away(&away);
                return Err(StoreError::new(away.message));
            }
        };
        let mut current = self.link.write().unwrap_or_else(PoisonError::into_inner);
        // If two attempts overlap, keep the link of the later one.
        if current
            .as_ref()
            .is_none_or(|current| current.number < link.number)
        {
            let before = self.history.swap(link.history, Ordering::AcqRel);
            if self.number.swap(link.number, Ordering::AcqRel) != 0 && before != link.history {
                self.observer.history_changed();
            }
            // Only now, after the recorded keys of the former server were handed to `repair`.
            self.observer.watch_writes_for(window);
            tokio::spawn(watch::run(Arc::downgrade(self), link.clone()));
            let held = messages::hold(Arc::downgrade(self), link.clone(), messages);
            tokio::spawn(held);
            if let Some(closing) = self.closings.take() {
                self.conditions.lost_because(&closing);
            }
            if let Some(replaced) = current.replace(link) {
                replaced.heartbeat.end();
            }
            if !self.conditions.back() {
                tracing::info!(address = self.address(), "connected to Redis");
            }
        }
        drop(current);
        // Callers that registered over an earlier connection stay registered, but messages that were published in
        // between are lost.
        self.wakeups.wake_all();
        Ok(())
    }

    /// Returns the configuration of a connection.
    pub(super) fn config(&self) -> AsyncConnectionConfig {
        let timeouts = self.options.timeouts;
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeouts.connect))
            .set_response_timeout(Some(timeouts.response))
    }

    /// Makes another connection to the same run of the same server as a link.
    pub(super) async fn open_another(
        &self,
        history: u64,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let made = self
            .client
            .get_multiplexed_async_connection_with_config(config);
        let mut connection = made.await?;
        let info = unless_refused(info().query_async::<String>(&mut connection).await)?;
        if self.history_of(&info.unwrap_or_default()) != history {
            return Err((redis::ErrorKind::Io, "another run of Redis answered").into());
        }
        Ok(connection)
    }

    /// Returns why the server of a link has closed a connection recently, if its counts show it. Fails if the link
    /// itself does not work.
    pub(super) async fn closing_of(&self, link: &Link) -> RedisResult<Option<Unavailable>> {
        let mut connection = link.connection.clone();
        let info = info().query_async::<String>(&mut connection).await;
        if let Some(info) = unless_refused(info)? {
            self.closings.note(link.history, &info);
        }
        Ok(self.closings.take())
    }

    /// Returns a link for large entries: the same link with a connection that small ones do not share. It is opened when it
    /// is needed first. If that fails, it is tried again after [`MAX_PAUSE`].
    pub(super) async fn large_link(&self, link: Link) -> Result<Link, StoreError> {
        if link.is_large || self.disables(Mechanism::LargeConnection) {
            return Ok(link);
        }
        let shared = Arc::clone(&link.shared);
        let mut large = shared.large_connection.lock().await;
        let connection = match &*large {
            LargeConnection::Open(connection) => connection.clone(),
            LargeConnection::Failed(until) if !until.has_passed() => {
                return Err(StoreError::new("no connection to Redis for large entries"));
            }
            LargeConnection::Missing | LargeConnection::Failed(_) => {
                match self.open_another(link.history, &self.config()).await {
                    Ok(made) => {
                        let made = Connection::Multiplexed(made);
                        *large = LargeConnection::Open(made.clone());
                        made
                    }
                    Err(error) => {
                        *large = LargeConnection::Failed(Deadline::after(MAX_PAUSE));
                        self.conditions
                            .large_entries_fail(&Unavailable::from(&error));
                        return Err(StoreError::new(printed::short(&error)));
                    }
                }
            }
        };
        Ok(Link {
            connection,
            is_large: true,
            ..link
        })
    }

    /// Returns another connection to the same run of the same server as a link, for commands that delay later ones, for
    /// up to [`MAX_SYNC`]. The caller uses it alone, and gives it back when all of its commands are answered.
    pub(crate) async fn blocking_connection(&self, link: &Link) -> Result<Connection, StoreError> {
        // A connection that was idle for too long may be dead, or closed by the server.
        let kept = link.blocking_connection().take();
        if let Some((connection, _)) = kept.filter(|(_, idle)| !idle.has_passed()) {
            return Ok(connection);
        }
        let timeout = MAX_SYNC + self.options.timeouts.response;
        let config = self.config().set_response_timeout(Some(timeout));
        let made = self.open_another(link.history, &config).await;
        made.map(Connection::Multiplexed)
            .map_err(|error| StoreError::new(printed::short(&error)))
    }

    /// Checks the reply on a blocking connection. A failure of that connection does not affect the link.
    pub(crate) fn check_blocking_reply<T>(
        self: &Arc<Self>,
        link: &Link,
        operation: &'static str,
        answer: RedisResult<T>,
    ) -> Result<T, StoreError> {
        match answer {
            Err(error) if error.code().is_none() => {
                Err(StoreError::unanswered(printed::short(&error)))
            }
            answer => self.check_reply(link, operation, answer),
        }
    }

    /// Returns the time-outs of the store.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.options.timeouts
    }

    /// Returns whether the server of a link reports its history, so that a change can be detected.
    pub(crate) fn tells_histories(&self, link: &Link) -> bool {
        if self.options.disabled.has(Mechanism::History) {
            return true;
        }
        link.history != 0
    }

    /// Returns the id of the history that a server reports; 0 if it reports none.
    fn history_of(&self, info: &str) -> u64 {
        if self.options.disabled.has(Mechanism::History) {
            return 0;
        }
        if info.is_empty() {
            0
        } else {
            info::history(info)
        }
    }
}

/// Returns the reply of a server, or `None` if it rejects the command.
pub(super) fn unless_refused<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    match answer {
        Err(error) if is_refused(&error) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Returns whether a server rejects a command permanently.
fn is_refused(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

/// Returns whether an error means that the connection is lost, or that this server does not, or no longer, order all
/// operations on a key.
fn ends_the_link(error: &RedisError) -> bool {
    const CODES: [&str; 7] = [
        "READONLY",
        "MASTERDOWN",
        "LOADING",
        "NOAUTH",
        "MOVED",
        "ASK",
        "CLUSTERDOWN",
    ];
    error.is_unrecoverable_error()
        || error.is_connection_dropped()
        || error.code().is_some_and(|code| CODES.contains(&code))
}

fn on_push(connector: &Weak<Connector>, number: u64, push: PushInfo) {
    let Some(connector) = connector.upgrade() else {
        return;
    };
    match push.kind {
        // Only in a test that lets messages arrive here.
        PushKind::Message => messages::on_message(&connector.wakeups, push),
        PushKind::Disconnection => connector.disconnected(number),
        _ => {}
    }
}
