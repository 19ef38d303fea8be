//! The connection to Redis: made, judged, lost and made again.
//!
//! 1. One multiplexed connection, made in the background and made again when it is lost; meanwhile every operation fails at
//!    once, and the caller reads the database. A program starts without Redis and begins caching when it appears.
//! 2. On every connection the server's run id and replication id are read and hashed into the *history stamp*. A restart or
//!    a failover changes it, so that what such a server has resurrected is not believed.
//! 3. A server that does not order all operations on every key is not used: a replica, a cluster node, a primary that has
//!    been demoted.
//! 4. Wake-ups for waiting loads arrive as pushes on the same connection.
//!
//! Invariant: a link leads to one run of one server; what was learnt of that run stays true of the link.
//! Not here: the operations (`redis`).

use std::{
    hash::Hasher,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, Value, aio::MultiplexedConnection,
};

use crate::{error::StoreError, token::ProcessId, wake::Wakeups};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const WAKE_CHANNEL: &[u8] = b"larder:wake:";

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

/// The way to one Redis server.
pub(crate) struct Connector {
    client: Client,
    timeouts: Timeouts,
    link: RwLock<Option<Link>>,
    /// The stamp of the latest link, also while there is none.
    stamp: AtomicU64,
    /// The number of the latest link.
    run: AtomicU64,
    links_made: AtomicU64,
    connecting: AtomicBool,
    wakeups: Wakeups,
}

/// One connection, to one run of one server.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) connection: MultiplexedConnection,
    /// The history stamp of that run.
    pub(crate) stamp: u64,
    number: u64,
    /// Whether somebody is finding out if it is dead.
    probed: Arc<AtomicBool>,
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

