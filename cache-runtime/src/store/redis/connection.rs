//! The connection to Redis: made, judged, lost and made again.
//!
//! 1. One multiplexed connection, made in the background and made again when it is lost; meanwhile every operation fails at
//!    once, and the caller reads the database. A program starts without Redis and begins caching when it appears.
//! 2. On every connection the server's run id and replication id are read and hashed into the *history stamp*. A restart or
//!    a failover changes it, so that what such a server has resurrected is not believed.
//! 3. A server that does not order all operations on every key is not used: a replica, a cluster node, a primary that has
//!    been demoted. Nor is one that is still loading its data.
//! 4. Wake-ups for waiting loads arrive on a connection of their own beside the link (`messages`).
//! 5. While it is used, a link is watched by its pulse: whether it answers, and whether it may be trusted (`pulse`).
//! 6. Commands that hold up those behind them have another connection beside the link, its *companion*.
//! 7. Why a server has closed a connection by itself is learnt from its counts when the next one is made (`closings`).
//!
//! What a server's refusal means: `READONLY`, `MASTERDOWN`, `LOADING`, `NOAUTH` and the words of a cluster say that this
//! server is not the one to ask, and the link is lost. Anything else (`OOM`, `NOREPLICAS`, `NOPERM`, ..) is the failure of
//! one operation; others, such as a `GET` when memory is full, go on.
//!
//! Invariant: a link leads to one run of one server; what was learnt of that run stays true of the link.
//! Invariant: when a link leads to another history than the one before, the keys that were told to the earlier server lately
//! are handed to `repair` before the new link can be taken. An operation notes its key before it takes its link, so it is
//! either among those keys or goes to the new server.
//! Not here: the operations (`redis`), and what is logged when (`condition`).

use std::{
    collections::HashMap,
    hash::Hasher,
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

#[cfg(feature = "test-util")]
use crate::store::faulty::{Faults, Mechanism};
use crate::{
    clock::{Deadline, timer_us},
    error::StoreError,
    store::{
        redis::{
            closings::Closings,
            condition::{Away, Conditions, UNREACHABLE},
            heartbeat::{BEAT, Beat, Ending, PROBE_PAUSE, PROBES, Pulse, info},
            messages::{self, Messages},
        },
        wake::Wakeups,
    },
};

/// How long a server may take to write to its disk.
pub(crate) const LONGEST_SYNC: Duration = Duration::from_secs(5);
/// How long a companion may be idle.
const LONGEST_IDLE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long an argument of a command may be where a server does not tell (the default of Redis).
const LONGEST_ARGUMENT: u64 = 512 << 20;
/// Settings of a server that cost a connection where it goes beyond them.
const LONGEST_BULK: &str = "proto-max-bulk-len";
const QUERY_BUFFER: &str = "client-query-buffer-limit";
const OUTPUT_BUFFER: &str = "client-output-buffer-limit";
/// What a server may have in its buffer beside a long argument.
const AROUND_AN_ARGUMENT: u64 = 64 << 10;
/// After how long a primary misses its replicas, where it does not tell (the default of Redis).
const DEFAULT_LAG: Duration = Duration::from_secs(10);
/// How much longer keys are noted: until trust has ended everywhere, and a little.
const LAG_MARGIN: Duration = Duration::from_secs(2);
/// What the pulse's writes are called in the log.
const HEARTBEAT: &str = "heartbeat";

/// How patient the store is.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection to be made.
    pub connect: Duration,
    /// For the answer to a command.
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

/// How a server is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// How patient the store is.
    pub timeouts: Timeouts,
    /// Whether a server is fenced that does not ask for it.
    pub fence: bool,
    /// The key that heartbeats write to.
    pub heart: String,
    /// The mechanisms that are left out.
    #[cfg(feature = "test-util")]
    pub faults: Option<Faults>,
}

impl Options {
    #[cfg(feature = "test-util")]
    fn leaves_out(&self, mechanism: Mechanism) -> bool {
        self.faults
            .as_ref()
            .is_some_and(|faults| faults.is_left_out(mechanism))
    }
}

/// Who has to hear of what happens to the server. Called by the connection, before anybody can use a link that it makes.
pub(crate) trait Observer: std::fmt::Debug + Send + Sync {
    /// Sets for how long the keys of writes are to be noted, because the server could have a successor that never hears of
    /// them; `None` if it cannot.
    fn watch_writes_for(&self, window: Option<Duration>);
    /// The server has accepted a write that was sent at this moment, which shows that nobody has taken its place.
    fn write_accepted(&self, sent_us: u64);
    /// Another history than the last one answers.
    fn history_changed(&self);
}

