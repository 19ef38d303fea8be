//! Redis as the store: one multiplexed connection, one command or one script per operation.
//!
//! 1. The connection is made in the background and made again when it is lost; meanwhile every operation fails at once, and
//!    the caller reads the database. A program starts without Redis and begins caching when it appears.
//! 2. On every connection the server's run id and replication id are read and hashed into the *history stamp*. A restart or
//!    a failover changes it, so that what such a server has resurrected is not believed.
//! 3. Wake-ups for waiting loads arrive as pushes on the same connection.
//!
//! Invariant: an operation that belongs to a lease is sent only on a connection whose stamp is the lease's.
//! Not here: the rules. They are in `state.rs`; the scripts in `store/scripts` say the same in Lua and are compared with it.

use std::{
    fmt,
    hash::Hasher,
    sync::{
        Arc, LazyLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, Script, ScriptInvocation, Value, aio::MultiplexedConnection,
};

use crate::{
    entry,
    error::StoreError,
    key::Key,
    state::{self, Identity, Lease, MAX_INTENTS, State, Unreadable, View, Writers},
    store::{Filling, Found, Keeps, Payload, Store},
    token::{ProcessId, Token},
    wake::Wakeups,
};

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

/// Entries in a Redis server.
pub struct RedisStore(Arc<Shared>);

struct Shared {
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
struct Link {
    connection: MultiplexedConnection,
    stamp: u64,
    number: u64,
    /// Whether somebody is finding out if it is dead.
    probed: Arc<AtomicBool>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address only: a URL may hold a password.
        f.debug_struct("RedisStore")
            .field(
                "address",
                &self.0.client.get_connection_info().addr().to_string(),
            )
            .finish_non_exhaustive()
    }
}

/// The scripts, each behind the common prelude.
struct Scripts {
    acquire: Script,
    wait: Script,
    fill: Script,
    release: Script,
    begin: Script,
    end: Script,
    invalidate: Script,
}

static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    let script = |name| Script::new(&script_text(name).expect("the script is in the table"));
    Scripts {
        acquire: script("acquire"),
        wait: script("wait"),
        fill: script("fill"),
        release: script("release"),
        begin: script("begin"),
        end: script("end"),
        invalidate: script("invalidate"),
    }
});

/// The text of a script as Redis runs it: flags, the common prelude, the script itself.
pub fn script_text(name: &str) -> Option<String> {
    // A script that takes something away must also run when Redis has no memory left, or a write could not announce itself.
    let (flags, body) = match name {
        "acquire" => ("", include_str!("scripts/acquire.lua")),
        "wait" => ("", include_str!("scripts/wait.lua")),
        "fill" => ("", include_str!("scripts/fill.lua")),
        "release" => (" flags=allow-oom", include_str!("scripts/release.lua")),
        "begin" => (" flags=allow-oom", include_str!("scripts/begin.lua")),
        "end" => (" flags=allow-oom", include_str!("scripts/end.lua")),
        "invalidate" => (" flags=allow-oom", include_str!("scripts/invalidate.lua")),
        _ => return None,
    };
    let prelude = include_str!("scripts/prelude.lua");
    Some(format!("#!lua{flags}\n{prelude}\n{body}"))
}

