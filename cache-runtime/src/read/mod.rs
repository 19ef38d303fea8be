//! One read by id, step by step.
//!
//! 1. Look: one plain get. A value or an absence of this layout and history is served; that is the whole of a hit.
//! 2. Anything else boards the key's flight (`flight`); the leader's task does the rest for all.
//! 3. Nothing there: take the fill lease. Granted: read the database, hand the row to the leader, store it under the lease.
//! 4. Somebody else's lease: wait to be woken, at most the entity's wait budget, then take the lease or read past it.
//! 5. A write under way, a store that does not answer, or a key that awaits its repair (`repair`): read the database and
//!    store nothing.
//!
//! Steps 3 to 5 are told in `load`.
//!
//! Invariant: a row is stored only by `fill` under the lease it was loaded under, and never by anything but a fresh read
//! outside any transaction. An error is never stored, and never becomes "does not exist".
//! Invariant: nothing is served from a store that is not known to hold rows of this database (`binding`).
//! Invariant: the store's errors end here; the caller sees the database's only.
//! Not here: what a load does (`load`), writes (`write`), the rules of a key (`state`), who may share a load (`flight`).

pub(crate) mod flight;
mod load;
pub(crate) mod outcome;

use std::{borrow::Cow, sync::Arc};

use tokio::sync::oneshot;
use tracing::Instrument;

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    context::{Context, to_its_end},
    database::{self, Fate, backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    protocol::{key::Key, state::Meta},
    read::{
        flight::{Boarding, Flight, Landing, Passenger},
        load::Load,
        outcome::{Origin, Outcome},
    },
    store::{Found, Store},
};

/// How often a caller boards again because it may not share what a flight brought, before it reads by itself.
const MOST_FLIGHTS: u32 = 4;

/// What to do about a key that could not be served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Take the fill lease, over what is there if that is foreign.
    Lease { over: bool },
    /// Drop bytes that nobody can read, then take the lease.
    Repair,
    /// Wait for somebody else's load.
    Wait,
    /// Ask the database whether it has a queued write already.
    Settle,
    /// Read past the cache.
    Bypass,
}

/// What a look at the store came to.
pub(crate) enum Judged<E> {
    Served(Outcome<E>),
    Unserved(Next),
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Loads a row anew, whatever the cache holds.
    pub(crate) async fn reload(self: &Arc<Self>, id: Cow<'_, E::Id>) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        self.bind_now().await?;
        let dropped = self.invalidate(&key).await;
        // A flight that is under way may have read the row before this call.
        self.flights.close_current(&key);
        self.miss(key, id.into_owned(), dropped.is_ok()).await
    }

    /// Reads a row, from the cache if it can be.
    pub(crate) async fn read(self: &Arc<Self>, id: Cow<'_, E::Id>) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        self.bind_for_read().await?;
        if self.denies(&key) {
            return Box::pin(self.miss_from(key, id.into_owned(), Next::Bypass)).await;
        }
        let found = self
            .cache
            .store
            .get(&key, self.fingerprint, self.codec.number())
            .await;
        let next = match self.judge_bound(&key, found).await? {
            Judged::Served(outcome) => {
                if outcome.row.is_some() {
                    self.counters.hits.add_one();
                } else {
                    self.counters.negative_hits.add_one();
                }
                return Ok(outcome);
            }
            Judged::Unserved(next) => next,
        };
        // Boxed, so that a hit carries no room for a miss.
        Box::pin(self.miss_from(key, id.into_owned(), next)).await
    }

    /// Reads a row that the cache is known not to hold; `store_answers` says whether to ask the store at all.
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

    /// Reads one row from the database. The only way a read reaches it, and so the place where it is protected: only so many
    /// loads wait for a connection or run at the same time, whether they fill the cache or go past it. The mark is drawn
    /// when there is a connection, just before the statement is sent.
    pub(crate) async fn load<M>(
        &self,
        key: &Key,
        id: &E::Id,
        mark: impl FnOnce() -> M + Send,
    ) -> Result<(M, Option<Arc<E>>), Error> {
        let loaded = async {
            let permit = self.loading.acquire().await;
            let _permit = permit.expect("the semaphore is never closed");
            self.counters.loads.add_one();
            let failed = |error| database::describe("load", &self.what(key), error, Fate::Nothing);
            let mut connection = self.database.acquire().await.map_err(failed)?;
            self.bind_within(&mut connection).await?;
            let mark = mark();
            let row = self.database.select(&mut connection, id).await;
            Ok((mark, row.map_err(failed)?.map(Arc::new)))
        };
        loaded
            .await
            .inspect_err(|_| self.counters.load_errors.add_one())
    }

    async fn miss_from(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
        next: Next,
    ) -> Result<Outcome<E>, Error> {
        self.counters.misses.add_one();
        let mut failed = None;
        for _ in 0..MOST_FLIGHTS {
            match self.flights.board(&key) {
                Boarding::Leader(flight, before) => {
                    return self.lead(key, id, next, flight, before).await;
                }
                Boarding::Follower(passenger) => match self.follow(passenger).await {
                    Some(Ok(outcome)) => return Ok(outcome),
                    Some(Err(error)) => failed = Some(error),
                    None => failed = None,
                },
            }
        }
        // Failed with the last leader: so does this caller. Outrun by writes: read alone.
        if let Some(error) = failed {
            return Err(error);
        }
        self.counters.bypasses.add_one();
        Ok(Outcome::past_store(self.load_alone(key, id).await?))
    }

