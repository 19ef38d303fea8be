//! The options of a cache, their defaults, and what is made of them.

#[cfg(any(feature = "redis", feature = "test-util"))]
use std::time::Duration;
use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};

use super::{Cache, Inner, check_namespace, configuration};
#[cfg(feature = "test-util")]
use crate::store::faulty::{Faults, FaultyStore};
use crate::{
    binding::Ledger,
    clock::Clock,
    database::round_trip::Told,
    error::Error,
    policy::Codec,
    protocol::size,
    repair::{self, Host, Repairs},
    store::{RealStore, memory::MemoryStore},
};
#[cfg(feature = "redis")]
use crate::{
    error::ErrorKind,
    protocol::token::ProcessId,
    store::redis::{
        RedisStore,
        connection::{Options, Timeouts},
    },
};

const DEFAULT_NAMESPACE: &str = "larder";
const DEFAULT_CAPACITY: usize = 100_000;
const DEFAULT_LOADS: usize = 64;

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
        let host = Arc::downgrade(&inner) as Weak<dyn Host>;
        inner.repairs.belong_to(host);
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
