//! The binding of a namespace: the one database whose rows its keys stand for, and the table behind each entity's name.
//!
//! Without it, two databases that meet in one namespace (staging and production on one Redis, two tenants on one cache) are
//! served each other's rows, and queued writes of one land in the other; and so are two entities with one name.
//!
//! 1. A repository is made: what the pool's options say, and the table, are compared with what this process knows (`ledger`).
//! 2. Before its first operation, and again after each new connection to the store, the database is asked who it is
//!    (`prober`), and both are compared with what the store has (`Store::bind`). The first who comes binds the namespace. A read
//!    that finds nothing asks on the connection that its load has taken, so that it waits for one connection and not for two.
//! 3. A mismatch is an error of the operation, which has read, stored and queued nothing.
//! 4. While the store cannot be asked, the repository goes past it: it is not bound, so nothing is served or filled.
//!
//! Invariant: nothing is served from a store, stored in it, queued in it or flushed from it by a repository that is not bound
//! in the run of the store that is used (`Bond::holds`). While the database is away, and has not been asked before, rows are
//! served if its endpoint is one that the binding knows; that is all.
//! Not here: who is the same (`identity`).

pub(crate) mod endpoint;
pub(crate) mod identity;
pub(crate) mod ledger;
pub(crate) mod prober;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use sqlx::Pool;

pub(crate) use self::{
    identity::{Bound, Other, Seen, Verdict},
    ledger::{Ledger, Member, Mismatch, Table},
    prober::Prober,
};
#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    backend::Backend,
    behind::partition::Partition,
    cache,
    entity::Entity,
    error::{Error, ErrorKind, StoreError},
    repair,
    repository::Inner,
    store::Store,
};

/// How often a binding that changes meanwhile is looked at again.
const MOST_RIVALS: usize = 100;
/// What no binding is: nothing is bound by whoever asks with it.
const LOOK: &str = "?";

/// What a repository claims in the store, by compare-and-set.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The database that must be bound; empty if none may be.
    pub seen: &'a str,
    /// The database that is bound then.
    pub leave: &'a str,
    /// The name of the entity.
    pub entity: &'a str,
    /// The table that it must stand for, or will.
    pub table: &'a str,
    /// Whether it is bound whatever was.
    pub is_forced: bool,
}

impl Claim<'_> {
    /// Whether what is bound stands in its way; the database and the table are empty where nothing is bound. `bind.lua` says
    /// the same for Redis.
    pub fn is_blocked_by(&self, database: &str, table: &str) -> bool {
        let is_other_table = !table.is_empty() && table != self.table;
        !self.is_forced && (database != self.seen || is_other_table)
    }
}

/// What is bound in the store after a claim: what was claimed, or what stands in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The run of the store.
    pub run: u64,
    /// The database.
    pub database: String,
    /// The table of the entity; empty if there is none.
    pub table: String,
}

/// How a repository is bound.
pub(crate) struct Bond<DB: Backend> {
    /// The namespace of its keys.
    pub(crate) namespace: String,
    /// The name of its entity, and its table.
    entity: &'static str,
    written: &'static str,
    pub(crate) prober: Arc<Prober<DB>>,
    table: OnceLock<String>,
    /// The run of the store in which it is bound, and one.
    run: AtomicU64,
    /// The run of the store in which a database that is away was known by its endpoint, and one.
    provisional: AtomicU64,
    /// Held while it is claimed.
    claiming: tokio::sync::Mutex<()>,
}

/// Who asks the database.
enum Asking<'c, DB: Backend> {
    /// A read, which does not wait for long.
    Read,
    /// A write or something about a queue, which cannot do without an answer.
    Write,
    /// A load or a transaction.
    Within(&'c mut DB::Connection),
}

/// What a claim comes to.
enum Claimed {
    Bound,
    /// The database has to be asked again.
    Outdated,
    Refused(Mismatch),
}

/// Why a repository is not bound.
enum Unbound {
    /// The store cannot be asked.
    Store(StoreError),
    /// The database does not answer, and a read does not wait for it.
    Away,
    Failed(Error),
}

