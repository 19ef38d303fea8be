//! Binding a repository: the steps before its first operation, and again after each new connection to the store.
//!
//! Not here: what is compared (`identity`), and what this process remembers (`ledger`).

use std::sync::{Arc, atomic::Ordering};

#[cfg(any(feature = "metrics", feature = "redis"))]
use futures_util::future::BoxFuture;
#[cfg(feature = "redis")]
use futures_util::{FutureExt, future};

#[cfg(feature = "metrics")]
use crate::observe::survey::Survey;
use crate::{
    binding::{Bond, Bound, Member, Mismatch, Other, Seen, Table, Verdict, prober},
    context::Context,
    database::{
        backend::Backend,
        entity::{Entity, EntitySpec},
    },
    error::{Error, StoreError},
    pause::Pauses,
    protocol::{
        claim::{Claim, InForce, LOOK},
        family::{Family, READ_FOR},
        partition_keys::PartitionKeys,
    },
    stats::Stats,
    store::{Store, failpoint::Mechanism},
};
#[cfg(feature = "redis")]
use crate::{
    error::ErrorKind,
    observe::audit::{Audit, AuditOptions},
    protocol::listing::ListedEntity,
};

/// How often a claim is retried if other processes change the binding at the same time.
const MAX_RIVALS: usize = 100;

/// The operation that asks the database.
enum Asking<'c, DB: Backend> {
    /// A read, which waits only for a short time.
    Read,
    /// A write or an operation on a queue, which needs the answer.
    Write,
    /// A load or a transaction, on its own connection.
    Within(&'c mut DB::Connection),
}

/// The result of a claim.
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
    /// The database does not answer in the time that a read waits.
    Away,
    Failed(Error),
}

impl<E: Entity, DB: Backend> Member for Context<E, DB> {
    fn spec(&self) -> EntitySpec {
        E::SPEC
    }

    fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    fn is_held(&self) -> bool {
        Self::is_held(self)
    }

    fn refusal(&self) -> Option<String> {
        self.bond.refusal()
    }

    #[cfg(feature = "metrics")]
    fn prefix(&self) -> Vec<u8> {
        self.keys.prefix().to_vec()
    }

