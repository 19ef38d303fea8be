//! The cache: the handle that repositories share, and how it is made.

#[cfg(any(feature = "redis", feature = "test-util"))]
use std::time::Duration;
use std::{fmt, path::PathBuf, sync::Arc};

use sqlx::Pool;

#[cfg(feature = "test-util")]
use crate::store::faulty::{Faults, FaultyStore};
use crate::{
    backend::Backend,
    binding::{self, Ledger},
    clock::Clock,
    codec::Codec,
    error::{Error, ErrorKind},
    repair::{self, Repairs},
    round_trip::Told,
    size,
    stats::RepairStats,
    store::{AnyStore, RealStore, memory::MemoryStore},
};
#[cfg(feature = "redis")]
use crate::{
    store::{
        connection::{Options, Timeouts},
        redis::RedisStore,
    },
    token::ProcessId,
};

const DEFAULT_NAMESPACE: &str = "larder";
const DEFAULT_CAPACITY: usize = 100_000;
const DEFAULT_LOADS: usize = 64;

/// A cache: a store, and the defaults for the entities that use it. Cheap to clone; clones are the same cache.
///
/// ```
/// use larder_runtime::Cache;
///
/// let cache = Cache::in_process();
/// # let _ = cache;
/// ```
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
    namespace: Arc<str>,
}

/// What all namespaces of a cache share.
pub(crate) struct Inner {
    pub(crate) store: AnyStore,
    /// What the namespaces are bound to.
    pub(crate) ledger: Ledger,
    pub(crate) codec: Codec,
    /// How many bytes an encoded row may have.
    pub(crate) max_row: u64,
    pub(crate) clock: Clock,
    /// The keys that the store could not be told about.
    pub(crate) repairs: Arc<Repairs>,
    /// The fields that a codec changes, as far as they were logged.
    pub(crate) told: Told,
    /// How many loads of one repository may run at the same time.
    pub(crate) concurrent_loads: usize,
    #[cfg(feature = "test-util")]
    pub(crate) intent_ttl: Option<Duration>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("store", &self.inner.store)
            .field("namespace", &self.namespace)
            .field("codec", &self.inner.codec)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// A cache in Redis, with default options. `redis://`, `rediss://` (feature `tls`) and `redis+unix://` URLs.
    ///
    /// One attempt to connect is awaited. If it fails the cache is returned all the same: reads go to the database, and
    /// caching begins when Redis appears.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a URL that cannot be used.
    #[cfg(feature = "redis")]
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::builder().redis(url).connect().await
    }

    /// A cache in the memory of this process, with default options.
    #[must_use]
    pub fn in_process() -> Self {
        Self::builder()
            .build()
            .expect("an in-process cache has no options that can be wrong")
    }

    /// Begins a cache with options.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// The writes of this process that the store could not be told about when they were made, and what became of them.
    #[must_use]
    pub fn repairs(&self) -> RepairStats {
        self.inner.repairs.stats()
    }

    /// The same cache with another namespace: one for each tenant, say, that has a database, a schema or rules of its own.
    ///
    /// It costs two allocations: connection, memory, clock and what is to be repaired are shared, so any number of namespaces
    /// have one connection to Redis. What a namespace is, and what it is bound to, is told in `docs/namespaces.md`.
    ///
    /// ```
    /// # use larder_runtime::Cache;
    /// let cache = Cache::in_process();
    /// let tenant = cache.with_namespace("shop-eu")?;
    /// # let _ = tenant;
    /// # Ok::<_, larder_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a namespace that cannot be part of a key, as [`CacheBuilder::build`].
    pub fn with_namespace(&self, namespace: impl AsRef<str>) -> Result<Self, Error> {
        let namespace = namespace.as_ref();
        check_namespace(namespace)?;
        Ok(Self {
            inner: Arc::clone(&self.inner),
            namespace: Arc::from(namespace),
        })
    }

    /// Binds the namespace of this cache to the database that `pool` reaches, whatever it was bound to, and drops the rows
    /// that are cached in it. The one step for a database that has moved, was replaced, or whose tables were renamed.
    ///
    /// Queued writes stay queued, and are flushed to that database. Other processes that are connected go on with what they
    /// have found at their start, so stop those of the former database first. Queues with a journal follow if their
    /// repositories are made after this, by the same cache.
    ///
    /// # Errors
    ///
    /// Errors of the database; [`ErrorKind::Store`] when the store cannot be reached. The call can be repeated.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it ends may have bound the namespace and dropped some of the rows; call it again.
    pub async fn rebind<DB: Backend>(&self, pool: &Pool<DB>) -> Result<(), Error> {
        binding::rebind(&self.inner, &self.namespace, pool).await
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The first part of the keys of entities that name none themselves.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The store, for tests that look behind the repository.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    #[must_use]
    pub fn store(&self) -> &AnyStore {
        &self.inner.store
    }
}

