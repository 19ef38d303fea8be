//! The cache: the handle that repositories share. `builder` makes it, `rebind` gives a namespace to another database.

mod builder;
mod rebind;

#[cfg(feature = "test-util")]
use std::time::Duration;
use std::{fmt, sync::Arc};

use sqlx::Pool;

pub use self::builder::CacheBuilder;
use crate::{
    binding::Ledger,
    clock::Clock,
    database::{backend::Backend, round_trip::Told},
    error::{Error, ErrorKind},
    policy::Codec,
    repair::{Host, Repairs},
    stats::RepairStats,
    store::AnyStore,
};

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

impl Host for Inner {
    fn store(&self) -> &AnyStore {
        &self.store
    }

    fn repairs(&self) -> &Repairs {
        &self.repairs
    }
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
        rebind::rebind(&self.inner, &self.namespace, pool).await
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