    /// Reads one row from the database for one caller, who may leave.
    pub(crate) async fn load_alone(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
    ) -> Result<Option<Arc<E>>, Error> {
        let inner = Arc::clone(self);
        let loaded = async move { inner.load(&key, &id, || ()).await };
        let ((), row) = to_its_end::<E, _>("load", loaded).await?;
        Ok(row)
    }

    /// Waits for a flight that somebody else leads. Nothing if its result is not for this caller.
    async fn follow(&self, passenger: Passenger<E>) -> Option<Result<Outcome<E>, Error>> {
        let joined_at = passenger.joined_at();
        match passenger.landed().await? {
            Landing::Failed(error) => Some(Err(error)),
            Landing::Shared { outcome, below } if joined_at < below || self.shares_everything() => {
                self.counters.shared.add_one();
                let origin = match outcome.origin {
                    Origin::Cache => Origin::Cache,
                    Origin::Database | Origin::Shared => Origin::Shared,
                };
                Some(Ok(Outcome { origin, ..outcome }))
            }
            Landing::Shared { .. } => None,
        }
    }

    /// Runs the flight in a task of its own, and returns as soon as the row is there; storing it is not waited for.
    async fn lead(
        self: &Arc<Self>,
        key: Key,
        id: E::Id,
        next: Next,
        flight: Arc<Flight<E>>,
        before: Option<Passenger<E>>,
    ) -> Result<Outcome<E>, Error> {
        let (early, row) = oneshot::channel();
        let what = self.what(&key);
        let load = Load::new(Arc::clone(self), key, id, flight, early);
        let flown = async move {
            if let Some(before) = before {
                // However it ended: what counts is that one statement follows the other.
                before.landed().await;
            }
            load.run(next).await;
        };
        tokio::spawn(flown.in_current_span());
        row.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Aborted,
                format!("failed to load {what}: the task was stopped half-way"),
            ))
        })
    }

    /// Whether nothing may be served from a key or stored at it, because the store has not been told about a write yet.
    #[inline]
    pub(crate) fn denies(&self, key: &Key) -> bool {
        let denied = self.cache.repairs.denies(key);
        if denied {
            self.counters.denied.add_one();
        }
        denied
    }

    /// As [`Context::judge`], once it is known whose rows the store holds, where that makes a difference. Fails if they are
    /// another database's.
    #[inline]
    pub(crate) async fn judge_bound(
        &self,
        key: &Key,
        answer: Result<Found, StoreError>,
    ) -> Result<Judged<E>, Error> {
        let tells_of_a_row = matches!(
            answer,
            Ok(Found::Value(..) | Found::Negative(_) | Found::Unsettled)
        );
        if tells_of_a_row && !self.is_servable() {
            self.bind_now().await?;
        }
        Ok(self.judge(key, answer))
    }

    /// Decides what an answer of the store means for a read. The store's failures are counted here and reported where they
    /// begin and end, not once for each read.
    pub(crate) fn judge(&self, key: &Key, answer: Result<Found, StoreError>) -> Judged<E> {
        let Ok(found) = answer else {
            self.counters.store_errors.add_one();
            return Judged::Unserved(Next::Bypass);
        };
        match found {
            // Remembered while the answer was on its way, or come over a connection on which nobody has asked whose it is.
            Found::Value(..) | Found::Negative(_) if !self.is_servable() || self.denies(key) => {
                Judged::Unserved(Next::Bypass)
            }
            Found::Value(meta, payload) => match self.decode_payload(payload) {
                Some(row) => Judged::Served(self.cached(Some(row), meta)),
                None => {
                    self.counters.undecodable.add_one();
                    Judged::Unserved(Next::Repair)
                }
            },
            Found::Negative(meta) => Judged::Served(self.cached(None, meta)),
            Found::Absent => Judged::Unserved(Next::Lease { over: false }),
            Found::Foreign { damaged } => {
                if damaged {
                    self.counters.undecodable.add_one();
                } else {
                    self.counters.foreign.add_one();
                }
                Judged::Unserved(Next::Lease { over: true })
            }
            Found::Loading => Judged::Unserved(Next::Wait),
            Found::Writing => Judged::Unserved(Next::Bypass),
            Found::Unsettled => Judged::Unserved(Next::Settle),
        }
    }

    pub(crate) fn cached(&self, row: Option<Arc<E>>, meta: Meta) -> Outcome<E> {
        Outcome {
            row,
            origin: Origin::Cache,
            age: self.cache.clock.age(meta.loaded_at_ms),
            is_past_store: false,
        }
    }

    /// Whether the rule about sharing is left out, for the test that shows it is needed.
    fn shares_everything(&self) -> bool {
        #[cfg(feature = "test-util")]
        return self.cache.store.is_left_out(Mechanism::AcceptedFill);
        #[cfg(not(feature = "test-util"))]
        return false;
    }
}