impl RedisStore {
    /// A store at a URL, trusting this root certificate (PEM) or else the public ones; nothing is connected yet.
    pub fn new(
        url: &str,
        root_certificate: Option<Vec<u8>>,
        timeouts: Timeouts,
    ) -> Result<Self, RedisError> {
        let info = url.into_connection_info()?;
        // Small commands must not wait for the acknowledgement of the one before.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        Ok(Self(Arc::new(Shared {
            client: client(
                info.set_redis_settings(settings).set_tcp_settings(tcp),
                root_certificate,
            )?,
            timeouts,
            link: RwLock::new(None),
            stamp: AtomicU64::new(0),
            run: AtomicU64::new(0),
            links_made: AtomicU64::new(0),
            connecting: AtomicBool::new(false),
            wakeups: Wakeups::default(),
        })))
    }

    /// Tries once to connect; goes on in the background if that fails.
    pub async fn connect(&self) -> Result<(), StoreError> {
        if self.0.current().is_some() {
            return Ok(());
        }
        let result = self.0.connect_once().await;
        if result.is_err() {
            self.0.connect_in_background();
        }
        result
    }

    fn link(&self) -> Result<Link, StoreError> {
        self.0.current().ok_or_else(|| {
            self.0.connect_in_background();
            StoreError::new("not connected to Redis")
        })
    }

    /// The current link if it leads to the history the lease was taken in.
    fn link_of(&self, lease: &Lease) -> Result<Link, StoreError> {
        let link = self.link()?;
        if link.stamp == lease.identity.stamp {
            Ok(link)
        } else {
            Err(StoreError::new(
                "Redis was replaced since the lease was taken",
            ))
        }
    }

    fn failed(&self, link: &Link, error: &RedisError) -> StoreError {
        if error.is_unrecoverable_error()
            || error.is_connection_dropped()
            || tells_of_another_primary(error)
        {
            self.0.lost(link.number);
        } else if error.is_timeout() {
            self.0.probe(link);
        }
        StoreError::new(error.to_string())
    }

    async fn run(
        &self,
        mut link: Link,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<Value, StoreError> {
        let result = invocation.invoke_async(&mut link.connection).await;
        result.map_err(|error| self.failed(&link, &error))
    }

    async fn command(&self, mut link: Link, command: &redis::Cmd) -> Result<Value, StoreError> {
        let result = link.connection.send_packed_command(command).await;
        // A server's refusal arrives as a value when a command is sent this way.
        match result.and_then(Value::extract_error) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(&link, &error)),
        }
    }

    /// Stores a state past all rules, or removes the key.
    #[cfg(feature = "test-util")]
    pub(crate) async fn force(
        &self,
        key: &Key,
        entry: Option<(&[u8], u64)>,
    ) -> Result<(), StoreError> {
        let command = match entry {
            Some((bytes, ttl_ms)) => redis::Cmd::set(key.as_bytes(), bytes)
                .arg("PX")
                .arg(ttl_ms.max(1))
                .to_owned(),
            None => redis::Cmd::del(key.as_bytes()),
        };
        self.command(self.link()?, &command).await?;
        Ok(())
    }

    /// The bytes at a key and the milliseconds left to them.
    #[cfg(feature = "test-util")]
    pub(crate) async fn peek(&self, key: &Key) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        let link = self.link()?;
        let bytes = self
            .command(link.clone(), &redis::Cmd::get(key.as_bytes()))
            .await?;
        let left = self
            .command(link, &redis::Cmd::pttl(key.as_bytes()))
            .await?;
        Ok(match (bytes, left) {
            (Value::BulkString(bytes), Value::Int(left)) => {
                Some((bytes, u64::try_from(left).unwrap_or(0)))
            }
            _ => None,
        })
    }
}

/// While it lives, a task is connecting.
struct Connecting(Weak<Shared>);

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.connecting.store(false, Ordering::Release);
        }
    }
}

