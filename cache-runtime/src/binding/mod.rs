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

pub(crate) mod bind;
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
use crate::{
    database::backend::Backend,
    error::{Error, ErrorKind},
};

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

impl<DB: Backend> Bond<DB> {
    /// The bond of a repository that is being made.
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
            run: AtomicU64::new(0),
            provisional: AtomicU64::new(0),
            claiming: tokio::sync::Mutex::default(),
        }
    }

    /// Compares what is known without asking anybody.
    pub(crate) fn check_at_first_sight(&self, ledger: &Ledger) -> Result<(), Error> {
        let seen = self.prober.at_first_sight();
        let table = self.known_table();
        let claimed = ledger.claim(&self.namespace, self.entity, &table, &seen, true);
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