/// The options of a [`Cache`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheBuilder {
    url: Option<String>,
    capacity: usize,
    namespace: String,
    codec: Codec,
    max_row: u64,
    clock: Clock,
    repair_limit: usize,
    concurrent_loads: usize,
    journals: PathBuf,
    #[cfg(feature = "redis")]
    timeouts: Timeouts,
    #[cfg(feature = "redis")]
    fence_primary: bool,
    #[cfg(feature = "tls")]
    root_certificate: Option<Vec<u8>>,
    #[cfg(feature = "test-util")]
    faults: Option<Faults>,
    #[cfg(feature = "test-util")]
    intent_ttl: Option<Duration>,
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            url: None,
            capacity: DEFAULT_CAPACITY,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            codec: Codec::default(),
            max_row: size::DEFAULT,
            clock: Clock::default(),
            repair_limit: repair::DEFAULT_LIMIT,
            concurrent_loads: DEFAULT_LOADS,
            journals: PathBuf::new(),
            #[cfg(feature = "redis")]
            timeouts: Timeouts::default(),
            #[cfg(feature = "redis")]
            fence_primary: false,
            #[cfg(feature = "tls")]
            root_certificate: None,
            #[cfg(feature = "test-util")]
            faults: None,
            #[cfg(feature = "test-util")]
            intent_ttl: None,
        }
    }
}

impl CacheBuilder {
    /// Keeps entries in the Redis server (7.0 or newer, or Valkey) at this URL. Without it, entries live in this process.
    #[cfg(feature = "redis")]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// Bounds the in-process store to about so many rows (default 100,000). No effect on Redis.
    pub fn capacity(mut self, rows: usize) -> Self {
        self.capacity = rows;
        self
    }

    /// Sets the first part of every key (default `larder`), for entities that name none themselves. A namespace belongs to one
    /// database; further ones are made with [`Cache::with_namespace`].
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the payload codec (default MessagePack), for entities that name none themselves.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Bounds how many bytes a row may have when it is encoded (default 4 MiB), for entities that name no bound themselves. A
    /// larger one is not cached: its callers get it, from the database each time. To a queue it is not written: the write is
    /// refused with the kind [`ErrorKind::TooLarge`].
    ///
    /// Redis has bounds of its own, `proto-max-bulk-len` (512 MB unless set otherwise) and `client-query-buffer-limit`, which are
    /// asked for and kept to. The in-process store keeps rows as they are, without bytes to count; only what goes to a `journal` is encoded there.
    pub fn max_row(mut self, bytes: usize) -> Self {
        self.max_row = bytes as u64;
        self
    }

    /// Bounds how many keys are remembered whose invalidation could not be delivered (default 10,000). They are read from
    /// the database until it is. Beyond the bound nothing is served from the cache any more, by this process, until all
    /// keys of its entities were dropped. With 0 the first such key leads there.
    pub fn repair_limit(mut self, keys: usize) -> Self {
        self.repair_limit = keys;
        self
    }

    /// Bounds how many loads of one repository run or wait for a connection at the same time (default 64); further ones
    /// wait for their turn, without a limit to the time. Hits are not concerned.
    ///
    /// When the cache cannot answer, every read is a load. The bound keeps them from filling the queue of the pool, which
    /// writes wait in as well. It holds for all loads, because a cache that has just been emptied asks as much.
    pub fn concurrent_loads(mut self, loads: usize) -> Self {
        self.concurrent_loads = loads;
        self
    }