/// The way to one Redis server.
pub(crate) struct Connector {
    client: Client,
    options: Options,
    observer: Arc<dyn Observer>,
    conditions: Conditions,
    link: RwLock<Option<Link>>,
    /// The stamp of the latest link, also while there is none.
    stamp: AtomicU64,
    /// The number of the latest link.
    run: AtomicU64,
    links_made: AtomicU64,
    connecting: AtomicBool,
    /// The history whose server must be fenced also when it does not ask for it any more: a primary that is cut off
    /// forgets its replicas in time.
    fenced: AtomicU64,
    /// Whether the last server was remarked for having replicas and not minding their loss.
    careless: AtomicBool,
    wakeups: Wakeups,
    closings: Closings,
    /// How long an argument of a command may be for the latest server.
    longest_argument: AtomicU64,
}

/// One connection, to one run of one server.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) connection: MultiplexedConnection,
    /// The history stamp of that run.
    pub(crate) stamp: u64,
    /// Whether the link may be used now.
    pub(crate) pulse: Arc<Pulse>,
    beside: Arc<Beside>,
    number: u64,
}

/// What few operations need of a link.
struct Beside {
    /// Another connection to that run, if one is idle, and until when it is good for something.
    companion: Mutex<Option<(MultiplexedConnection, Deadline)>>,
    /// The runtime that drives its connections.
    runtime: Handle,
}

impl Link {
    /// Its number: the run of the store.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The runtime that drives its connections.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.beside.runtime
    }

    fn companion(&self) -> MutexGuard<'_, Option<(MultiplexedConnection, Deadline)>> {
        self.beside
            .companion
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a companion back that has answered everything.
    pub(crate) fn keep_companion(&self, connection: MultiplexedConnection) {
        *self.companion() = Some((connection, Deadline::after(LONGEST_IDLE)));
    }
}

/// What a handshake comes to.
struct Made {
    link: Link,
    messages: Option<Messages>,
    /// How long keys are to be noted that the server is told about, if it is fenced.
    window: Option<Duration>,
}

/// While it lives, a task is connecting.
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
            link.pulse.end();
        }
    }
}

impl Connector {
    /// A way to the server at a URL, trusting this root certificate (PEM) or else the public ones; nothing is connected yet.
    pub(crate) fn new(
        url: &str,
        root_certificate: Option<Vec<u8>>,
        options: Options,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, RedisError> {
        let info = url.into_connection_info()?;
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let client = client(info.set_redis_settings(settings), root_certificate)?;
        let address = client.get_connection_info().addr().to_string();
        Ok(Self {
            client,
            options,
            observer,
            conditions: Conditions::new(address),
            link: RwLock::new(None),
            stamp: AtomicU64::new(0),
            run: AtomicU64::new(0),
            links_made: AtomicU64::new(0),
            connecting: AtomicBool::new(false),
            fenced: AtomicU64::new(0),
            careless: AtomicBool::new(false),
            wakeups: Wakeups::default(),
            closings: Closings::default(),
            longest_argument: AtomicU64::new(LONGEST_ARGUMENT),
        })
    }

    /// Where the server is; not its URL, which may hold a password.
    pub(crate) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// The stamp of the latest link, also while there is none.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Acquire)
    }

    /// The number of the latest link.
    pub(crate) fn run(&self) -> u64 {
        self.run.load(Ordering::Acquire)
    }

    /// Whether there is a link that may be used now.
    pub(crate) fn is_trusted(&self) -> bool {
        self.current()
            .is_some_and(|link| link.pulse.check().is_ok())
    }

    /// How long an argument of a command may be for the server of the latest link.
    pub(crate) fn longest_argument(&self) -> u64 {
        self.longest_argument.load(Ordering::Relaxed)
    }

    /// Whether a mechanism is left out.
    #[cfg(feature = "test-util")]
    pub(super) fn leaves_out(&self, mechanism: Mechanism) -> bool {
        self.options.leaves_out(mechanism)
    }

    pub(super) fn closings(&self) -> &Closings {
        &self.closings
    }

    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// The registry that messages wake.
    pub(crate) fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// Tries once to connect; goes on in the background if that fails.
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

