//! The bindings of the namespaces of one cache, as far as this process knows them.
//!
//! For the in-process store these are all bindings. With Redis, the bindings of other processes are in Redis. Then this
//! ledger finds two entities of one name, or two databases, as soon as their repositories are created.
//!
//! Invariant: the first repository binds a namespace, and all others are compared with that binding.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    identity::{Bound, Other, Seen, Verdict},
    prober::Prober,
};
#[cfg(any(feature = "metrics", feature = "redis"))]
use futures_util::future::BoxFuture;

#[cfg(feature = "metrics")]
use crate::observe::survey::Survey;
use crate::{
    database::{backend::Backend, entity::EntitySpec},
    pause::Pauses,
    stats::Stats,
};
#[cfg(feature = "redis")]
use crate::{
    error::Error,
    observe::audit::{Audit, AuditOptions},
    protocol::listing::ListedEntity,
};

/// A bound repository, which `rebind` unbinds.
pub(crate) trait Member: Send + Sync {
    fn unbind(&self);
    fn spec(&self) -> EntitySpec;
    /// Returns what it has counted.
    fn stats(&self) -> Stats;
    /// Returns whether it is not cached, because another program may write to its table without announcing it.
    fn is_held(&self) -> bool;
    /// Returns why it cannot use its namespace, if so.
    fn refusal(&self) -> Option<String>;
    /// Returns what the keys of its rows begin with.
    #[cfg(feature = "metrics")]
    fn prefix(&self) -> Vec<u8>;
    /// Asks the store and the database about its queue and its tags.
    #[cfg(feature = "metrics")]
    fn survey(&self) -> BoxFuture<'_, Survey>;
    /// Compares cached rows with the database.
    #[cfg(feature = "redis")]
    fn audit(self: Arc<Self>, options: AuditOptions) -> BoxFuture<'static, Result<Audit, Error>>;
    /// Returns the name of its queue, if it has one.
    #[cfg(feature = "redis")]
    fn queue(&self) -> Option<Arc<str>>;
    /// Replays a dead letter, given by its partition, epoch and number, for somebody who is not trusted.
    #[cfg(feature = "redis")]
    fn replay(self: Arc<Self>, place: (u16, u64, u64)) -> BoxFuture<'static, Result<(), Error>>;
    /// Returns how it is cached, for tools.
    #[cfg(feature = "redis")]
    fn listed(&self) -> ListedEntity;
    /// Returns what of it is paused.
    fn pauses(&self) -> &Pauses;
}

/// The bindings of one cache.
#[derive(Default)]
pub(crate) struct Ledger {
    namespaces: Mutex<HashMap<String, Namespace>>,
    probers: Mutex<Vec<Asked>>,
}

#[derive(Default)]
struct Namespace {
    database: Option<Bound>,
    tables: HashMap<&'static str, Table>,
    /// The repositories to unbind when the namespace is bound to another database.
    members: Vec<Weak<dyn Member>>,
    /// How often `Cache::rebind` was called. Journals are rebound after it.
    rebindings: u64,
}

/// The pool that a prober asks. Its options are kept alive, so that no other pool's options get their address.
struct Asked {
    options: Arc<dyn std::any::Any + Send + Sync>,
    prober: Weak<dyn std::any::Any + Send + Sync>,
}

/// The table of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The name as the entity writes it.
    pub(crate) written: &'static str,
    /// The name with the schema in which the database has found it.
    pub(crate) resolved: Option<String>,
}

/// Why a repository cannot use a namespace.
#[derive(Debug)]
pub(crate) enum Mismatch {
    Database {
        bound: Bound,
        why: Other,
    },
    /// The name of the entity belongs to this table.
    Table {
        bound: String,
    },
}

