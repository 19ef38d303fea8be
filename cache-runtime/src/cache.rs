//! The cache: the handle that repositories share, and how it is made.

#[cfg(feature = "redis")]
use std::time::Duration;
use std::{fmt, sync::Arc};

#[cfg(feature = "test-util")]
use crate::store::faulty::{Faults, FaultyStore};
#[cfg(feature = "redis")]
use crate::store::{connection::Timeouts, redis::RedisStore};
use crate::{
    clock::Clock,
    codec::Codec,
    error::{Error, ErrorKind},
    store::{AnyStore, RealStore, memory::MemoryStore},
};

const DEFAULT_NAMESPACE: &str = "larder";
const DEFAULT_CAPACITY: usize = 100_000;

/// A cache: a store, and the defaults for the entities that use it. Cheap to clone; clones are the same cache.
///
/// ```
/// use larder_runtime::Cache;
///
/// let cache = Cache::in_process();
/// # let _ = cache;
/// ```
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: AnyStore,
    pub(crate) namespace: String,
    pub(crate) codec: Codec,
    pub(crate) clock: Clock,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("store", &self.0.store)
            .field("namespace", &self.0.namespace)
            .field("codec", &self.0.codec)
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

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// The store, for tests that look behind the repository.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    #[must_use]
    pub fn store(&self) -> &AnyStore {
        &self.0.store
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
    clock: Clock,
    #[cfg(feature = "redis")]
    timeouts: Timeouts,
    #[cfg(feature = "tls")]
    root_certificate: Option<Vec<u8>>,
    #[cfg(feature = "test-util")]
    faults: Option<Faults>,
}

impl Default for CacheBuilder {
    fn default() -> Self {
        Self {
            url: None,
            capacity: DEFAULT_CAPACITY,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            codec: Codec::default(),
            clock: Clock::default(),
            #[cfg(feature = "redis")]
            timeouts: Timeouts::default(),
            #[cfg(feature = "tls")]
            root_certificate: None,
            #[cfg(feature = "test-util")]
            faults: None,
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

    /// Sets the first part of every key (default `larder`), for entities that name none themselves.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the payload codec (default MessagePack), for entities that name none themselves.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Bounds the time one attempt to connect to Redis may take (default 1 s).
    #[cfg(feature = "redis")]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// Bounds the time one command to Redis may take (default 500 ms). A read that meets it goes to the database.
    #[cfg(feature = "redis")]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.response = timeout;
        self
    }

    /// Trusts this root certificate (PEM) for `rediss://`, in place of the usual public ones.
    #[cfg(feature = "tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
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

    /// Makes the cache. Redis is connected to in the background, on first use: the first reads may go past it.
    /// `connect` awaits one attempt.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a URL, a namespace or a capacity that cannot be used.
    pub fn build(self) -> Result<Cache, Error> {
        if self.namespace.is_empty()
            || self
                .namespace
                .contains(|c: char| c.is_control() || c.is_whitespace() || ":{}".contains(c))
        {
            return Err(configuration(format!(
                "the namespace {:?} is empty or holds white space, a colon or a brace; use a short name such as \"shop\"",
                self.namespace
            )));
        }
        if self.capacity == 0 {
            return Err(configuration(
                "a capacity of 0 rows keeps nothing; use at least 1",
            ));
        }
        let store = self.store()?;
        #[cfg(feature = "test-util")]
        let store = FaultyStore::new(store, self.faults.clone());
        Ok(Cache(Arc::new(Inner {
            store,
            namespace: self.namespace,
            codec: self.codec,
            clock: self.clock,
        })))
    }

    #[cfg(feature = "redis")]
    fn store(&self) -> Result<RealStore, Error> {
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
        let store = RedisStore::new(url, root_certificate, self.timeouts).map_err(|error| {
            Error::with_source(
                ErrorKind::Configuration,
                "the Redis URL cannot be used; it looks like redis://host:6379/0 or redis+unix:///path/to/socket",
                error,
            )
        })?;
        Ok(RealStore::Redis(store))
    }

    #[cfg(not(feature = "redis"))]
    fn store(&self) -> Result<RealStore, Error> {
        debug_assert!(self.url.is_none());
        Ok(self.memory())
    }

    fn memory(&self) -> RealStore {
        RealStore::Memory(MemoryStore::new(self.capacity, self.clock.clone()))
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
        if let Err(error) = cache.0.store.connect().await {
            tracing::warn!(%error, "Redis cannot be reached; reads go to the database until it can");
        }
        Ok(cache)
    }
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message)
}