    /// The current link, if it may be used now; otherwise an error at once. Without a link, an attempt is made in the
    /// background. Every operation obtains its link here.
    pub(crate) fn link(self: &Arc<Self>) -> Result<Link, StoreError> {
        let link = self.current().ok_or_else(|| {
            self.connect_in_background();
            StoreError::new("not connected to Redis")
        })?;
        link.pulse.check()?;
        Ok(link)
    }

    /// Judges the answer to a command, and takes note of what it says about the link. The answer of a server that may have
    /// a successor by now does not count.
    pub(crate) fn judge<T>(
        self: &Arc<Self>,
        link: &Link,
        operation: &'static str,
        answer: RedisResult<T>,
    ) -> Result<T, StoreError> {
        match answer {
            Ok(value) => {
                self.conditions.accepted(operation);
                let trusted = link.pulse.check_trust();
                // It was done, where it may not last.
                trusted.map_err(|error| StoreError::unanswered(error.to_string()))?;
                Ok(value)
            }
            Err(error) => {
                if error.is_timeout() {
                    self.silent(link, &error);
                } else if ends_the_link(&error) {
                    self.lost(link.number, &Away::from(&error));
                } else {
                    self.conditions.refused(operation, &error);
                }
                // Whoever has answered has refused.
                Err(if error.code().is_some() {
                    StoreError::new(error.to_string())
                } else {
                    StoreError::unanswered(error.to_string())
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
        #[cfg(feature = "test-util")]
        if self.options.leaves_out(Mechanism::Breaker) {
            return;
        }
        // Said before the breaker opens, so that a probe that closes it at once has something to take back; and not of a
        // link that has been replaced, which nobody probes.
        let current = self.link.read().unwrap_or_else(PoisonError::into_inner);
        if current
            .as_ref()
            .is_some_and(|now| now.number == link.number)
        {
            self.conditions.away(&Away::from(error));
            link.pulse.fall_silent();
        }
    }

    /// Drops a link, and makes another.
    fn lost(self: &Arc<Self>, number: u64, away: &Away) {
        let mut current = self.link.write().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = current.take_if(|link| link.number == number) else {
            return;
        };
        // Said before another link can be made, which takes it back.
        let mut away = away.clone();
        if away.code == UNREACHABLE {
            away.message += &self.closings.suspicion("normal");
        }
        self.conditions.away(&away);
        drop(current);
        link.pulse.end();
        // Whoever waits for a message would wait in vain.
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
            // Also when the task is stopped with its runtime: another one may try again.
            let _connecting = connecting;
            let mut pause = FIRST_PAUSE;
            loop {
                // Only a store that somebody still holds is worth a connection.
                let Some(connector) = weak.upgrade() else {
                    return;
                };
                if connector.connect_once().await.is_ok() {
                    return;
                }
                drop(connector);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
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
        // Two attempts may overlap; the later one has seen the server later.
        if current
            .as_ref()
            .is_none_or(|current| current.number < link.number)
        {
            let before = self.stamp.swap(link.stamp, Ordering::AcqRel);
            if self.run.swap(link.number, Ordering::AcqRel) != 0 && before != link.stamp {
                self.observer.history_changed();
            }
            // Only now: what was noted for the server before must have been replayed.
            self.observer.watch_writes_for(window);
            tokio::spawn(watch(Arc::downgrade(self), link.clone()));
            let held = messages::hold(Arc::downgrade(self), link.clone(), messages);
            tokio::spawn(held);
            if let Some(closing) = self.closings.take() {
                self.conditions.lost_because(&closing);
            }
            if let Some(replaced) = current.replace(link) {
                replaced.pulse.end();
            }
            if !self.conditions.back() {
                tracing::info!(address = self.address(), "connected to Redis");
            }
        }
        drop(current);
        // Waiters that registered through an earlier connection are known to the server under the same name, but news
        // that was published in between is gone.
        self.wakeups.wake_all();
        Ok(())
    }

    /// Makes a link, and the connection of its messages.
    async fn handshake(self: &Arc<Self>, number: u64) -> Result<Made, Away> {
        let connector = Arc::downgrade(self);
        let config = self.config().set_push_sender(move |push: PushInfo| {
            on_push(&connector, number, push);
            Ok::<(), redis::aio::SendError>(())
        });
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        // A server that is loading its data says so when it is asked for anything but INFO.
        unless_refused(redis::cmd("PING").exec_async(&mut connection).await)?;
        // A proxy or an access list may hide INFO: then a restart is not noticed, and the time to live is the bound.
        let told = unless_refused(info().query_async::<String>(&mut connection).await)?;
        let told = told.unwrap_or_default();
        usable(&told)?;
        let stamp = self.stamp_of(&told);
        self.closings.note(stamp, &told);
        let mut limits = limits(&mut connection).await?;
        let longest = longest_argument(&limits);
        self.longest_argument.store(longest, Ordering::Relaxed);
        self.closings
            .note_output_limits(limits.remove(OUTPUT_BUFFER));
        #[cfg(feature = "test-util")]
        if self.options.leaves_out(Mechanism::OwnMessages) {
            connection.subscribe(messages::channel()).await?;
        }
        let messages = self.open_messages(stamp).await;
        let fenced = self.must_fence(&told, stamp);
        let link = Link {
            stamp,
            pulse: Arc::new(Pulse::new(fenced)),
            connection,
            beside: Arc::new(Beside {
                companion: Mutex::default(),
                runtime: Handle::current(),
            }),
            number,
        };
        let window = if fenced {
            let window = suspect_window(&link).await;
            self.earn_trust(&link).await?;
            Some(window)
        } else {
            None
        };
        Ok(Made {
            link,
            messages,
            window,
        })
    }

    /// How a connection is made.
    pub(super) fn config(&self) -> AsyncConnectionConfig {
        let timeouts = self.options.timeouts;
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeouts.connect))
            .set_response_timeout(Some(timeouts.response))
    }

    /// A connection beside a link, to the same run of the same server.
    pub(super) async fn beside(
        &self,
        stamp: u64,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let made = self
            .client
            .get_multiplexed_async_connection_with_config(config);
        let mut connection = made.await?;
        let told = unless_refused(info().query_async::<String>(&mut connection).await)?;
        if self.stamp_of(&told.unwrap_or_default()) != stamp {
            return Err((redis::ErrorKind::Io, "Redis was replaced").into());
        }
        Ok(connection)
    }

    /// Why the server of a link has closed a connection lately, if it says so. Fails if the link is in trouble itself.
    pub(super) async fn closing_of(&self, link: &Link) -> RedisResult<Option<Away>> {
        let mut connection = link.connection.clone();
        let told = info().query_async::<String>(&mut connection).await;
        if let Some(told) = unless_refused(told)? {
            self.closings.note(link.stamp, &told);
        }
        Ok(self.closings.take())
    }

    /// A connection beside a link, to the same run of the same server, for commands that hold up those behind them and may
    /// take as long as [`LONGEST_SYNC`]. Whoever has it has it alone, and gives it back when all of its commands are answered.
    pub(crate) async fn companion(&self, link: &Link) -> Result<MultiplexedConnection, StoreError> {
        // One that was idle may have been forgotten on the way, or closed by the server.
        let kept = link.companion().take();
        if let Some((connection, _)) = kept.filter(|(_, idle)| !idle.has_passed()) {
            return Ok(connection);
        }
        let patience = LONGEST_SYNC + self.options.timeouts.response;
        let config = self.config().set_response_timeout(Some(patience));
        let made = self.beside(link.stamp, &config).await;
        made.map_err(|error| StoreError::new(error.to_string()))
    }

    /// Judges what a companion has answered. What is wrong with its connection says nothing about the link.
    pub(crate) fn judge_companion<T>(
        self: &Arc<Self>,
        link: &Link,
        operation: &'static str,
        answer: RedisResult<T>,
    ) -> Result<T, StoreError> {
        match answer {
            Err(error) if error.code().is_none() => Err(StoreError::unanswered(error.to_string())),
            answer => self.judge(link, operation, answer),
        }
    }

    /// How patient the store is.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.options.timeouts
    }

    /// Whether the server of a link tells its history, so that a new one is noticed.
    pub(crate) fn tells_histories(&self, link: &Link) -> bool {
        #[cfg(feature = "test-util")]
        if self.options.leaves_out(Mechanism::Stamp) {
            return true;
        }
        link.stamp != 0
    }

    /// Tries a write at once, without waiting for the next beat.
    async fn earn_trust(&self, link: &Link) -> Result<(), Away> {
        let sent_us = timer_us();
        let mut connection = link.connection.clone();
        let heart = redis::Cmd::del(&self.options.heart);
        match heart.exec_async(&mut connection).await {
            Err(error) if ends_the_link(&error) || error.is_timeout() => Err(Away::from(error)),
            written => {
                self.heard(link, sent_us, &written);
                Ok(())
            }
        }
    }

    /// Takes note of whether a heartbeat was accepted.
    fn heard(&self, link: &Link, sent_us: u64, written: &RedisResult<()>) {
        match written {
            Ok(()) => {
                self.conditions.accepted(HEARTBEAT);
                link.pulse.trust_from(sent_us);
                // Not during the handshake with a successor, before which nothing may be forgotten.
                if self.run() == link.number {
                    self.observer.write_accepted(sent_us);
                }
            }
            Err(error) => self.conditions.refused(HEARTBEAT, error),
        }
    }

    /// Whether a server that says this of itself must be fenced. Says so when it should be but cannot.
    fn must_fence(&self, told: &str, stamp: u64) -> bool {
        #[cfg(feature = "test-util")]
        if self.options.leaves_out(Mechanism::TrustLease) {
            return false;
        }
        let replicas = field(told, "connected_slaves").is_some_and(|count| count != "0");
        // Told only by a server that is to refuse writes when it misses its replicas.
        let minds = field(told, "min_slaves_good_slaves").is_some();
        let careless = replicas && !minds;
        if self.careless.swap(careless, Ordering::Relaxed) != careless && careless {
            tracing::warn!(
                address = self.address(),
                code = "min-replicas-to-write",
                "Redis has replicas but takes writes without them; a primary that is cut off is believed until it is told"
            );
        }
        let remembered = stamp != 0 && self.fenced.load(Ordering::Relaxed) == stamp;
        let fenced = self.options.fence || replicas || minds || remembered;
        if fenced {
            self.fenced.store(stamp, Ordering::Relaxed);
        }
        fenced
    }

    fn stamp_of(&self, told: &str) -> u64 {
        #[cfg(feature = "test-util")]
        if self.options.leaves_out(Mechanism::Stamp) {
            return 0;
        }
        if told.is_empty() { 0 } else { stamp(told) }
    }

    /// Draws the conclusions from a beat: whether the link is still worth something.
    async fn conclude(self: &Arc<Self>, link: &Link, beat: &Beat) -> Result<(), Away> {
        if let Some(error) = beat.errors().find(|error| ends_the_link(error)) {
            return Err(Away::from(error));
        }
        if let Some(written) = &beat.written {
            self.heard(link, beat.sent_us, written);
        }
        if link.pulse.answer() {
            self.conditions.back();
        }
        if let Ok(Some(told)) = &beat.told {
            usable(told)?;
            // So that what has happened before is not taken for the reason of what happens later.
            self.closings.note(link.stamp, told);
            if self.stamp_of(told) != link.stamp {
                return Err(Away::new(
                    "REPLACED",
                    "the server has begun another history",
                ));
            }
            if self.must_fence(told, link.stamp) && !link.pulse.is_fenced() {
                let window = suspect_window(link).await;
                self.observer.watch_writes_for(Some(window));
                link.pulse.fence();
                self.earn_trust(link).await?;
            }
        }
        Ok(())
    }
}

/// How long a fenced server may take writes that its successor never hears of: until it misses its replicas, and until all
/// trust in it has ended.
async fn suspect_window(link: &Link) -> Duration {
    let mut connection = link.connection.clone();
    let lag = redis::cmd("CONFIG")
        .arg("GET")
        .arg("min-replicas-max-lag")
        .query_async::<Vec<String>>(&mut connection)
        .await;
    let lag = lag.ok().and_then(|lag| lag.get(1)?.parse().ok());
    lag.map_or(DEFAULT_LAG, Duration::from_secs) + LAG_MARGIN
}

/// What a server says of its limits, if it does.
async fn limits(connection: &mut MultiplexedConnection) -> RedisResult<HashMap<String, String>> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET")
        .arg(LONGEST_BULK)
        .arg(QUERY_BUFFER)
        .arg(OUTPUT_BUFFER);
    Ok(unless_refused(ask.query_async(connection).await)?.unwrap_or_default())
}

/// How long an argument of a command may be: a server breaks the connection on which a longer one comes.
fn longest_argument(limits: &HashMap<String, String>) -> u64 {
    let limit = |name: &str| limits.get(name)?.parse::<u64>().ok();
    // An argument is gathered in a buffer, which has a limit of its own.
    let buffer = limit(QUERY_BUFFER).map(|limit| limit.saturating_sub(AROUND_AN_ARGUMENT));
    let both = limit(LONGEST_BULK).into_iter().chain(buffer);
    both.min().unwrap_or(LONGEST_ARGUMENT)
}

/// The task of a link: beats and probes until the link is lost or nobody holds the connector any more.
async fn watch(connector: Weak<Connector>, link: Link) {
    // Also when the task is stopped with its runtime, and the connection with it.
    let ending = Ending(Arc::clone(&link.pulse));
    let mut unanswered = 0;
    while wait_for_beat(&link).await {
        let Some((asks, heart)) = connector.upgrade().map(|connector| {
            let heart = link
                .pulse
                .is_fenced()
                .then(|| connector.options.heart.clone());
            (link.stamp != 0, heart)
        }) else {
            return;
        };
        let beat = Beat::of(&link.connection, asks, heart.as_deref()).await;
        let Some(connector) = connector.upgrade() else {
            return;
        };
        let concluded = if let Some(error) = beat.silence() {
            connector.silent(&link, error);
            unanswered += 1;
            if unanswered < PROBES {
                Ok(())
            } else {
                Err(Away::from(error))
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

/// Waits until the next beat or probe is due. Not if the link is not used any more.
async fn wait_for_beat(link: &Link) -> bool {
    let pulse = &link.pulse;
    let due = async {
        if pulse.is_silent() {
            tokio::time::sleep(PROBE_PAUSE).await;
        } else {
            // The first probe follows the first time-out at once.
            let beat = tokio::time::sleep(BEAT);
            tokio::select! {
                () = beat => {}
                () = pulse.fell_silent() => {}
            }
        }
    };
    tokio::select! {
        () = due => true,
        () = pulse.ended() => false,
    }
}

/// What a server answered, unless it refuses to.
pub(super) fn unless_refused<T>(answer: RedisResult<T>) -> RedisResult<Option<T>> {
    match answer {
        Err(error) if is_refused(&error) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Whether a server refuses a command for good, rather than now.
fn is_refused(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

/// Whether an error says that the connection is gone, or that this server is not, or no longer, the one that orders all
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

/// Refuses a server that does not order all operations on every key.
fn usable(told: &str) -> Result<(), Away> {
    if field(told, "role").is_some_and(|role| role != "master") {
        return Err(Away::new(
            "REPLICA",
            "the server is a replica; larder needs the primary",
        ));
    }
    if field(told, "redis_mode").is_some_and(|mode| mode == "cluster") {
        return Err(Away::new(
            "CLUSTER",
            "the server is a node of a cluster, which larder does not support yet",
        ));
    }
    Ok(())
}

#[cfg(feature = "tls")]
fn client(info: redis::ConnectionInfo, root_cert: Option<Vec<u8>>) -> Result<Client, RedisError> {
    use rustls::crypto::{CryptoProvider, ring};
    if CryptoProvider::get_default().is_none() {
        // Fails if somebody else has just installed one, which serves as well.
        let _installed = ring::default_provider().install_default();
    }
    let certificates = redis::TlsCertificates {
        client_tls: None,
        root_cert,
    };
    if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        Client::build_with_tls(info, certificates)
    } else {
        Client::open(info)
    }
}

#[cfg(not(feature = "tls"))]
fn client(info: redis::ConnectionInfo, _: Option<Vec<u8>>) -> Result<Client, RedisError> {
    Client::open(info)
}

fn on_push(connector: &Weak<Connector>, number: u64, push: PushInfo) {
    let Some(connector) = connector.upgrade() else {
        return;
    };
    match push.kind {
        // Only where a test has them arrive here.
        PushKind::Message => messages::on_message(&connector.wakeups, push),
        PushKind::Disconnection => {
            let away = Away::new(UNREACHABLE, "the connection was lost");
            connector.lost(number, &away);
        }
        _ => {}
    }
}

/// The value of a field in the text that INFO returns.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// A hash over what changes when a server restarts (its run id) or is replaced by a replica (its replication id).
fn stamp(info: &str) -> u64 {
    // SipHash with its fixed zero keys, so that all processes agree.
    #[expect(
        deprecated,
        reason = "the hash must be the same in every process and every release"
    )]
    let mut hasher = std::hash::SipHasher::new();
    for name in ["run_id", "master_replid"] {
        hasher.write(field(info, name).unwrap_or_default().as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}