    #[cfg(feature = "metrics")]
    fn survey(&self) -> BoxFuture<'_, Survey> {
        Box::pin(Self::survey(self))
    }

    #[cfg(feature = "redis")]
    fn audit(self: Arc<Self>, options: AuditOptions) -> BoxFuture<'static, Result<Audit, Error>> {
        Box::pin(async move { Self::audit(&self, options).await })
    }

    #[cfg(feature = "redis")]
    fn queue(&self) -> Option<Arc<str>> {
        Some(Arc::clone(&self.queue.as_ref()?.name))
    }

    #[cfg(feature = "redis")]
    fn replay(self: Arc<Self>, place: (u16, u64, u64)) -> BoxFuture<'static, Result<(), Error>> {
        match Self::QUEUES {
            true => async move { self.replay_from_outside(place).await }.boxed(),
            false => {
                let name = E::SPEC.name;
                let why =
                    format!("failed to replay a dead letter of {name}: its writes are not queued");
                future::err(Error::new(ErrorKind::NotFound, why)).boxed()
            }
        }
    }

    #[cfg(feature = "redis")]
    fn listed(&self) -> ListedEntity {
        Self::listed(self)
    }

    fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    fn unbind(&self) {
        self.bond.bound_in.store(0, Ordering::Release);
        self.bond.provisional.store(0, Ordering::Release);
        self.groups.family.forget();
        if let Some(queue) = &self.queue {
            queue.unverify();
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns whether an operation may begin now without asking the store first.
    #[inline]
    pub(crate) fn is_bound(&self) -> bool {
        self.bond.holds(self.cache.store.connection_number()) && self.knows_family()
    }

    /// Returns whether rows may be stored now.
    #[inline]
    pub(crate) fn is_fillable(&self) -> bool {
        self.bond.holds(self.cache.store.connection_number()) && !self.is_held()
    }

    /// Returns whether rows may be served now.
    #[inline]
    pub(crate) fn is_servable(&self) -> bool {
        let is_provisional = || {
            self.bond.provisional.load(Ordering::Acquire)
                == self.cache.store.connection_number() + 1
        };
        (self.is_bound() || is_provisional()) && !self.is_held()
    }

    /// Returns whether the last answer of the store about the entities over the table is still good.
    #[inline]
    pub(crate) fn knows_family(&self) -> bool {
        let read_until = self.bond.read_until.load(Ordering::Acquire);
        match self.cache.store.family_changes() {
            Some(changes) => read_until == changes + 1,
            None => self.cache.clock.latest_us() < read_until,
        }
    }

    /// Returns whether a writer of another entity over the table may not know of this one.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        let until = self.groups.family.held_until();
        until > 0 && (until == u64::MAX || self.cache.clock.now_us() < until)
    }

    /// Asks the store for the other entities over the table, during a write. If it cannot be asked, it is asked before the next
    /// one.
    pub(crate) async fn look_for_family(&self) {
        if self.cache.store.disables(Mechanism::Binding) {
            return;
        }
        let asked_at_us = self.cache.clock.now_us();
        match self.look_at_binding().await {
            Ok(held) => self
                .groups
                .family
                .learn(&self.cache, &held.family, asked_at_us),
            Err(_) => self.groups.family.note_missed(),
        }
    }

    /// Reads the binding and changes nothing.
    async fn look_at_binding(&self) -> Result<InForce, StoreError> {
        if !self.cache.store.is_available() {
            return Err(StoreError::new(
                "the store cannot be reached, so the binding of the namespace is unknown",
            ));
        }
        let table = self.bond.known_table();
        self.claim_in_store(&Claim {
            namespace: &self.bond.namespace,
            seen: LOOK,
            leave: LOOK,
            entity: self.bond.entity,
            table: table.name(),
            shape: self.groups.family.text(),
            is_forced: false,
        })
        .await
    }

    /// Records an answer of the store about the entities over the table. `asked_at_us`: when it was asked.
    fn note_family(&self, family: &Family, asked_at_us: u64) {
        self.groups.family.learn(&self.cache, family, asked_at_us);
        let until = match self.cache.store.family_changes() {
            Some(_) => family.changes + 1,
            None => asked_at_us + crate::clock::micros(READ_FOR),
        };
        self.bond.read_until.store(until, Ordering::Release);
    }

    /// Binds the repository before a read, if the database is identified already. If not, a load identifies it on its
    /// own connection ([`Context::bind_within`]), and a hit does so before it is served ([`Context::bind_now`]).
    #[inline]
    pub(crate) async fn bind_for_read(&self) -> Result<(), Error> {
        if self.is_bound() || !self.bond.prober.is_known() {
            return Ok(());
        }
        self.bind_now().await
    }

    /// Binds the repository before a row is served, or before an operation on the store alone. Fails if the namespace
    /// belongs to another database. If that is unknown, the caller bypasses the store.
    #[inline]
    pub(crate) async fn bind_now(&self) -> Result<(), Error> {
        if self.is_bound() {
            return Ok(());
        }
        without_store(Box::pin(self.bind(Asking::Read)).await)
    }

    /// Binds the repository before a write. Fails if the namespace belongs to another database, or the database does
    /// not answer. Without a store, the write is executed as in any outage.
    #[inline]
    pub(crate) async fn bind_for_write(&self) -> Result<(), Error> {
        if self.is_bound() {
            return Ok(());
        }
        without_store(Box::pin(self.bind(Asking::Write)).await)
    }

    /// As [`Context::bind_for_write`], for a load or a transaction, which have a connection and must not wait for
    /// another.
    #[inline]
    pub(crate) async fn bind_within(&self, connection: &mut DB::Connection) -> Result<(), Error> {
        if self.is_bound() {
            return Ok(());
        }
        without_store(Box::pin(self.bind(Asking::Within(connection))).await)
    }

    /// Binds the repository before an operation on its queue, which needs the store.
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
        if store.disables(Mechanism::Binding) {
            let until = store
                .family_changes()
                .map_or(u64::MAX, |changes| changes + 1);
            self.bond.read_until.store(until, Ordering::Release);
            self.bond
                .bound_in
                .store(store.connection_number() + 1, Ordering::Release);
            return Ok(());
        }
        if !store.is_available() {
            return Err(Unbound::Store(StoreError::new(
                "the store cannot be reached, so the binding of the namespace is unknown",
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
        // An earlier answer may be outdated: an id was installed, a table was moved, a server was replaced.
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

    /// Claims the namespace for a database and the entity's name for a table, in this process and in the store. Only a
    /// fresh answer of the database (`is_fresh`) proves that it runs on another server than the bound one: an older
    /// answer may come from the former server.
    async fn claim(&self, seen: &Seen, table: &Table, is_fresh: bool) -> Result<Claimed, Unbound> {
        // Many operations may begin at once. Held for round trips to the store, and never while waiting for a
        // connection.
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
        for _ in 0..MAX_RIVALS {
            let asked_at_us = self.cache.clock.now_us();
            let held = self
                .claim_in_store(&Claim {
                    namespace,
                    seen: &before,
                    leave: &leave,
                    entity,
                    table: table.name(),
                    shape: self.groups.family.text(),
                    // A journal that is opened after a rebind is rebound too.
                    is_forced: self.journal().is_some() && rebindings > 0,
                })
                .await
                .map_err(Unbound::Store)?;
            if held.database.is_empty() {
                // The store has lost the binding in the meantime.
                before = String::new();
                leave = Bound::to(seen).encode();
                continue;
            }
            let Some(bound) = Bound::decode(&held.database) else {
                return Err(Unbound::Failed(self.bond.unreadable(&held.database)));
            };
            let merged = match bound.compare(seen) {
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
                if !self.groups.family.is_recorded(&held.family) {
                    // A claim records the entity only if it expects what is bound.
                    before.clone_from(&held.database);
                    leave = held.database;
                    continue;
                }
                let note = || {
                    self.note_family(&held.family, asked_at_us);
                    self.bond.note_bound(held.connection_number);
                };
                if ledger.confirm(namespace, rebindings, note) {
                    return Ok(Claimed::Bound);
                }
                return Err(Unbound::Store(StoreError::new(
                    "`Cache::rebind` was called for the namespace in the meantime; try again",
                )));
            }
            if bound.runs_elsewhere(&merged) && !is_fresh {
                return Ok(Claimed::Outdated);
            }
            before = held.database;
            leave = merged.encode();
        }
        Err(Unbound::Store(StoreError::new(
            "gave up binding the namespace, because other processes kept changing its binding; try again",
        )))
    }

    async fn claim_in_store(&self, claim: &Claim<'_>) -> Result<InForce, StoreError> {
        self.cache.store.bind(claim, self.journal()).await
    }

    /// Returns the partition by which the store finds the journal of the entity, if it has one.
    fn journal(&self) -> Option<&PartitionKeys> {
        let queue = self.queue.as_ref()?;
        let first = queue.partitions.first()?;
        queue.policy.journal.map(|_| &*first.keys)
    }

    /// Allows rows to be served while the database is unreachable, if the binding has the endpoint of the pool.
    async fn bind_provisionally(&self) -> Result<(), Unbound> {
        if self.is_servable() {
            return Err(Unbound::Away);
        }
        let table = self.bond.known_table();
        let (ledger, namespace) = (&self.cache.ledger, &self.bond.namespace);
        let rebindings = ledger.rebindings(namespace);
        let asked_at_us = self.cache.clock.now_us();
        let held = self.look_at_binding().await.map_err(Unbound::Store)?;
        let bound = Bound::decode(&held.database);
        let seen = self.bond.prober.at_first_sight();
        let is_known = bound.is_some_and(|bound| matches!(bound.compare(&seen), Verdict::Same(_)));
        // The name as written, or with the schema in which another process has found the table.
        let is_table = held.table == table.name()
            || held
                .table
                .rsplit_once('.')
                .is_some_and(|(_, name)| name == table.name());
        // Writers announce their writes at recorded entities only.
        if is_known && is_table && self.groups.family.is_recorded(&held.family) {
            let provisional = &self.bond.provisional;
            let note = || {
                let family = &self.groups.family;
                family.learn(&self.cache, &held.family, asked_at_us);
                provisional.store(held.connection_number + 1, Ordering::Release);
            };
            ledger.confirm(namespace, rebindings, note);
        }
        Err(Unbound::Away)
    }
}

impl<DB: Backend> Asking<'_, DB> {
    /// Returns the identity of the database, or `None` if it does not answer a read soon.
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

    /// Returns the table of the entity, with its schema.
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

/// Ignores that the store or the database did not answer.
fn without_store(bound: Result<(), Unbound>) -> Result<(), Error> {
    match bound {
        Ok(()) | Err(Unbound::Store(_) | Unbound::Away) => Ok(()),
        Err(Unbound::Failed(error)) => Err(error),
    }
}
