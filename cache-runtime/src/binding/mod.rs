//! The binding of a namespace: the one database whose rows its keys identify, and the table of each entity's name.
//!
//! Without it, two databases in one namespace (staging and production on one Redis, two tenants on one cache) would be
//! served each other's rows, and queued writes of one would be flushed to the other. The same holds for two entities
//! with one name.
//!
//! 1. When a repository is created, the options of the pool and the table are compared with what this process knows
//!    (`ledger`).
//! 2. Before its first operation, and after each new connection to the store, the database is identified (`prober`).
//!    The database and the table are compared with the binding in the store (`Store::bind`). The first repository binds
//!    the namespace. A read that misses identifies the database on the connection of its load, so it waits for one
//!    connection only.
//! 3. The answer names the other entities over the table. It is good for some seconds, so that a repository that is used claims
//!    again from time to time (`protocol/family`).
//! 4. A mismatch is an error of the operation, which has read, stored and queued nothing.
//! 5. While the store cannot be asked, the repository is not bound: it bypasses the store, and nothing is served or
//!    filled.
//!
//! Invariant: a repository that is not bound on the current connection of the store (`Bond::holds`) does not serve from
//! the store, fill it, queue in it or flush from it. There is one exception: while the database is unreachable and was
//! not identified before, rows are served if the binding has its endpoint.
//! Not here: when two databases are the same (`identity`).

pub(crate) mod bind;
pub(crate) mod identity;
pub(crate) mod ledger;
pub(crate) mod prober;

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use sqlx::Pool;

pub(crate) use self::{
    identity::{Bound, Other, Seen, Verdict},
    ledger::{Ledger, Member, Mismatch, Table},
    prober::Prober,
};
use crate::{
    database::backend::Backend,
    error::{Error, ErrorKind},
};

/// The binding of a repository.
pub(crate) struct Bond<DB: Backend> {
    /// The namespace of its keys.
    pub(crate) namespace: String,
    /// The name of its entity, and its table.
    entity: &'static str,
    written: &'static str,
    pub(crate) prober: Arc<Prober<DB>>,
    table: OnceLock<String>,
    /// The number of the connection on which it is bound, plus one. Zero: not bound.
    bound_in: AtomicU64,
    /// The number of the connection on which an unreachable database was identified by its endpoint, plus one.
    provisional: AtomicU64,
    /// Until when the last answer of the store about the entities of the table is good, in microseconds of the cache's clock; for
    /// an in-process store, how often a family had changed then, plus one.
    read_until: AtomicU64,
    /// Held while the namespace is claimed.
    claiming: tokio::sync::Mutex<()>,
    /// Why the namespace was refused, since it was bound last.
    refusal: Mutex<Option<String>>,
}

impl<DB: Backend> Bond<DB> {
    /// Returns the binding of a repository that is being created.
    pub(crate) fn new(
        ledger: &Ledger,
        namespace: &str,
        entity: &'static str,
        written: &'static str,
        pool: &Pool<DB>,
    ) -> Self {
        Self {
            namespace: namespace.to_owned(),
            entity,
            written,
            prober: ledger.prober(pool),
            table: OnceLock::new(),
            bound_in: AtomicU64::new(0),
            provisional: AtomicU64::new(0),
            read_until: AtomicU64::new(0),
            claiming: tokio::sync::Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    /// Compares what is known without asking the database or the store.
    pub(crate) fn check_at_first_sight(&self, ledger: &Ledger) -> Result<(), Error> {
        let seen = self.prober.at_first_sight();
        let table = self.known_table();
        let claimed = ledger.claim(&self.namespace, self.entity, &table, &seen, true);
        claimed.map_err(|mismatch| self.refused(&mismatch, &seen))
    }

    /// Returns whether it is bound on a connection of the store.
    #[inline]
    pub(crate) fn holds(&self, connection: u64) -> bool {
        self.bound_in.load(Ordering::Acquire) == connection + 1
    }

    /// Returns why the repository cannot use its namespace, if so.
    pub(crate) fn refusal(&self) -> Option<String> {
        let refusal = self.refusal.lock();
        refusal.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the repository is bound on a connection of the store.
    fn note_bound(&self, connection: u64) {
        let refusal = self.refusal.lock();
        *refusal.unwrap_or_else(PoisonError::into_inner) = None;
        self.bound_in.store(connection + 1, Ordering::Release);
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
                "{entity} cannot use the namespace {namespace}: its binding cannot be read ({text:?}), so a later version of \
                 larder has written it; use that version, or call `Cache::rebind` once"
            ),
        )
    }

    /// Returns the error of an operation of a repository that cannot use its namespace.
    fn refused(&self, mismatch: &Mismatch, seen: &Seen) -> Error {
        let Self {
            namespace, entity, ..
        } = self;
        let why = match mismatch {
            Mismatch::Table { bound } => {
                let table = self.known_table();
                let table = table.resolved.as_deref().unwrap_or(table.written);
                format!(
                    "in it, the entity name {entity} belongs to the table {bound}, and this entity has the table {table}; give \
                     one of the two entities another name with `#[cached(name = \"..\")]`, or a namespace of its own; if the \
                     table was renamed, call `Cache::rebind` once"
                )
            }
            Mismatch::Database { bound, why } => {
                let sign = match why {
                    Other::System => "they are different kinds of databases",
                    Other::Id => {
                        "their ids differ, so the database was created again, or they are two databases"
                    }
                    Other::NoId => {
                        "this one has no id, so it was created again, or its table larder_database was dropped"
                    }
                    Other::Cluster => {
                        "their servers were set up separately, so the database was restored or upgraded, or they are two databases"
                    }
                    Other::Elsewhere { same_id: true } => {
                        "their ids are equal, so one is a copy of the other, or the database has moved"
                    }
                    Other::Elsewhere { same_id: false } => {
                        "neither the address nor the server is the same"
                    }
                };
                format!(
                    "it belongs to {bound}, and this pool connects to {seen}: {sign}; use another namespace \
                     (`CacheBuilder::namespace`, `Cache::with_namespace`), or call `Cache::rebind` once if the database has \
                     moved or was replaced"
                )
            }
        };
        let why = format!("{entity} cannot use the namespace {namespace}: {why}");
        let refusal = self.refusal.lock();
        *refusal.unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        Error::new(
            ErrorKind::Configuration,
            format!("{why}. Nothing was read, cached or written"),
        )
    }
}