impl Table {
    /// Returns whether the two cannot be the same table.
    fn contradicts(&self, other: &Self) -> bool {
        if let (Some(own), Some(other)) = (&self.resolved, &other.resolved) {
            return own != other;
        }
        let parts = |written: &'static str| match written.rsplit_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, written),
        };
        let ((own, table), (others, other)) = (parts(self.written), parts(other.written));
        table != other || own.zip(others).is_some_and(|(own, others)| own != others)
    }

    /// Returns the name of the table in a store.
    pub(crate) fn name(&self) -> &str {
        self.resolved.as_deref().unwrap_or(self.written)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

impl Ledger {
    /// Binds a namespace to a database and the name of an entity to a table, or compares them with the binding. An
    /// answer that is not `is_fresh` does not show where the database runs now.
    pub(crate) fn claim(
        &self,
        namespace: &str,
        entity: &'static str,
        table: &Table,
        seen: &Seen,
        is_fresh: bool,
    ) -> Result<(), Mismatch> {
        let mut namespaces = self.lock();
        let namespace = namespaces.entry(namespace.to_owned()).or_default();
        let database = match &namespace.database {
            None => Some(Bound::to(seen)),
            Some(bound) => match bound.compare(seen) {
                Verdict::Same(merged) if is_fresh || !bound.runs_elsewhere(&merged) => Some(merged),
                Verdict::Same(_) | Verdict::Open => None,
                Verdict::Other(why) => {
                    let bound = bound.clone();
                    return Err(Mismatch::Database { bound, why });
                }
            },
        };
        match namespace.tables.get_mut(entity) {
            Some(bound) if bound.contradicts(table) => {
                let bound = bound.name().to_owned();
                return Err(Mismatch::Table { bound });
            }
            Some(bound) => {
                if table.resolved.is_some() {
                    bound.clone_from(table);
                }
            }
            None => {
                namespace.tables.insert(entity, table.clone());
            }
        }
        if database.is_some() {
            namespace.database = database;
        }
        Ok(())
    }

    /// Binds a namespace to another database, and unbinds its repositories, so that they are compared again.
    pub(crate) fn rebind(&self, namespace: &str, seen: &Seen) {
        let mut namespaces = self.lock();
        let namespace = namespaces.entry(namespace.to_owned()).or_default();
        namespace.database = Some(Bound::to(seen));
        namespace.tables.clear();
        namespace.rebindings += 1;
        for member in namespace.members.iter().filter_map(Weak::upgrade) {
            member.unbind();
        }
    }

    /// Returns how often a namespace was rebound.
    pub(crate) fn rebindings(&self, namespace: &str) -> u64 {
        let namespaces = self.lock();
        namespaces
            .get(namespace)
            .map_or(0, |namespace| namespace.rebindings)
    }

    /// Calls `note` to record that a member is bound, unless its namespace was rebound since. Returns whether it was
    /// called.
    pub(crate) fn confirm(&self, namespace: &str, rebindings: u64, note: impl FnOnce()) -> bool {
        let namespaces = self.lock();
        let now = namespaces
            .get(namespace)
            .map_or(0, |namespace| namespace.rebindings);
        if now == rebindings {
            note();
        }
        now == rebindings
    }

    /// Adds a repository to unbind when the namespace is bound to another database.
    pub(crate) fn join(&self, namespace: &str, member: Weak<dyn Member>) {
        let mut namespaces = self.lock();
        let namespace = namespaces.entry(namespace.to_owned()).or_default();
        namespace.members.retain(|member| member.strong_count() > 0);
        namespace.members.push(member);
    }

    /// Returns the repositories of all namespaces.
    pub(crate) fn members(&self) -> Vec<Arc<dyn Member>> {
        let namespaces = self.lock();
        let members = namespaces.values().flat_map(|namespace| &namespace.members);
        members.filter_map(Weak::upgrade).collect()
    }

    /// Returns the entities of a namespace over the same table that do not name each other though one of them is written.
    pub(crate) fn strangers(&self, namespace: &str, spec: &EntitySpec) -> Vec<&'static str> {
        let namespaces = self.lock();
        let members = namespaces
            .get(namespace)
            .map(|namespace| &namespace.members);
        let members = members.into_iter().flatten().filter_map(Weak::upgrade);
        let others = members.map(|member| member.spec());
        let strangers = others.filter(|other| {
            other.name != spec.name
                && other.table == spec.table
                && (misses(spec, other) || misses(other, spec))
        });
        let mut names: Vec<_> = strangers.map(|other| other.name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the prober of a pool, which all repositories over it share.
    pub(crate) fn prober<DB: Backend>(&self, pool: &sqlx::Pool<DB>) -> Arc<Prober<DB>> {
        let options: Arc<dyn std::any::Any + Send + Sync> = pool.connect_options();
        let mut probers = self.probers.lock().unwrap_or_else(PoisonError::into_inner);
        let address =
            |options: &Arc<dyn std::any::Any + Send + Sync>| Arc::as_ptr(options).cast::<()>();
        let known = probers
            .iter_mut()
            .find(|asked| address(&asked.options) == address(&options));
        let prober = known.as_ref().and_then(|asked| asked.prober.upgrade());
        if let Some(prober) = prober.and_then(|prober| prober.downcast().ok()) {
            return prober;
        }
        let prober = Arc::new(Prober::new(pool.clone()));
        let weak = Arc::downgrade(&prober) as Weak<dyn std::any::Any + Send + Sync>;
        match known {
            Some(asked) => asked.prober = weak,
            None => probers.push(Asked {
                options,
                prober: weak,
            }),
        }
        prober
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Namespace>> {
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a write of one entity is not announced to another one over the same table.
fn misses(written: &EntitySpec, other: &EntitySpec) -> bool {
    let mut named = written.same_table.iter();
    !written.read_only && !named.any(|named| named().name == other.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(written: &'static str, resolved: &str) -> Table {
        Table {
            written,
            resolved: (!resolved.is_empty()).then(|| resolved.to_owned()),
        }
    }

    #[test]
    fn tables_are_compared_by_resolved_name_or_else_by_written_name() {
        let contradicts = |own: &Table, other: &Table| {
            assert_eq!(own.contradicts(other), other.contradicts(own));
            own.contradicts(other)
        };
        assert!(contradicts(&table("orders", ""), &table("carts", "")));
        assert!(contradicts(&table("a.items", ""), &table("b.items", "")));
        assert!(contradicts(&table("a.items", ""), &table("carts", "")));
        assert!(!contradicts(&table("items", ""), &table("a.items", "")));
        assert!(contradicts(
            &table("items", "a.items"),
            &table("items", "b.items")
        ));
        assert!(!contradicts(
            &table("items", "a.items"),
            &table("a.items", "a.items")
        ));
    }
}