impl Connector {
    /// A way to the server at a URL, trusting this root certificate (PEM) or else the public ones; nothing is connected yet.
    pub(crate) fn new(
        url: &str,
        root_certificate: Option<Vec<u8>>,
        timeouts: Timeouts,
    ) -> Result<Self, RedisError> {
        let info = url.into_connection_info()?;
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        Ok(Self {
            client: client(info.set_redis_settings(settings), root_certificate)?,
            timeouts,
            link: RwLock::new(None),
            stamp: AtomicU64::new(0),
            run: AtomicU64::new(0),
            links_made: AtomicU64::new(0),
            connecting: AtomicBool::new(false),
            wakeups: Wakeups::default(),
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

    /// The registry that pushes wake.
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

    /// The current link; without one, an error at once, and an attempt in the background.
    pub(crate) fn link(self: &Arc<Self>) -> Result<Link, StoreError> {
        self.current().ok_or_else(|| {
            self.connect_in_background();
            StoreError::new("not connected to Redis")
        })
    }

    /// Takes note of a failed command, and drops the link if it is worth nothing any more.
    pub(crate) fn failed(self: &Arc<Self>, link: &Link, error: &RedisError) -> StoreError {
        if error.is_unrecoverable_error()
            || error.is_connection_dropped()
            || tells_of_another_primary(error)
        {
            self.lost(link.number);
        } else if error.is_timeout() {
            self.probe(link);
        }
        StoreError::new(error.to_string())
    }

    fn current(&self) -> Option<Link> {
        self.link
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn lost(self: &Arc<Self>, number: u64) {
        let mut link = self.link.write().unwrap_or_else(PoisonError::into_inner);
        if link.as_ref().is_some_and(|link| link.number == number) {
            *link = None;
            drop(link);
            tracing::warn!(address = self.address(), "the connection to Redis was lost");
            // Whoever waits for a push would wait in vain.
            self.wakeups.wake_all();
            self.connect_in_background();
        }
    }

    /// Finds out whether a link that let a command time out is dead: a network that swallows everything ends no connection.
    fn probe(self: &Arc<Self>, link: &Link) {
        if link.probed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (connector, mut link) = (Arc::downgrade(self), link.clone());
        tokio::spawn(async move {
            let answer = redis::cmd("PING").exec_async(&mut link.connection).await;
            if answer.is_err()
                && let Some(connector) = connector.upgrade()
            {
                connector.lost(link.number);
            }
            link.probed.store(false, Ordering::Release);
        });
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
                match connector.connect_once().await {
                    Ok(()) => return,
                    Err(error) => {
                        // One line per change of state: the first attempt of an outage.
                        if pause == FIRST_PAUSE {
                            tracing::warn!(
                                address = connector.address(),
                                %error,
                                "Redis cannot be reached; reads go to the database"
                            );
                        }
                    }
                }
                drop(connector);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    async fn connect_once(self: &Arc<Self>) -> Result<(), StoreError> {
        let number = self.links_made.fetch_add(1, Ordering::Relaxed) + 1;
        let link = Box::pin(self.handshake(number))
            .await
            .map_err(|error| StoreError::new(error.to_string()))?;
        let mut current = self.link.write().unwrap_or_else(PoisonError::into_inner);
        // Two attempts may overlap; the later one has seen the server later.
        if current
            .as_ref()
            .is_none_or(|current| current.number < link.number)
        {
            self.stamp.store(link.stamp, Ordering::Release);
            self.run.store(link.number, Ordering::Release);
            *current = Some(link);
        }
        drop(current);
        tracing::info!(address = self.address(), "connected to Redis");
        // Waiters that registered through an earlier connection are known to the server under the same name, but news
        // that was published in between is gone.
        self.wakeups.wake_all();
        Ok(())
    }

    async fn handshake(self: &Arc<Self>, number: u64) -> Result<Link, RedisError> {
        let connector = Arc::downgrade(self);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            .set_response_timeout(Some(self.timeouts.response))
            .set_push_sender(move |push: PushInfo| {
                on_push(&connector, number, push);
                Ok::<(), redis::aio::SendError>(())
            });
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut info = redis::cmd("INFO");
        info.arg("server").arg("replication");
        let stamp = match info.query_async::<String>(&mut connection).await {
            Ok(info) => {
                usable(&info)?;
                stamp(&info)
            }
            // A proxy or an access list may hide INFO: then a restart is not noticed, and the time to live is the bound.
            Err(error) if is_refused(&error) => 0,
            Err(error) => return Err(error),
        };
        // Without the right to subscribe, waiters go on when their time is up.
        let channel = [WAKE_CHANNEL, &ProcessId::current().0].concat();
        match connection.subscribe(channel).await {
            Ok(()) => {}
            Err(error) if is_refused(&error) => {
                tracing::warn!(%error, "Redis refused a subscription; waiting reads will not be woken early");
            }
            Err(error) => return Err(error),
        }
        Ok(Link {
            connection,
            stamp,
            number,
            probed: Arc::default(),
        })
    }
}

/// Whether a server refuses a command for good, rather than now.
fn is_refused(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

/// Whether an error says that this server is not, or no longer, the one that orders all operations on a key.
fn tells_of_another_primary(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("READONLY" | "MASTERDOWN" | "MOVED" | "ASK" | "CLUSTERDOWN")
    )
}

/// Refuses a server that does not order all operations on every key.
fn usable(info: &str) -> Result<(), RedisError> {
    let refuse = |why| Err((redis::ErrorKind::Client, why).into());
    if field(info, "role").is_some_and(|role| role != "master") {
        return refuse("the server is a replica; larder needs the primary");
    }
    if field(info, "redis_mode").is_some_and(|mode| mode == "cluster") {
        return refuse("the server is a node of a cluster, which larder does not support yet");
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
        PushKind::Message => {
            if let Some(Value::BulkString(key)) = push.data.into_iter().nth(1) {
                connector.wakeups.wake(&key);
            }
        }
        PushKind::Disconnection => connector.lost(number),
        _ => {}
    }
}

/// The value of a field in the text that INFO returns.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
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
