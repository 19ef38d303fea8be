//! One read by id, step by step.
//!
//! 1. Get the entry with one plain command. A row or an absence of this layout and history is a hit, and is returned.
//! 2. Otherwise the caller joins the flight of the key (`flight`). The leader's task does the rest for all callers.
//! 3. The key is empty: take the fill lease. If it is granted, read the database, answer the leader, and fill the key
//!    under the lease.
//! 4. Another loader has the lease: wait to be woken, at most for the entity's wait budget. Then take the lease, or
//!    bypass the cache.
//! 5. A write is under way, the store does not answer, or the key has a pending repair (`repair`): read the database,
//!    and do not fill the key.
//!
//! `load` describes steps 3 to 5.
//!
//! Invariant: a row is filled only under the lease it was loaded under, and only from a fresh read outside any
//! transaction. An error is never stored, and never becomes "does not exist".
//! Invariant: nothing is served from a store that is not known to contain rows of this database (`binding`).
//! Invariant: errors of the store end here. The caller sees only those of the database.
//! Not here: what a load does (`load`), writes (`write`), the rules of a key (`state`), who may share a load (`flight`).

pub(crate) mod flight;
mod load;
pub(crate) mod outcome;
pub(crate) mod turn;

use std::{borrow::Cow, sync::Arc};

use tokio::sync::oneshot;
use tracing::Instrument;

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    protocol::{key::Key, state::Meta},
    read::{
        flight::{Flight, Follower, Joined, LoadResult},
        load::Load,
        outcome::{Origin, Outcome},
    },
    store::{Found, Store, failpoint::Mechanism},
};

/// How often a caller joins another flight because it may not share the result of one, before it reads by itself.
const MAX_SHARED_LOADS: u32 = 4;

/// The next step for a key that could not be served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Take the fill lease. `over`: replace a foreign entry.
    Lease { over: bool },
    /// Drop an unreadable entry, then take the lease.
    Repair,
    /// Wait for another process's load.
    Wait,
    /// Ask the database whether it already has a queued write.
    Settle,
    /// Bypass the cache.
    Bypass,
}

/// The result of a look into the store.
pub(crate) enum LookedUp<E> {
    Served(Outcome<E>),
    Unserved(Next),
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Drops the entry of a row and loads it.
    pub(crate) async fn reload(self: &Arc<Self>, id: Cow<'_, E::Id>) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        self.bind_now().await?;
        let dropped = self.invalidate(&key).await;
        // A flight that is under way may have read the row before this call.
        self.flights.close_current(&key);
        self.miss(key, id.into_owned(), dropped.is_ok()).await
    }

    /// Reads a row, from the cache if possible.
    pub(crate) async fn read(self: &Arc<Self>, id: Cow<'_, E::Id>) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        self.bind_for_read().await?;
        if self.blocks(&key) {
            return Box::pin(self.miss_from(key, id.into_owned(), Next::Bypass)).await;
        }
        let found = self
            .cache
            .store
            .get(&key, self.fingerprint, self.codec.number())
            .await;
        let next = match self.interpret_bound(&key, found).await? {
            LookedUp::Served(outcome) => {
                if outcome.row.is_some() {
                    self.counters.hits.add_one();
                } else {
                    self.counters.negative_hits.add_one();
                }
                return Ok(outcome);
            }
            LookedUp::Unserved(next) => next,
        };
        // Boxed, to keep the future of a hit small.
        Box::pin(self.miss_from(key, id.into_owned(), next)).await
    }

    /// Reads a row that is known not to be cached. `store_answers` says whether to ask the store at all.
    pub(crate) async fn miss(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
        store_answers: bool,
    ) -> Result<Outcome<E>, Error> {
        let next = if store_answers {
            Next::Lease { over: false }
        } else {
            Next::Bypass
        };
        Box::pin(self.miss_from(key, id, next)).await
    }

    async fn miss_from(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
        next: Next,
    ) -> Result<Outcome<E>, Error> {
        self.counters.misses.add_one();
        let mut failed = None;
        for _ in 0..MAX_SHARED_LOADS {
            match self.flights.join(&key) {
                Joined::Leader(flight, before) => {
                    return self.lead(key, id, next, flight, before).await;
                }
                Joined::Follower(follower) => match self.follow(follower).await {
                    Some(Ok(outcome)) => return Ok(outcome),
                    Some(Err(error)) => failed = Some(error),
                    None => failed = None,
                },
            }
        }
        // If the last leader failed, fail too. If writes kept interfering, read alone.
        if let Some(error) = failed {
            return Err(error);
        }
        self.counters.uncached_loads.add_one();
        Ok(Outcome::store_skipped(self.load_alone(key, id).await?))
    }

