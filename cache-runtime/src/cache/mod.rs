//! The cache: the handle that repositories share. `builder` creates it. `health` says what is wrong with it. `rebind` gives a namespace to another database.

mod builder;
mod health;
#[cfg(feature = "redis")]
mod listing;
#[cfg(feature = "metrics")]
mod metrics;
mod rebind;

#[cfg(feature = "metrics")]
use std::sync::Mutex;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::Pool;

pub use self::builder::CacheBuilder;
#[cfg(feature = "metrics")]
use crate::observe::{MeasuredEntities, timing::Timing};
use crate::{
    binding::Ledger,
    clock::Clock,
    database::{backend::Backend, dialect::Dialect, round_trip::LoggedMismatches},
    error::{Error, ErrorKind},
    pause::Pauses,
    policy::{Codec, LoadLimits},
    repair::{Host, Repairs},
    stats::{RepairStats, Stats, Totals},
    store::{AnyStore, Store, failpoint::Mechanism},
};

/// A cache: a store, and the defaults for the entities that use it. Cloning is cheap, and clones are the same cache.
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

/// The part of a cache that all its namespaces share.
pub(crate) struct Inner {
    pub(crate) store: AnyStore,
    /// The bindings of the namespaces.
    pub(crate) ledger: Ledger,
    pub(crate) codec: Codec,
    /// The maximum size of an encoded row in bytes.
    pub(crate) max_row: u64,
    pub(crate) clock: Clock,
    /// The invalidations that the store has not received yet.
    pub(crate) repairs: Arc<Repairs>,
    /// The fields that were logged because a codec changes them.
    pub(crate) logged_mismatches: LoggedMismatches,
    pub(crate) load_limits: LoadLimits,
    /// What is paused for all repositories.
    pub(crate) pauses: Pauses,
    /// What the repositories have counted that exist no more.
    pub(crate) totals: Totals,
    /// The store is this process, and it was not logged yet that others do not share it.
    pub(crate) owes_notice: AtomicBool,
    /// What entries must have been stored under, beside the layout of their rows.
    namespace_version: Option<Box<str>>,
    /// A load that takes longer is logged.
    pub(crate) slow_load: Option<Duration>,
    /// The namespace that it was built with.
    #[cfg(any(feature = "metrics", feature = "redis"))]
    name: Box<str>,
    /// Whether this process lists itself in the store.
    #[cfg(feature = "redis")]
    is_listed: AtomicBool,
    /// Whether a task does so.
    #[cfg(feature = "redis")]
    lists: AtomicBool,
    /// What the operations of each entity are measured with.
    #[cfg(feature = "metrics")]
    pub(crate) measured: MeasuredEntities,
    /// How long it took to announce writes.
    #[cfg(feature = "metrics")]
    pub(crate) announcements: Timing,
    #[cfg(feature = "metrics")]
    published: Mutex<metrics::Published>,
    /// Whether a task publishes.
    #[cfg(feature = "metrics")]
    is_published: AtomicBool,
    /// Overrides the entities' own setting, for tests.
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

impl Inner {
    /// Returns what entries must have been stored under, beside the layout of their rows.
    pub(crate) fn namespace_version(&self) -> Option<&str> {
        let version = self.namespace_version.as_deref();
        version.filter(|_| !self.store.disables(Mechanism::NamespaceVersion))
    }

    /// Returns what all repositories have counted, by entity.
    pub(crate) fn stats_by_entity(&self) -> HashMap<&'static str, Stats> {
        let mut stats = self.totals.by_entity();
        for member in self.ledger.members() {
            *stats.entry(member.spec().name).or_default() += member.stats();
        }
        stats
    }

    /// Logs once, when the first repository over a database server is created, that other processes do not share an
    /// in-process cache.
    ///
    /// A server cannot be asked cheaply who else writes to the table. But it is there to be shared, and even a service of
    /// one process runs twice during most deploys. A file of SQLite is seldom shared, so there is no line for it.
    pub(crate) fn notice_server<DB: Backend>(&self, entity: &'static str, namespace: &str) {
        let is_server = match DB::DIALECT {
            Dialect::Postgres | Dialect::MySql => true,
            Dialect::Sqlite => false,
        };
        if is_server && self.owes_notice.swap(false, Ordering::Relaxed) {
            tracing::info!(
                entity,
                namespace,
                database = DB::NAME,
                "the cache is in the memory of this process, and the database is on a server: if another process writes to it, \
                 this one serves old rows until their time to live ends; with more than one process, also for the time of a \
                 deploy, use `Cache::connect`"
            );
        }
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
    /// Returns a cache in Redis, with default options. The URL begins with `redis://`, `rediss://` (feature `tls`) or
    /// `redis+unix://`.
    ///
    /// The call awaits one attempt to connect. If it fails, the cache is returned anyway: reads go to the database, and
    /// caching begins as soon as Redis is reachable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a URL that cannot be used.
    #[cfg(feature = "redis")]
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::builder().redis(url).connect().await
    }