impl<DB: Backend> Bond<DB> {
    /// The bond of a repository that is being made.
    pub(crate) fn new(
        cache: &cache::Inner,
        namespace: &str,
        entity: &'static str,
        written: &'static str,
        pool: &Pool<DB>,
    ) -> Self {
        Self {
            namespace: namespace.to_owned(),
            entity,
            written,
            prober: cache.ledger.prober(pool),
            table: OnceLock::new(),
            run: AtomicU64::new(0),
            provisional: AtomicU64::new(0),
            claiming: tokio::sync::Mutex::default(),
        }
    }

    /// Compares what is known without asking anybody.
    pub(crate) fn check_at_first_sight(&self, cache: &cache::Inner) -> Result<(), Error> {
        if is_left_out(cache) {
            return Ok(());
        }
        let seen = self.prober.at_first_sight();
        let table = self.known_table();
        let claimed = cache
            .ledger
            .claim(&self.namespace, self.entity, &table, &seen, true);
        claimed.map_err(|mismatch| self.refused(&mismatch, &seen))
    }

    /// Whether it is bound in a run of the store.
    #[inline]
    pub(crate) fn holds(&self, run: u64) -> bool {
        self.run.load(Ordering::Acquire) == run + 1
    }

    fn known_table(&self) -> Table {
        Table {
            written: self.written,
            resolved: self.table.get().cloned(),
        }
    }

    fn unreadable(&self, text: &str) -> Error {
        let Self {
            namespace, entity, ..
        } = self;
        Error::new(
            ErrorKind::Configuration,
            format!(
                "{entity} cannot use the namespace {namespace}: what it is bound to cannot be read ({text:?}), so a later \
                 version of larder has bound it; use that, or call `Cache::rebind` once"
            ),
        )
    }

    /// The error of an operation of a repository that cannot use its namespace.
    fn refused(&self, mismatch: &Mismatch, seen: &Seen) -> Error {
        let Self {
            namespace, entity, ..
        } = self;
        let why = match mismatch {
            Mismatch::Table { bound } => {
                let table = self.known_table();
                let table = table.resolved.as_deref().unwrap_or(table.written);
                format!(
                    "there, the name {entity} stands for the table {bound}, and here for {table}; give one of the two entities \
                     another name with `#[cached(name = \"..\")]`, or a namespace of its own; if the table was renamed, call \
                     `Cache::rebind` once"
                )
            }
            Mismatch::Database { bound, why } => {
                let sign = match why {
                    Other::System => "they are of two kinds",
                    Other::Id => "their ids are two, so one was created anew or is another one",
                    Other::NoId => {
                        "this one has no id, so it was created anew, or its table larder_database was dropped"
                    }
                    Other::Cluster => {
                        "their servers were set up apart, so it was restored, or upgraded, or is another one"
                    }
                    Other::Elsewhere { same_id: true } => {
                        "their ids are equal, so one is a copy of the other, or it has moved"
                    }
                    Other::Elsewhere { same_id: false } => "neither address nor server is the same",
                };
                format!(
                    "it belongs to {bound}, and this pool reaches {seen}: {sign}; use another namespace \
                     (`CacheBuilder::namespace`, `Cache::with_namespace`), or, if the database has moved or was replaced, call \
                     `Cache::rebind` once"
                )
            }
        };
        Error::new(
            ErrorKind::Configuration,
            format!(
                "{entity} cannot use the namespace {namespace}: {why}. Nothing was read, cached or written"
            ),
        )
    }
}

impl<E: Entity, DB: Backend> Member for Inner<E, DB> {
    fn unbind(&self) {
        self.bond.run.store(0, Ordering::Release);
        self.bond.provisional.store(0, Ordering::Release);
        if let Some(queue) = &self.queue {
            queue.unverify();
        }
    }
}

impl<E: Entity, DB: Backend> Inner<E, DB> {
    /// Whether rows may be stored now.
    #[inline]
    pub(crate) fn is_bound(&self) -> bool {
        self.bond.holds(self.cache.store.run())
    }

