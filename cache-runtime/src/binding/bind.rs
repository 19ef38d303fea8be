//! Binding a repository: the steps before its first operation, and again after each new connection to the store.
//!
//! Not here: what is compared (`identity`), and what this process remembers (`ledger`).

use std::sync::{Arc, atomic::Ordering};

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    binding::{Bond, Bound, Member, Mismatch, Other, Seen, Table, Verdict, prober},
    cache,
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, StoreError},
    protocol::{
        claim::{Claim, InForce},
        partition::Partition,
    },
    store::Store,
};

/// How often a binding that changes meanwhile is looked at again.
const MOST_RIVALS: usize = 100;
/// What no binding is: nothing is bound by whoever asks with it.
const LOOK: &str = "?";

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

impl<E: Entity, DB: Backend> Member for Context<E, DB> {
    fn unbind(&self) {
        self.bond.run.store(0, Ordering::Release);
        self.bond.provisional.store(0, Ordering::Release);
        if let Some(queue) = &self.queue {
            queue.unverify();
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
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
    /// ([`Context::bind_within`]), and a hit before it is served ([`Context::bind_now`]).
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

    /// As [`Context::bind_for_write`], by a load or a transaction, which have a connection and must not wait for another one.
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
