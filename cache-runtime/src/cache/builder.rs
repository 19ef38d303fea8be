//! The options of a cache, their defaults, and how a cache is built from them.

#[cfg(feature = "tls")]
use std::fmt;
#[cfg(feature = "metrics")]
use std::sync::Mutex;
use std::{
    path::PathBuf,
    sync::{Arc, Weak, atomic::AtomicBool},
    time::Duration,
};

use super::{Cache, Inner, check_namespace, configuration};
#[cfg(feature = "metrics")]
use crate::observe::{MeasuredEntities, timing::Timing};
#[cfg(feature = "internal-faults")]
use crate::store::faulty::{Faults, FaultyStore};
use crate::{
    binding::Ledger,
    clock::Clock,
    database::round_trip::LoggedMismatches,
    error::Error,
    pause::Pauses,
    policy::{Capacity, Codec, LoadLimits},
    protocol::size,
    repair::{self, Host, Repairs},
    stats::Totals,
    store::{RealStore, memory::MemoryStore},
};
#[cfg(feature = "redis")]
use crate::{
    error::ErrorKind,
    protocol::{
        seal::{PlainEntries, Seals, SecretKey},
        token::ProcessId,
    },
    store::{
        failpoint::Disabled,
        redis::{
            RedisStore,
            connection::{Certificates, Options, ServerUrl, Timeouts},
        },
    },
};

const DEFAULT_NAMESPACE: &str = "larder";
const DEFAULT_CAPACITY: Capacity = Capacity::Rows(100_000);
const SLOW_LOAD: Duration = Duration::from_secs(1);
const DEFAULT_LOADS: LoadLimits = LoadLimits {
    running: 64,
    waiting: 4_096,
};

/// The options of a [`Cache`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder {
    #[cfg(feature = "redis")]
    url: Option<ServerUrl>,
    capacity: Capacity,
    namespace: String,
    namespace_version: Option<String>,
    codec: Codec,
    max_row: u64,
    clock: Clock,
    max_tracked_invalidations: usize,
    load_limits: LoadLimits,
    journal_dir: PathBuf,
    #[cfg(feature = "redis")]
    timeouts: Timeouts,
    #[cfg(feature = "redis")]
    fence_primary: bool,
    #[cfg(feature = "tls")]
    root_certificate: Option<Pem>,
    #[cfg(feature = "tls")]
    client_certificate: Option<(Pem, Pem)>,
    #[cfg(feature = "redis")]
    secret_keys: Option<Vec<SecretKey>>,
    #[cfg(feature = "redis")]
    encrypts: bool,
    #[cfg(feature = "redis")]
    plain_entries: PlainEntries,
    #[cfg(feature = "redis")]
    compress_above: Option<usize>,
    #[cfg(feature = "internal-faults")]
    faults: Option<Faults>,
    intent_ttl: Option<Duration>,
    slow_load: Option<Duration>,
    #[cfg(feature = "redis")]
    is_listed: bool,
}

/// A certificate or its key. `Debug` prints only its size.
#[cfg(feature = "tls")]
#[derive(Clone)]
struct Pem(Vec<u8>);

#[cfg(feature = "tls")]
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            #[cfg(feature = "redis")]
            url: None,
            capacity: DEFAULT_CAPACITY,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            namespace_version: None,
            codec: Codec::default(),
            max_row: size::DEFAULT,
            clock: Clock::default(),
            max_tracked_invalidations: repair::DEFAULT_LIMIT,
            load_limits: DEFAULT_LOADS,
            journal_dir: PathBuf::new(),
            #[cfg(feature = "redis")]
            timeouts: Timeouts::default(),
            #[cfg(feature = "redis")]
            fence_primary: false,
            #[cfg(feature = "tls")]
            root_certificate: None,
            #[cfg(feature = "tls")]
            client_certificate: None,
            #[cfg(feature = "redis")]
            secret_keys: None,
            #[cfg(feature = "redis")]
            encrypts: false,
            #[cfg(feature = "redis")]
            plain_entries: PlainEntries::default(),
            #[cfg(feature = "redis")]
            compress_above: None,
            #[cfg(feature = "internal-faults")]
            faults: None,
            intent_ttl: None,
            slow_load: Some(SLOW_LOAD),
            #[cfg(feature = "redis")]
            is_listed: true,
        }
    }
}