    /// Reads one row from the database for one caller, and fills nothing.
    pub(crate) async fn load_alone(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
    ) -> Result<Option<Arc<E>>, Error> {
        let flight = Arc::new(Flight::default());
        let loaded = self.run_load(key, id, flight, Load::bypass).await?;
        Ok(loaded.row)
    }

    /// Waits for a flight that another caller leads. Returns `None` if this caller may not share its result.
    async fn follow(&self, follower: Follower<E>) -> Option<Result<Outcome<E>, Error>> {
        let joined_at = follower.joined_at();
        match follower.result().await? {
            LoadResult::Failed(error) => Some(Err(error)),
            LoadResult::Shared { outcome, below }
                if joined_at < below || self.cache.store.disables(Mechanism::AcceptedFill) =>
            {
                self.counters.coalesced.add_one();
                let origin = match outcome.origin {
                    Origin::Cache => Origin::Cache,
                    Origin::Database | Origin::Shared => Origin::Shared,
                };
                Some(Ok(Outcome { origin, ..outcome }))
            }
            LoadResult::Shared { .. } => None,
        }
    }

    /// Runs a flight, and returns as soon as the row is loaded, before the fill.
    async fn lead(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
        next: Next,
        flight: Arc<Flight<E>>,
        before: Option<Follower<E>>,
    ) -> Result<Outcome<E>, Error> {
        let run = move |mut load: Load<E, DB>| async move {
            if let Some(before) = before
                && !load.comes_after(before).await
            {
                return;
            }
            load.run(next).await;
        };
        self.run_load(key, id, flight, run).await
    }

    /// Runs a load in a task of its own, which ends early only if all callers have left before its statement is sent.
    async fn run_load<F>(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
        flight: Arc<Flight<E>>,
        run: impl FnOnce(Load<E, DB>) -> F,
    ) -> Result<Outcome<E>, Error>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (early, row) = oneshot::channel();
        let described = self.describe_row(&key);
        let load = Load::new(Arc::clone(self), key, id, flight, early);
        tokio::spawn(run(load).in_current_span());
        row.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::TaskFailed,
                format!("failed to load {described}: its task panicked or its runtime shut down"),
            ))
        })
    }

    /// Returns whether a key must be neither served nor filled, because an invalidation of it is not delivered yet.
    #[inline]
    pub(crate) fn blocks(&self, key: &Key) -> bool {
        let denied = self.cache.repairs.blocks(key);
        if denied {
            self.counters.blocked_reads.add_one();
        }
        denied
    }

    /// As [`Context::interpret`], but binds the repository first if the reply contains a row. Fails if the namespace
    /// belongs to another database.
    #[inline]
    pub(crate) async fn interpret_bound(
        &self,
        key: &Key,
        answer: Result<Found, StoreError>,
    ) -> Result<LookedUp<E>, Error> {
        let tells_of_a_row = matches!(
            answer,
            Ok(Found::Value(..) | Found::Negative(_) | Found::StalePending)
        );
        if tells_of_a_row && !self.is_servable() {
            self.bind_now().await?;
        }
        Ok(self.interpret(key, answer))
    }

    /// Decides what a reply of the store means for a read. Failures of the store are counted here. They are logged once
    /// when they begin and once when they end, not for each read.
    pub(crate) fn interpret(&self, key: &Key, answer: Result<Found, StoreError>) -> LookedUp<E> {
        let Ok(found) = answer else {
            self.counters.store_errors.add_one();
            return LookedUp::Unserved(Next::Bypass);
        };
        match found {
            // The key was marked for repair while the reply was on its way, or the repository is not bound on this
            // connection.
            Found::Value(..) | Found::Negative(_) if !self.is_servable() || self.blocks(key) => {
                LookedUp::Unserved(Next::Bypass)
            }
            Found::Value(meta, payload) => match self.decode_payload(payload) {
                Some(row) => LookedUp::Served(self.cached(Some(row), meta)),
                None => {
                    self.counters.corrupt_entries.add_one();
                    LookedUp::Unserved(Next::Repair)
                }
            },
            Found::Negative(meta) => LookedUp::Served(self.cached(None, meta)),
            Found::Absent => LookedUp::Unserved(Next::Lease { over: false }),
            Found::Foreign { damaged } => {
                if damaged {
                    self.counters.corrupt_entries.add_one();
                } else {
                    self.counters.incompatible_entries.add_one();
                }
                LookedUp::Unserved(Next::Lease { over: true })
            }
            Found::Loading => LookedUp::Unserved(Next::Wait),
            Found::Writing => LookedUp::Unserved(Next::Bypass),
            Found::StalePending => LookedUp::Unserved(Next::Settle),
        }
    }

    pub(crate) fn cached(&self, row: Option<Arc<E>>, meta: Meta) -> Outcome<E> {
        Outcome {
            row,
            origin: Origin::Cache,
            age: self.cache.clock.age(meta.loaded_at_ms),
            store_was_skipped: false,
        }
    }
}