impl Shared {
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
            tracing::warn!(address = %self.client.get_connection_info().addr(), "the connection to Redis was lost");
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
        let (shared, mut link) = (Arc::downgrade(self), link.clone());
        tokio::spawn(async move {
            let answer = redis::cmd("PING").exec_async(&mut link.connection).await;
            if answer.is_err()
                && let Some(shared) = shared.upgrade()
            {
                shared.lost(link.number);
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
                let Some(shared) = weak.upgrade() else { return };
                match shared.connect_once().await {
                    Ok(()) => return,
                    Err(error) => {
                        // One line per change of state: the first attempt of an outage.
                        if pause == FIRST_PAUSE {
                            tracing::warn!(
                                address = %shared.client.get_connection_info().addr(),
                                %error,
                                "Redis cannot be reached; reads go to the database"
                            );
                        }
                    }
                }
                drop(shared);
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
        tracing::info!(address = %self.client.get_connection_info().addr(), "connected to Redis");
        // Waiters that registered through an earlier connection are known to the server under the same name, but news
        // that was published in between is gone.
        self.wakeups.wake_all();
        Ok(())
    }

    async fn handshake(self: &Arc<Self>, number: u64) -> Result<Link, RedisError> {
        let shared = Arc::downgrade(self);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            .set_response_timeout(Some(self.timeouts.response))
            .set_push_sender(move |push: PushInfo| {
                on_push(&shared, number, push);
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

fn on_push(shared: &Weak<Shared>, number: u64, push: PushInfo) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    match push.kind {
        PushKind::Message => {
            if let Some(Value::BulkString(key)) = push.data.into_iter().nth(1) {
                shared.wakeups.wake(&key);
            }
        }
        PushKind::Disconnection => shared.lost(number),
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

fn found(reply: Value, identity: Identity) -> Result<Found, StoreError> {
    let bytes = match reply {
        Value::Nil => return Ok(Found::Absent),
        Value::BulkString(bytes) => bytes,
        other => {
            return Err(StoreError::new(format!(
                "an unexpected answer of Redis: {other:?}"
            )));
        }
    };
    let state = entry::decode(&bytes);
    Ok(match (state::view(Some(&state), identity), &state) {
        (View::Value, State::Value(meta, _)) => {
            let meta = *meta;
            Found::Value(meta, Payload::Bytes(bytes, entry::HEADER_LENGTH))
        }
        (View::Negative, State::Negative(meta)) => Found::Negative(*meta),
        (View::Loading, _) => Found::Loading,
        (View::Writing, _) => Found::Writing,
        (_, state) => Found::Foreign {
            damaged: matches!(state, State::Unreadable(Unreadable::Damaged)),
        },
    })
}

/// What the script says is there instead of what was asked for; `None` if the request was granted.
fn instead(reply: Value, identity: Identity) -> Result<Option<Found>, StoreError> {
    match reply {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) if bytes.is_empty() => Ok(Some(Found::Absent)),
        other => found(other, identity).map(Some),
    }
}

fn loading(lease: Lease) -> Vec<u8> {
    entry::encode(&State::Loading(lease, Vec::new()))
}

impl Store for RedisStore {
    fn keeps(&self) -> Keeps {
        Keeps::Bytes
    }

    fn stamp(&self) -> u64 {
        self.0.stamp.load(Ordering::Acquire)
    }

    fn run(&self) -> u64 {
        self.0.run.load(Ordering::Acquire)
    }

    fn wakeups(&self) -> &Wakeups {
        &self.0.wakeups
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        let link = self.link()?;
        let identity = Identity {
            stamp: link.stamp,
            fingerprint,
            codec,
        };
        let mut command = redis::Cmd::new();
        command.arg("GET").arg(key.as_bytes());
        found(self.command(link, &command).await?, identity)
    }

    async fn acquire(
        &self,
        key: &Key,
        lease: Lease,
        lease_ttl_ms: u64,
        over: bool,
    ) -> Result<Option<Found>, StoreError> {
        let link = self.link_of(&lease)?;
        let entry = loading(lease);
        let reply = if over {
            let mut invocation = SCRIPTS.acquire.prepare_invoke();
            invocation.key(key.as_bytes()).arg(entry).arg(lease_ttl_ms);
            self.run(link, &invocation).await?
        } else {
            let mut command = redis::Cmd::new();
            command
                .arg("SET")
                .arg(key.as_bytes())
                .arg(entry)
                .arg("NX")
                .arg("GET")
                .arg("PX")
                .arg(lease_ttl_ms);
            self.command(link, &command).await?
        };
        instead(reply, lease.identity)
    }

    async fn wait(&self, key: &Key, identity: Identity) -> Result<Option<Found>, StoreError> {
        let own = loading(Lease {
            token: Token::numbered(0),
            identity,
        });
        let mut invocation = SCRIPTS.wait.prepare_invoke();
        invocation
            .key(key.as_bytes())
            .arg(own)
            .arg(&ProcessId::current().0);
        instead(self.run(self.link()?, &invocation).await?, identity)
    }

    async fn fill(
        &self,
        key: &Key,
        filling: Filling,
        ttl_ms: u64,
        lease_ttl_ms: u64,
    ) -> Result<bool, StoreError> {
        let (lease, entry) = match &filling {
            Filling::Value(meta, Payload::Bytes(bytes, header)) => (
                meta.lease,
                entry::encode(&State::Value(*meta, &bytes[*header..])),
            ),
            Filling::Value(_, Payload::Shared(_)) => {
                return Err(StoreError::new("a row was not encoded for Redis"));
            }
            Filling::Negative(meta) => (meta.lease, entry::encode(&State::Negative(*meta))),
        };
        let mut invocation = SCRIPTS.fill.prepare_invoke();
        invocation
            .key(key.as_bytes())
            .arg(&lease.token.0)
            .arg(entry)
            .arg(ttl_ms)
            .arg(lease_ttl_ms);
        Ok(self.run(self.link_of(&lease)?, &invocation).await? == Value::Int(1))
    }

    async fn release(&self, key: &Key, lease: Lease) -> Result<bool, StoreError> {
        let mut invocation = SCRIPTS.release.prepare_invoke();
        invocation.key(key.as_bytes()).arg(&lease.token.0);
        Ok(self.run(self.link_of(&lease)?, &invocation).await? == Value::Int(1))
    }

    async fn begin(&self, key: &Key, intent: Token, intent_ttl_ms: u64) -> Result<(), StoreError> {
        let empty = entry::encode(&State::Writing(Writers {
            intents: Vec::new(),
            contended: false,
            saturated: false,
        }));
        let mut invocation = SCRIPTS.begin.prepare_invoke();
        invocation
            .key(key.as_bytes())
            .arg(&intent.0)
            .arg(empty)
            .arg(intent_ttl_ms)
            .arg(MAX_INTENTS);
        self.run(self.link()?, &invocation).await?;
        Ok(())
    }

    async fn end(&self, key: &Key, intent: Token) -> Result<(), StoreError> {
        let mut invocation = SCRIPTS.end.prepare_invoke();
        invocation.key(key.as_bytes()).arg(&intent.0).arg("").arg(0);
        self.run(self.link()?, &invocation).await?;
        Ok(())
    }

    async fn invalidate(&self, key: &Key) -> Result<(), StoreError> {
        let mut invocation = SCRIPTS.invalidate.prepare_invoke();
        invocation.key(key.as_bytes());
        self.run(self.link()?, &invocation).await?;
        Ok(())
    }
}