impl CacheBuilder {
    /// Sets whether this process lists itself and its entities in Redis, where the command `larder` finds them, and whether it obeys
    /// that command's `pause`. It costs two small requests every five seconds. Default: `true`.
    #[cfg(feature = "redis")]
    pub fn listed(mut self, is_listed: bool) -> Self {
        self.is_listed = is_listed;
        self
    }

    /// Logs a line when a load takes longer than this, the wait for a connection included: at `warn`, and at most one line in a
    /// second for each entity. Default: one second. `None` logs none.
    pub fn slow_load(mut self, threshold: impl Into<Option<Duration>>) -> Self {
        self.slow_load = threshold.into();
        self
    }

    /// Keeps entries in the Redis server (7.0 or newer, or Valkey) at this URL. Without it, entries live in this
    /// process.
    ///
    /// Characters of a password that have a meaning in a URL are written as `%23` (`#`), `%2F` (`/`), `%3F` (`?`) or `%40` (`@`).
    /// The URL has no `#..` at its end: `#insecure`, which accepts any certificate, is refused.
    #[cfg(feature = "redis")]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.url = Some(ServerUrl(url.into()));
        self
    }

    /// Limits the in-process store to about this many rows (default 100,000). No effect on Redis.
    pub fn capacity(mut self, rows: usize) -> Self {
        self.capacity = Capacity::Rows(rows);
        self
    }

    /// Limits the in-process store to this many bytes, in place of a number of rows. No effect on Redis.
    ///
    /// A row counts as its encoded size, its key and about 250 bytes. In memory it may take more or less. Queued writes do
    /// not count. A row that is larger than the limit, or than 8 MiB if the limit is larger, is not kept.
    pub fn capacity_bytes(mut self, bytes: u64) -> Self {
        self.capacity = Capacity::Bytes(bytes);
        self
    }

    /// Sets the first part of every key (default `larder`). An entity's own `namespace` takes precedence. A namespace
    /// belongs to one database. [`Cache::with_namespace`] adds further namespaces.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the version of what is cached, for example that of the program: entries that were stored under another version count
    /// as absent. So a deploy puts them out of use at once, without a scan.
    ///
    /// The version is a part of the entries and not of their keys. While a deploy runs, programs of both versions invalidate each
    /// other's entries, and each replaces those of the other. Entities with `strategy = "write_behind"` ignore it, because their
    /// queued writes outlive a deploy.
    ///
    /// ```
    /// # use larder_runtime::Cache;
    /// let cache = Cache::builder().namespace_version(env!("CARGO_PKG_VERSION")).build()?;
    /// # let _ = cache;
    /// # Ok::<_, larder_runtime::Error>(())
    /// ```
    pub fn namespace_version(mut self, version: &(impl ToString + ?Sized)) -> Self {
        self.namespace_version = Some(version.to_string());
        self
    }

    /// Sets the payload codec (default MessagePack). An entity's own `codec` takes precedence.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the maximum size of an encoded row in bytes (default 4 MiB). An entity's own `max_row` takes precedence.
    ///
    /// A larger row is not cached: each read loads it from the database. A queued write of a larger row fails with the
    /// kind [`ErrorKind::TooLarge`].
    ///
    /// Redis has its own limits: `proto-max-bulk-len` (512 MB by default) and `client-query-buffer-limit`. larder reads
    /// and respects them. The in-process store keeps the rows themselves, not their bytes. It writes bytes only to a
    /// `journal`.
    pub fn max_row(mut self, bytes: usize) -> Self {
        self.max_row = bytes as u64;
        self
    }

    /// Sets the maximum number of undelivered invalidations to track (default 10,000). Until its invalidation is
    /// delivered, this process reads a key from the database.
    ///
    /// Beyond the maximum, this process bypasses the cache until all keys of its entities have been dropped. With 0,
    /// the first undelivered invalidation has that effect.
    pub fn max_tracked_invalidations(mut self, keys: usize) -> Self {
        self.max_tracked_invalidations = keys;
        self
    }

    /// Sets how many loads of one repository may run or wait for a connection at the same time (default 64). Further
    /// loads wait for their turn, without a time limit, but not too many of them (`max_waiting_loads`). Hits do not count.
    ///
    /// Loads by ids that are whole numbers or UUIDs share statements when they meet: then at most six of these run at the same time.
    ///
    /// While the cache cannot answer, every read is a load. The limit keeps loads from filling the wait queue of the
    /// pool, where writes wait too. It applies to all loads, because an empty cache causes as many loads as an
    /// unreachable one.
    pub fn max_concurrent_loads(mut self, loads: usize) -> Self {
        self.load_limits.running = loads;
        self
    }

    /// Sets how many loads of one repository may wait for their turn (default 4,096), beyond those that run
    /// (`max_concurrent_loads`). A load beyond that fails immediately with the kind [`ErrorKind::Overloaded`].
    ///
    /// Callers that wait for the same row count once. A load whose callers were all dropped does not count.
    pub fn max_waiting_loads(mut self, loads: usize) -> Self {
        self.load_limits.waiting = loads;
        self
    }

    /// Limits the time of one attempt to connect to Redis (default 1 s). larder retries in the background, with pauses
    /// of 20 ms to 1 s. Only `connect` waits for an attempt.
    #[cfg(feature = "redis")]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// Limits the time of one command to Redis (default 500 ms). A read whose command times out goes to the database.
    ///
    /// The first command that times out opens the circuit breaker. While it is open, commands fail immediately, without
    /// being sent. It closes when Redis replies to a probe. larder sends probes in the background, 100 ms apart, each
    /// with the same timeout. After two failed probes it reconnects.
    #[cfg(feature = "redis")]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.response = timeout;
        self
    }

    /// Sets whether Redis is used only while it accepts writes. The default (`false`) does so only for a server that
    /// has replicas, or that requires some for writes. `true` does so for every server.
    ///
    /// A primary that is cut off from its replicas keeps answering, while other processes may already use its
    /// successor. With `min-replicas-to-write` set, it rejects writes after `min-replicas-max-lag` (10 s by default).
    /// So larder tries a write every 400 ms. When none has succeeded for 1 s, larder treats Redis as unreachable.
    #[cfg(feature = "redis")]
    pub fn fence_primary(mut self, fence: bool) -> Self {
        self.fence_primary = fence;
        self
    }

    /// Sets the root certificate (PEM) to trust for `rediss://`, instead of the public ones.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(Pem(pem.into()));
        self
    }

    /// Gives each entry in Redis a tag that only the holders of these keys can make. An entry without the right tag counts as damaged
    /// ([`Stats::corrupt_entries`](crate::Stats::corrupt_entries)): a row is loaded again, and a queued write becomes a dead letter.
    /// So whoever can write to Redis can neither have a row of his own served, nor put one into the database.
    ///
    /// The first key makes tags, and all of them are accepted. To replace a key, give all programs `[old, new]`, then `[new, old]`,
    /// and when nothing is queued or cached under the old one any more, `[new]`. To introduce keys without losing queued writes, see
    /// [`CacheBuilder::plain_entries`].
    ///
    /// A queued `insert`, `update` or `delete` makes one round trip more: it verifies the entry that decides whether there is a row.
    ///
    /// A tag does not hide anything ([`CacheBuilder::encrypt`] does), and a copy of an older genuine entry of the same key has a
    /// genuine tag. `SECURITY.md` has the whole list. No effect on the in-process store.
    ///
    /// ```
    /// # use larder_runtime::{Cache, SecretKey};
    /// # let text = "1f".repeat(32);
    /// let key = SecretKey::from_hex(&text)?;
    /// let cache = Cache::builder().redis("redis://localhost").authenticate([key]).build()?;
    /// # let _ = cache;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "redis")]
    pub fn authenticate(mut self, keys: impl IntoIterator<Item = SecretKey>) -> Self {
        self.secret_keys = Some(keys.into_iter().collect());
        self
    }

    /// As [`CacheBuilder::authenticate`], and encrypts rows and queued writes too (AES-256-GCM-SIV). Names of keys, and with them the
    /// ids of rows and the values of lookups, stay readable, and so does the size of a row.
    #[cfg(all(feature = "redis", feature = "encrypt"))]
    pub fn encrypt(self, keys: impl IntoIterator<Item = SecretKey>) -> Self {
        Self {
            encrypts: true,
            ..self.authenticate(keys)
        }
    }

    /// Sets what a program with keys does with entries that have no tag (default: [`PlainEntries::Refuse`]). It is for the time in
    /// which keys are introduced. Deploy [`PlainEntries::Store`] to all programs, then [`PlainEntries::Accept`], and when nothing is
    /// queued any more that was written before, the default. To give keys up, go the way back. Until the last step an entry
    /// without a tag is believed, whoever has written it.
    #[cfg(feature = "redis")]
    pub fn plain_entries(mut self, plain: PlainEntries) -> Self {
        self.plain_entries = plain;
        self
    }

    /// Compresses rows in Redis of more than this many encoded bytes (LZ4), if that makes them smaller. `max_row` counts the bytes
    /// before the compression.
    ///
    /// A program without it reads compressed rows if it was built with the feature `compress`. Do not compress rows that hold both a
    /// secret and a text of an attacker, if he can see the size of what is stored: it tells what the two have in common.
    #[cfg(all(feature = "redis", feature = "compress"))]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.compress_above = Some(bytes);
        self
    }

    /// Sets the certificate that `rediss://` shows to a server that asks for one (`tls-auth-clients`), and its private key, both as PEM.
    #[cfg(feature = "tls")]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.client_certificate = Some((Pem(certificate.into()), Pem(key.into())));
        self
    }

    /// Sets the base directory for the `journal` paths of entities (default: the current directory). No effect on
    /// Redis.
    pub fn journal_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.journal_dir = directory.into();
        self
    }

    /// Sets the clock of the in-process store.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Wraps the store in one that fails on request.
    #[cfg(feature = "internal-faults")]
    pub fn faults(mut self, faults: &Faults) -> Self {
        self.faults = Some(faults.clone());
        self
    }

    /// Sets how long the intent of a write blocks its key if the writer disappears. Overrides the entities' own
    /// setting.
    #[cfg(feature = "internal-faults")]
    pub fn intent_ttl(mut self, ttl: Duration) -> Self {
        self.intent_ttl = Some(ttl);
        self
    }

    /// Builds the cache. It connects to Redis in the background, on first use, so the first reads may go to the
    /// database. `connect` awaits one attempt instead.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a URL, a namespace or a limit that cannot be used.
    pub fn build(self) -> Result<Cache, Error> {
        check_namespace(&self.namespace)?;
        if matches!(self.capacity, Capacity::Rows(0) | Capacity::Bytes(0)) {
            return Err(configuration(
                "failed to build the cache: a `capacity` of 0 rows or bytes keeps nothing; use at least 1",
            ));
        }
        if self.load_limits.running == 0 {
            return Err(configuration(
                "failed to build the cache: with `max_concurrent_loads` 0 no row can be read; use at least 1",
            ));
        }
        if self.max_row == 0 {
            return Err(configuration(
                "failed to build the cache: no row fits into a `max_row` of 0 bytes; use at least 1",
            ));
        }
        #[cfg(feature = "redis")]
        let is_in_process = self.url.is_none();
        #[cfg(not(feature = "redis"))]
        let is_in_process = true;
        let repairs = Arc::new(Repairs::new(self.max_tracked_invalidations));
        let store = self.store(&repairs)?;
        #[cfg(feature = "internal-faults")]
        let store = FaultyStore::new(store, self.faults.clone());
        let inner = Arc::new(Inner {
            store,
            ledger: Ledger::default(),
            codec: self.codec,
            max_row: self.max_row,
            clock: self.clock,
            repairs,
            logged_mismatches: LoggedMismatches::default(),
            load_limits: self.load_limits,
            pauses: Pauses::default(),
            totals: Totals::default(),
            owes_notice: AtomicBool::new(is_in_process),
            namespace_version: self.namespace_version.map(String::into_boxed_str),
            intent_ttl: self.intent_ttl,
            slow_load: self.slow_load,
            #[cfg(feature = "redis")]
            is_listed: AtomicBool::new(self.is_listed),
            #[cfg(feature = "redis")]
            lists: AtomicBool::new(false),
            #[cfg(any(feature = "metrics", feature = "redis"))]
            name: self.namespace.as_str().into(),
            #[cfg(feature = "metrics")]
            measured: MeasuredEntities::default(),
            #[cfg(feature = "metrics")]
            announcements: Timing::default(),
            #[cfg(feature = "metrics")]
            published: Mutex::default(),
            #[cfg(feature = "metrics")]
            is_published: AtomicBool::new(false),
        });
        let host = Arc::downgrade(&inner) as Weak<dyn Host>;
        inner.repairs.belong_to(host);
        Ok(Cache {
            inner,
            namespace: Arc::from(self.namespace),
        })
    }

    /// What a test has disabled.
    #[cfg(feature = "redis")]
    fn disabled(&self) -> Disabled {
        #[cfg(feature = "internal-faults")]
        return Disabled::by(self.faults.clone());
        #[cfg(not(feature = "internal-faults"))]
        Disabled::default()
    }

    #[cfg(feature = "redis")]
    fn store(&self, repairs: &Arc<Repairs>) -> Result<RealStore, Error> {
        let Some(server) = &self.url else {
            return Ok(self.memory());
        };
        let ServerUrl(url) = server;
        if url.contains('#') {
            return Err(configuration(
                "failed to build the cache: the Redis URL has a `#`; in a password it is written `%23`; `#insecure`, which accepts \
                 any certificate, is not supported: trust a certificate of your own with `CacheBuilder::root_certificate`",
            ));
        }
        if url.starts_with("rediss:") && cfg!(not(feature = "tls")) {
            return Err(configuration(
                "failed to build the cache: a rediss:// URL needs larder's feature `tls`; enable it in Cargo.toml",
            ));
        }
        if let Some(mistake) = server.mistake() {
            // The URL itself stays out of the message: it may hold a password.
            return Err(Error::with_source(
                ErrorKind::Configuration,
                "failed to build the cache: the Redis URL is invalid; use one like redis://host:6379/0 or \
                 redis+unix:///path/to/socket",
                mistake,
            ));
        }
        #[cfg(feature = "tls")]
        let certificates = {
            let text = |pem: &Pem| pem.0.clone();
            let client = self.client_certificate.as_ref();
            Certificates {
                root: self.root_certificate.as_ref().map(text),
                client: client.map(|(certificate, key)| (text(certificate), text(key))),
            }
        };
        #[cfg(feature = "tls")]
        if let Some(mistake) = certificates.mistake() {
            return Err(configuration(format!(
                "failed to build the cache: {mistake}"
            )));
        }
        #[cfg(not(feature = "tls"))]
        let certificates = Certificates::default();
        let options = Options {
            timeouts: self.timeouts,
            fence: self.fence_primary,
            heartbeat_key: heartbeat_key(&self.namespace),
            disabled: self.disabled(),
        };
        let keys = self.secret_keys.as_deref();
        if keys.is_some_and(<[_]>::is_empty) {
            return Err(configuration(
                "failed to build the cache: `CacheBuilder::authenticate` has no key; give it at least one, or leave it out",
            ));
        }
        if keys.is_none() && self.plain_entries != PlainEntries::default() {
            return Err(configuration(
                "failed to build the cache: `CacheBuilder::plain_entries` is for a cache with keys; give it some with \
                 `CacheBuilder::authenticate`, or leave it out",
            ));
        }
        let keys = keys.unwrap_or_default();
        let seals = Seals::new(keys, self.encrypts, self.plain_entries);
        let seals = seals.compress_above(self.compress_above);
        let repairs = Arc::clone(repairs);
        let store = RedisStore::new(url, certificates, seals, options, repairs);
        let store = store.map_err(|error| {
            Error::with_source(
                ErrorKind::Configuration,
                "failed to build the cache: the client of Redis refuses its options; check the certificates and the key, which are PEM",
                error,
            )
        })?;
        Ok(RealStore::Redis(store))
    }

    #[cfg(not(feature = "redis"))]
    fn store(&self, _: &Arc<Repairs>) -> Result<RealStore, Error> {
        Ok(self.memory())
    }

    fn memory(&self) -> RealStore {
        RealStore::Memory(MemoryStore::new(
            self.capacity,
            self.clock.clone(),
            self.journal_dir.clone(),
        ))
    }

    /// Builds the cache and awaits one attempt to connect to Redis. A failed attempt is not an error: caching begins as
    /// soon as Redis is reachable.
    ///
    /// # Errors
    ///
    /// As [`CacheBuilder::build`].
    #[cfg(feature = "redis")]
    pub async fn connect(self) -> Result<Cache, Error> {
        let cache = self.build()?;
        // A failure has been reported where it happened.
        let _away = cache.inner.store.connect().await;
        Ok(cache)
    }
}

/// Returns the key that this process writes to test whether Redis accepts writes. No row has this key, because the name
/// of an entity is never empty.
#[cfg(feature = "redis")]
fn heartbeat_key(namespace: &str) -> String {
    format!("{namespace}::hb:{:?}", ProcessId::current())
}