    /// Whether rows may be served now.
    #[inline]
    pub(crate) fn is_servable(&self) -> bool {
        self.is_bound()
            || self.bond.provisional.load(Ordering::Acquire) == self.cache.store.run() + 1
    }

    /// Binds the repository before a read, if the database has said who it is. If not, the load asks on its own connection
    /// ([`Inner::bind_within`]), and a hit before it is served ([`Inner::bind_now`]).
    #[inline]
    pub(crate) async fn bind_for_read(&self) -> Result<(), Error> {
        if self.is_bound() || !self.bond.prober.is_known() {
            return Ok(());
        }
        self.bind_now().await
    }

    /// Binds the repository before something is served, or is asked of the store alone. Fails if the namespace belongs to
    /// something else; if that cannot be told, the store is passed by.
    #[inline]
    pub(crate) async fn bind_now(&self) -> Result<(), Error> {
        if self.is_bound() {
            return Ok(());
        }
        without_store(Box::pin(self.bind(Asking::Read)).await)
    }

    /// Binds the repository before a write. Fails if the namespace belongs to something else, or the database does not answer;
    /// without a store, the write is made as in any outage.
    #[inline]
    pub(crate) async fn bind_for_write(&self) -> Result<(), Error> {
        if self.is_bound() {
            return Ok(());
        }
        without_store(Box::pin(self.bind(Asking::Write)).await)
    }

    /// As [`Inner::bind_for_write`], by a load or a transaction, which have a connection and must not wait for another one.
    #[inline]
    pub(crate) async fn bind_within(&self, connection: &mut DB::Connection) -> Result<(), Error> {
        if self.is_bound() {
            return Ok(());
        }
        without_store(Box::pin(self.bind(Asking::Within(connection))).await)
    }

    /// Binds the repository before something is done with its queue, which cannot do without the store.
    #[inline]
    pub(crate) async fn bind_for_queue(&self, verb: &str) -> Result<(), Error> {
        if self.is_bound() {
            return Ok(());
        }
        match Box::pin(self.bind(Asking::Write)).await {
            Err(Unbound::Store(error)) => Err(self.queue_away(verb, error)),
            bound => without_store(bound),
        }
    }

    async fn bind(&self, mut asking: Asking<'_, DB>) -> Result<(), Unbound> {
        let store = &self.cache.store;
        if is_left_out(&self.cache) {
            self.bond.run.store(store.run() + 1, Ordering::Release);
            return Ok(());
        }
        if !store.is_trusted() {
            return Err(Unbound::Store(StoreError::new(
                "the store is away, so it is not known whose rows it holds",
            )));
        }
        let Some(seen) = asking.seen(&self.bond, None).await? else {
            return self.bind_provisionally().await;
        };
        let table = asking.table(&self.bond, false).await?;
        let in_the_way = match self.claim(&seen, &table, false).await? {
            Claimed::Bound => return Ok(()),
            Claimed::Outdated => None,
            Claimed::Refused(mismatch) => {
                self.bond.provisional.store(0, Ordering::Release);
                Some(self.bond.refused(&mismatch, &seen))
            }
        };
        // What was asked for earlier may have changed since: an id was installed, a table was moved, a server was replaced.
        let Some(seen) = asking.seen(&self.bond, Some(&seen)).await? else {
            return match in_the_way {
                Some(refused) => Err(Unbound::Failed(refused)),
                None => self.bind_provisionally().await,
            };
        };
        let table = asking.table(&self.bond, true).await?;
        match self.claim(&seen, &table, true).await? {
            Claimed::Bound => Ok(()),
            Claimed::Outdated => Err(Unbound::Away),
            Claimed::Refused(mismatch) => Err(Unbound::Failed(self.bond.refused(&mismatch, &seen))),
        }
    }