    /// Bounds the time one attempt to connect to Redis may take (default 1 s). Attempts are made in the background, over
    /// and over with pauses of 20 ms to 1 s; only `connect` waits for one.
    #[cfg(feature = "redis")]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// Bounds the time one command to Redis may take (default 500 ms). A read that meets it goes to the database.
    ///
    /// The first command that meets it opens the circuit breaker: from then on commands fail at once, without being sent,
    /// until Redis has answered a probe. Probes are sent in the background, 100 ms after one another; each has the same
    /// patience, and after two that failed the connection is made anew.
    #[cfg(feature = "redis")]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.response = timeout;
        self
    }

    /// Whether Redis is trusted only as long as it takes writes (default: only when it has replicas).
    ///
    /// A primary that is cut off from its replicas goes on answering, while others may already use its successor. With
    /// `min-replicas-to-write` set it refuses writes after `min-replicas-max-lag` (10 s unless configured); so every 400 ms
    /// a write is tried, and when none has succeeded for 1 s, Redis is treated as away. This is done by itself for a
    /// server that has replicas or asks for some; `true` asks for it in any case.
    #[cfg(feature = "redis")]
    pub fn fence_primary(mut self, fence: bool) -> Self {
        self.fence_primary = fence;
        self
    }

    /// Trusts this root certificate (PEM) for `rediss://`, in place of the usual public ones.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// Sets the directory that the `journal` of an entity is relative to (default: the current one). No effect on Redis.
    pub fn journals(mut self, directory: impl Into<PathBuf>) -> Self {
        self.journals = directory.into();
        self
    }

    /// Sets where the in-process store reads time from.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Puts a store that fails on request in front of the real one.
    #[cfg(feature = "test-util")]
    pub fn faults(mut self, faults: &Faults) -> Self {
        self.faults = Some(faults.clone());
        self
    }

    /// Sets how long an announced write keeps readers off the cache if its writer disappears, in place of the entities' own.
    #[cfg(feature = "test-util")]
    pub fn intent_ttl(mut self, ttl: Duration) -> Self {
        self.intent_ttl = Some(ttl);
        self
    }

    /// Makes the cache. Redis is connected to in the background, on first use: the first reads may go past it.
    /// `connect` awaits one attempt.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a URL, a namespace or a capacity that cannot be used.
    pub fn build(self) -> Result<Cache, Error> {
        check_namespace(&self.namespace)?;
        if self.capacity == 0 {
            return Err(configuration(
                "a capacity of 0 rows keeps nothing; use at least 1",
            ));
        }
        if self.concurrent_loads == 0 {
            return Err(configuration(
                "with 0 concurrent loads nothing can be read; use at least 1",
            ));
        }
        if self.max_row == 0 {
            return Err(configuration(
                "no row fits into a `max_row` of 0 bytes; use at least 1",
            ));
        }
        let repairs = Arc::new(Repairs::new(self.repair_limit));
        let store = self.store(&repairs)?;
        #[cfg(feature = "test-util")]
        let store = FaultyStore::new(store, self.faults.clone());
        let inner = Arc::new(Inner {
            store,
            ledger: Ledger::default(),
            codec: self.codec,
            max_row: self.max_row,
            clock: self.clock,
            repairs,
            told: Told::default(),
            concurrent_loads: self.concurrent_loads,
            #[cfg(feature = "test-util")]
            intent_ttl: self.intent_ttl,
        });
        inner.repairs.belong_to(Arc::downgrade(&inner));
        Ok(Cache {
            inner,
            namespace: Arc::from(self.namespace),
        })
    }

    #[cfg(feature = "redis")]
    fn store(&self, repairs: &Arc<Repairs>) -> Result<RealStore, Error> {
        let Some(url) = &self.url else {
            return Ok(self.memory());
        };
        if url.starts_with("rediss:") && cfg!(not(feature = "tls")) {
            return Err(configuration(
                "a rediss:// URL needs larder's feature `tls`",
            ));
        }
        // The URL itself stays out of the message: it may hold a password.
        #[cfg(feature = "tls")]
        let root_certificate = self.root_certificate.clone();
        #[cfg(not(feature = "tls"))]
        let root_certificate = None;
        let options = Options {
            timeouts: self.timeouts,
            fence: self.fence_primary,
            heart: heart(&self.namespace),
            #[cfg(feature = "test-util")]
            faults: self.faults.clone(),
        };
        let repairs = Arc::clone(repairs);
        let store = RedisStore::new(url, root_certificate, options, repairs).map_err(|error| {
            Error::with_source(
                ErrorKind::Configuration,
                "the Redis URL cannot be used; it looks like redis://host:6379/0 or redis+unix:///path/to/socket",
                error,
            )
        })?;
        Ok(RealStore::Redis(store))
    }

    #[cfg(not(feature = "redis"))]
    fn store(&self, _: &Arc<Repairs>) -> Result<RealStore, Error> {
        debug_assert!(self.url.is_none());
        Ok(self.memory())
    }

    fn memory(&self) -> RealStore {
        RealStore::Memory(MemoryStore::new(
            self.capacity,
            self.clock.clone(),
            self.journals.clone(),
        ))
    }

    /// Makes the cache and awaits one attempt to connect to Redis. A failed attempt is no error: caching begins when Redis
    /// appears.
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

/// The key of this process that shows whether Redis takes writes; no row has it, because every entity has a name.
#[cfg(feature = "redis")]
fn heart(namespace: &str) -> String {
    format!("{namespace}::hb:{:?}", ProcessId::current())
}

fn check_namespace(namespace: &str) -> Result<(), Error> {
    let has_separator = |c: char| c.is_control() || c.is_whitespace() || ":{}".contains(c);
    if namespace.is_empty() || namespace.contains(has_separator) {
        return Err(configuration(format!(
            "the namespace {namespace:?} is empty or holds white space, a colon or a brace; use a short name such as \"shop\""
        )));
    }
    Ok(())
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message)
}