    /// Returns a cache in the memory of this process, with default options.
    ///
    /// All promises hold inside this one process. A second process is not noticed: until the time to live of a row ends
    /// (`ttl`, 5 minutes by default), each serves the old row after the other has written it. The same holds for absence
    /// (`negative_ttl`). A deploy that starts the new process before the old one has stopped is such a case. For more
    /// than one process use [`Cache::connect`](crate::Cache::connect), which needs Redis. larder logs this once, at
    /// `info`, when a repository of such a cache is created over Postgres or MySQL.
    ///
    /// Queued writes of an entity that is `write_behind` are lost when the process ends, unless it has a `journal`.
    #[must_use]
    pub fn in_process() -> Self {
        Self::builder()
            .build()
            .expect("an in-process cache has no options that can be wrong")
    }

    /// Returns a builder, to create a cache with options.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::default()
    }

    /// Returns the counts of invalidations that this process could not deliver at once: how many still wait, and how
    /// many were delivered late.
    #[must_use]
    pub fn repairs(&self) -> RepairStats {
        self.inner.repairs.stats()
    }

    /// Returns the sum of the counters of all repositories of this cache, in all its namespaces, also of those that were dropped.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.stats_by_entity().into_values().sum()
    }

    /// Stops to serve rows from the cache, for all its repositories and namespaces: reads go to the database, and what they load
    /// is not stored. Writes go on to announce what they change, so that [`Cache::resume_reads`] is safe at any time. It holds for
    /// this process.
    ///
    /// A row of a `write_behind` entity whose write is still queued is returned from the store, because the database does not
    /// have it yet.
    pub fn pause_reads(&self) {
        self.inner.pauses.set_reads(true);
    }

    /// Ends what [`Cache::pause_reads`] began.
    pub fn resume_reads(&self) {
        self.inner.pauses.set_reads(false);
    }

    /// Stops to store rows in the cache, for all its repositories and namespaces: what is cached is served until it is invalidated
    /// or its time to live ends, and nothing is added. It holds for this process. Rows of `write_behind` entities are still stored,
    /// because queued writes are compared with them.
    pub fn pause_fills(&self) {
        self.inner.pauses.set_fills(true);
    }

    /// Ends what [`Cache::pause_fills`] began.
    pub fn resume_fills(&self) {
        self.inner.pauses.set_fills(false);
    }

    /// Returns the same cache with another namespace, for example one per tenant that has its own database, schema or
    /// rules.
    ///
    /// The call costs two allocations. All namespaces share the connection, the memory, the clock and the undelivered
    /// invalidations, so any number of them use one connection to Redis. `docs/namespaces.md` explains what a namespace
    /// is and how it is bound to a database.
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
    /// [`ErrorKind::Configuration`] for a namespace that cannot be part of a key, as in [`CacheBuilder::build`].
    pub fn with_namespace(&self, namespace: impl AsRef<str>) -> Result<Self, Error> {
        let namespace = namespace.as_ref();
        check_namespace(namespace)?;
        Ok(Self {
            inner: Arc::clone(&self.inner),
            namespace: Arc::from(namespace),
        })
    }

    /// Binds the namespace of this cache to the database that `pool` connects to, and drops the cached rows of the
    /// namespace. A former binding is replaced. Call it once after a database was moved or replaced, or after its
    /// tables were renamed.
    ///
    /// Queued writes stay queued and are flushed to the new database. Processes that are already connected keep the
    /// binding they found at their start, so stop those of the former database first. A queue with a journal is rebound
    /// too if its repository is created after this call, from the same cache.
    ///
    /// # Errors
    ///
    /// Errors of the database. [`ErrorKind::CacheUnavailable`] if the store cannot be reached. The call can be
    /// repeated.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, the namespace may be bound and some of its rows dropped. Call it again.
    pub async fn rebind<DB: Backend>(&self, pool: &Pool<DB>) -> Result<(), Error> {
        rebind::rebind(&self.inner, &self.namespace, pool).await
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Returns the first part of the keys of entities without a `namespace` of their own.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the store, for tests that inspect it directly.
    #[cfg(feature = "internal-faults")]
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
            "failed to set the namespace {namespace:?}: it is empty or contains white space, a colon or a brace; use a short \
             name such as \"shop\""
        )));
    }
    Ok(())
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message)
}