    /// Claims the namespace for a database and the entity's name for a table, in this process and in the store.
    /// Only what was asked for just now (`is_fresh`) says that the database runs on another server than the one that is bound: an
    /// older answer may be of the former one.
    async fn claim(&self, seen: &Seen, table: &Table, is_fresh: bool) -> Result<Claimed, Unbound> {
        // Many begin at once. Held for a round trip to the store, never while somebody waits for a connection.
        let _claiming = self.bond.claiming.lock().await;
        if self.is_bound() {
            return Ok(Claimed::Bound);
        }
        let Bond {
            namespace, entity, ..
        } = &self.bond;
        let ledger = &self.cache.ledger;
        let rebindings = ledger.rebindings(namespace);
        if let Err(mismatch) = ledger.claim(namespace, entity, table, seen, is_fresh) {
            return Ok(Claimed::Refused(mismatch));
        }
        let mut before = String::new();
        let mut leave = Bound::to(seen).encode();
        for _ in 0..MOST_RIVALS {
            let held = self
                .claim_in_store(&Claim {
                    namespace,
                    seen: &before,
                    leave: &leave,
                    entity,
                    table: table.name(),
                    // A journal that comes after the namespace was bound anew follows it.
                    is_forced: self.journal().is_some() && rebindings > 0,
                })
                .await
                .map_err(Unbound::Store)?;
            if held.database.is_empty() {
                // It was lost meanwhile.
                before = String::new();
                leave = Bound::to(seen).encode();
                continue;
            }
            let Some(bound) = Bound::decode(&held.database) else {
                return Err(Unbound::Failed(self.bond.unreadable(&held.database)));
            };
            let merged = match bound.judge(seen) {
                Verdict::Same(merged) => merged,
                Verdict::Other(why) => {
                    let mismatch = Mismatch::Database { bound, why };
                    return Ok(Claimed::Refused(mismatch));
                }
                Verdict::Open => {
                    let why = Other::Elsewhere { same_id: false };
                    let mismatch = Mismatch::Database { bound, why };
                    return Ok(Claimed::Refused(mismatch));
                }
            };
            if !held.table.is_empty() && held.table != table.name() {
                let mismatch = Mismatch::Table { bound: held.table };
                return Ok(Claimed::Refused(mismatch));
            }
            if merged == bound && !held.table.is_empty() {
                let note = || self.bond.run.store(held.run + 1, Ordering::Release);
                if ledger.confirm(namespace, rebindings, note) {
                    return Ok(Claimed::Bound);
                }
                return Err(Unbound::Store(StoreError::new(
                    "the namespace was bound anew meanwhile",
                )));
            }
            if bound.runs_elsewhere(&merged) && !is_fresh {
                return Ok(Claimed::Outdated);
            }
            before = held.database;
            leave = merged.encode();
        }
        Err(Unbound::Store(StoreError::new(
            "the binding of a namespace is changed by others all the time",
        )))
    }

    async fn claim_in_store(&self, claim: &Claim<'_>) -> Result<InForce, StoreError> {
        self.cache.store.bind(claim, self.journal()).await
    }

    /// The partition by which the store finds the journal of the entity, if it has one.
    fn journal(&self) -> Option<&Partition> {
        let queue = self.queue.as_ref()?;
        let first = queue.lanes.first()?;
        queue.policy.journal.map(|_| &*first.partition)
    }

    /// Lets rows be served whose database is away, if the endpoint is one that they were stored under.
    async fn bind_provisionally(&self) -> Result<(), Unbound> {
        if self.is_servable() {
            return Err(Unbound::Away);
        }
        let table = self.bond.known_table();
        let (ledger, namespace) = (&self.cache.ledger, &self.bond.namespace);
        let rebindings = ledger.rebindings(namespace);
        let look = Claim {
            namespace,
            seen: LOOK,
            leave: LOOK,
            entity: self.bond.entity,
            table: table.name(),
            is_forced: false,
        };
        let held = self.claim_in_store(&look).await.map_err(Unbound::Store)?;
        let bound = Bound::decode(&held.database);
        let seen = self.bond.prober.at_first_sight();
        let is_known = bound.is_some_and(|bound| matches!(bound.judge(&seen), Verdict::Same(_)));
        // As it was written, or with the schema that somebody else has found it in.
        let is_table = held.table == table.name()
            || held
                .table
                .rsplit_once('.')
                .is_some_and(|(_, name)| name == table.name());
        if is_known && is_table {
            let provisional = &self.bond.provisional;
            let note = || provisional.store(held.run + 1, Ordering::Release);
            ledger.confirm(namespace, rebindings, note);
        }
        Err(Unbound::Away)
    }
}

impl<DB: Backend> Asking<'_, DB> {
    /// Who the database is; nothing if it does not answer a read soon.
    async fn seen(
        &mut self,
        bond: &Bond<DB>,
        stale: Option<&Arc<Seen>>,
    ) -> Result<Option<Arc<Seen>>, Unbound> {
        let prober = &bond.prober;
        let seen = match self {
            Self::Read => return Ok(prober.seen_soon(stale).await),
            Self::Write => prober.seen(stale).await,
            Self::Within(connection) => prober.seen_on(connection, stale).await,
        };
        seen.map(Some).map_err(Unbound::Failed)
    }

    /// The table of the entity, with its schema.
    async fn table(&mut self, bond: &Bond<DB>, is_stale: bool) -> Result<Table, Unbound> {
        let known = bond.known_table();
        if known.resolved.is_some() && !is_stale {
            return Ok(known);
        }
        let resolved = match self {
            Self::Read | Self::Write => bond.prober.resolve(bond.written).await,
            Self::Within(connection) => prober::resolve::<DB>(connection, bond.written).await,
        };
        let resolved = resolved.map_err(Unbound::Failed)?;
        let _first = bond.table.set(resolved.clone());
        Ok(Table {
            written: bond.written,
            resolved: Some(resolved),
        })
    }
}

/// Goes on without a store, or without knowing more.
fn without_store(bound: Result<(), Unbound>) -> Result<(), Error> {
    match bound {
        Ok(()) | Err(Unbound::Store(_) | Unbound::Away) => Ok(()),
        Err(Unbound::Failed(error)) => Err(error),
    }
}

/// Binds a namespace to the database that a pool reaches, whatever it was bound to, and drops what is cached in it.
pub(crate) async fn rebind<DB: Backend>(
    cache: &Arc<cache::Inner>,
    namespace: &str,
    pool: &Pool<DB>,
) -> Result<(), Error> {
    let prober = cache.ledger.prober(pool);
    prober.forget();
    let seen = prober.seen(None).await?;
    let away = |error| {
        let message = format!("failed to bind the namespace {namespace} to {seen}");
        Error::with_source(ErrorKind::Store, message, error)
    };
    let bound = Bound::to(&seen).encode();
    let claim = Claim {
        namespace,
        seen: "",
        leave: &bound,
        entity: "",
        table: "",
        is_forced: true,
    };
    // What stands in a queue stays.
    let prefixes = || [format!("{namespace}:"), format!("{{{namespace}:")].map(Vec::from);
    let weak = Arc::downgrade(cache);
    let drop_rows = || repair::drop_all(&weak, prefixes());
    // Before, so that a process that is stopped here leaves no rows of the former database to the new one.
    drop_rows().await.map_err(away)?;
    cache.store.bind(&claim, None).await.map_err(away)?;
    cache.ledger.rebind(namespace, &seen);
    // And behind, because of what was stored meanwhile.
    drop_rows().await.map_err(|error| {
        cache.repairs.remember_everything(None);
        away(error)
    })?;
    tracing::info!(namespace, database = %seen, "the namespace is bound to this database from now on");
    Ok(())
}

/// Whether bindings are left out, for the tests that show they are needed.
fn is_left_out(cache: &cache::Inner) -> bool {
    #[cfg(feature = "test-util")]
    return cache.store.is_left_out(Mechanism::Binding);
    #[cfg(not(feature = "test-util"))]
    {
        let _ = cache;
        false
    }
}
