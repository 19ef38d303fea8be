//! One load: what the task of a flight does, from the lease to the fill.
//!
//! 1. Take the fill lease, or wait for another process's lease, or bypass the cache. The number of steps is limited,
//!    and the entity's wait budget limits the waiting.
//! 2. With the lease: read the database, close the flight, answer the leader, fill the key, and finish the flight.
//! 3. When bypassing the cache: seal the flight, read the database, and finish the flight.
//!
//! If all callers have left before the statement of the load is sent, the load gives up: it releases its lease and ends.
//!
//! Invariant: every granted lease is filled, released, or left to expire because the store failed.
//! Invariant: even if the task panics or is stopped, no caller joins a flight that will not finish.
//! Not here: which callers may share the result (`flight`), and the callers (`read`).

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::{
    clock::{Deadline, millis},
    context::Context,
    database::{self, WriteOutcome, backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    protocol::{
        key::Key,
        state::{Lease, Meta},
        token::Token,
        token::random_fraction_of,
    },
    read::{
        LookedUp, Next,
        flight::{ALL, Flight, Follower, LoadResult},
        outcome::Outcome,
    },
    store::{Fill, Found, Store},
};

/// The maximum number of steps before a load bypasses the cache. Only an inconsistent store needs more.
const MAX_STEPS: u32 = 16;
/// How long an absence is cached for a queued write that needs it, if the entity does not cache absences for reads.
const SHORT_ABSENCE: Duration = Duration::from_secs(1);

/// One load, from the first look at the store to the fill.
pub(crate) struct Load<E: Entity, DB: Backend> {
    repository: Arc<Context<E, DB>>,
    key: Key,
    id: E::Id,
    flight: Arc<Flight<E>>,
    /// The leader's own answer, sent before the fill.
    early: Early<E>,
    /// When the load stops waiting for other processes.
    deadline: Option<Deadline>,
}

/// Sends the leader's answer, once.
struct Early<E>(Option<oneshot::Sender<Result<Outcome<E>, Error>>>);

impl<E> Early<E> {
    /// Waits until the leader needs no answer any more.
    async fn left(&mut self) {
        if let Some(early) = &mut self.0 {
            early.closed().await;
        }
    }

    fn has_left(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn answer(&mut self, answer: Result<Outcome<E>, Error>) {
        if let Some(early) = self.0.take() {
            // If the leader's future was dropped, it needs no answer.
            let _gone = early.send(answer);
        }
    }
}

/// Closes the flight even if the task panics or is stopped, so that no caller joins a flight that will not finish.
impl<E: Entity, DB: Backend> Drop for Load<E, DB> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<E: Entity, DB: Backend> Load<E, DB> {
    pub(crate) fn new(
        repository: Arc<Context<E, DB>>,
        key: Key,
        id: E::Id,
        flight: Arc<Flight<E>>,
        early: oneshot::Sender<Result<Outcome<E>, Error>>,
    ) -> Self {
        Self {
            repository,
            key,
            id,
            flight,
            early: Early(Some(early)),
            deadline: None,
        }
    }

    /// Runs the load. It answers the leader as soon as there is a result, and the followers at the end.
    pub(crate) async fn run(mut self, mut next: Next) {
        for _ in 0..MAX_STEPS {
            let generation = self.flight.next_generation();
            if !matches!(next, Next::Bypass) && self.repository.blocks(&self.key) {
                break;
            }
            let judged = match next {
                Next::Lease { over } => match self.take_lease(over).await {
                    Ok(lease) => return self.load_under(lease).await,
                    Err(answer) => self.repository.interpret_bound(&self.key, answer).await,
                },
                Next::Repair => {
                    let repaired = self.repository.cache.store.invalidate(&self.key).await;
                    let answer = repaired.map(|()| Found::Absent);
                    self.repository.interpret_bound(&self.key, answer).await
                }
                Next::Wait => match self.wait().await {
                    Some(judged) => judged,
                    None => return,
                },
                Next::Settle => self.repository.resolve_stale_pending(&self.key).await,
                Next::Bypass => break,
            };
            match judged {
                Err(error) => return self.finish(LoadResult::Failed(error)),
                Ok(LookedUp::Served(outcome)) => {
                    self.repository.counters.hits_after_wait.add_one();
                    return self.finish(LoadResult::Shared {
                        outcome,
                        below: generation,
                    });
                }
                Ok(LookedUp::Unserved(then)) => next = then,
            }
        }
        self.repository.counters.uncached_loads.add_one();
        self.bypass().await;
    }

    /// Waits for the flight before this one. Returns whether a caller still waits for this one.
    pub(crate) async fn comes_after(&mut self, before: Follower<E>) -> bool {
        // Its result does not matter, only that the statement of this load comes after the earlier one.
        let ended = before.result();
        let repository = &self.repository;
        tokio::select! {
            _result = ended => true,
            () = repository.callers_left(&self.key, &self.flight, &mut self.early) => false,
        }
    }

    /// Asks for the lease. If it is not granted, returns what is at the key instead.
    async fn take_lease(&self, over: bool) -> Result<Lease, Result<Found, StoreError>> {
        let lease = Lease {
            token: Token::draw(),
            identity: self.repository.identity(),
        };
        let lease_ttl_ms = millis(self.repository.policy.lease_ttl);
        let store = &self.repository.cache.store;
        match store
            .acquire(
                &self.key,
                lease,
                lease_ttl_ms,
                over,
                self.repository.partition_keys(&self.key),
            )
            .await
        {
            Ok(None) => Ok(lease),
            Ok(Some(found)) => Err(Ok(found)),
            Err(error) => {
                // The store may have executed the command even though its reply was lost.
                self.abandon(lease);
                Err(Err(error))
            }
        }
    }

    /// Waits until the load of another process ends, or the wait budget does. Returns `None` if all callers left first.
    async fn wait(&mut self) -> Option<Result<LookedUp<E>, Error>> {
        let repository = &self.repository;
        let budget = repository.policy.lease_wait;
        let deadline = *self.deadline.get_or_insert_with(|| Deadline::after(budget));
        if deadline.has_passed() {
            return Some(Ok(LookedUp::Unserved(Next::Bypass)));
        }
        repository.counters.lease_waits.add_one();
        // Listen before asking the store, so that a wake-up in between is not lost.
        let listener = repository.cache.store.wakeups().listen(&self.key);
        match repository
            .cache
            .store
            .wait(&self.key, repository.identity())
            .await
        {
            Ok(Some(found)) => Some(repository.interpret_bound(&self.key, Ok(found)).await),
            Err(error) => Some(repository.interpret_bound(&self.key, Err(error)).await),
            // After a wake-up or a time-out, look again, and take the lease if the other one has ended.
            Ok(None) => {
                tokio::select! {
                    _in_time = deadline.bound(listener.woken()) => {
                        Some(Ok(LookedUp::Unserved(Next::Lease { over: false })))
                    }
                    () = repository.callers_left(&self.key, &self.flight, &mut self.early) => None,
                }
            }
        }
    }

    /// Reads the database under the lease, and fills the key.
    async fn load_under(mut self, lease: Lease) {
        let (repository, flight) = (Arc::clone(&self.repository), Arc::clone(&self.flight));
        let loaded = repository
            .load(&mut self, || flight.next_generation())
            .await;
        let (generation, row) = match loaded {
            Ok(Some(loaded)) => loaded,
            Ok(None) => {
                self.release(lease).await;
                return;
            }
            Err(error) => {
                // Release the lease so that others can try immediately. An error is not "does not exist".
                self.release(lease).await;
                return self.finish(LoadResult::Failed(error));
            }
        };
        let outcome = Outcome::fresh(row);
        // A caller that asks from now on may ask after a write that follows the fill, so no caller may join any more.
        self.close();
        self.early.answer(Ok(outcome.clone()));
        let meta = Meta {
            lease,
            loaded_at_ms: self.repository.cache.clock.wall_ms(),
        };
        // Check after the flight was closed: if a repair was recorded before a caller joined, then either the key is
        // still blocked, or the repair has ended the lease.
        let denied = self.repository.blocks(&self.key);
        let fill = if denied {
            None
        } else {
            self.repository.fill(&self.key, outcome.row.as_ref(), meta)
        };
        // A lease that was still current when it was released proves as much as an accepted fill.
        let accepted = match fill {
            Some((fill, ttl)) => self.fill(fill, ttl, lease).await,
            None => self.release(lease).await,
        };
        let below = if accepted && !denied { ALL } else { generation };
        self.finish(LoadResult::Shared { outcome, below });
    }

    async fn fill(&self, fill: Fill, ttl: Duration, lease: Lease) -> bool {
        let repository = &self.repository;
        let lease_ttl_ms = millis(repository.policy.lease_ttl);
        match repository
            .cache
            .store
            .fill(&self.key, fill, millis(ttl).max(1), lease_ttl_ms)
            .await
        {
            Ok(true) => {
                repository.counters.fills_accepted.add_one();
                true
            }
            Ok(false) => {
                repository.counters.fills_refused.add_one();
                false
            }
            Err(_) => {
                repository.counters.store_errors.add_one();
                self.abandon(lease);
                false
            }
        }
    }

    /// Releases the lease. Returns whether it was still the current one.
    async fn release(&self, lease: Lease) -> bool {
        let store = &self.repository.cache.store;
        store.release(&self.key, lease).await.unwrap_or_else(|_| {
            self.repository.counters.store_errors.add_one();
            false
        })
    }

    /// Releases a lease that may or may not have been granted, without waiting for a store that has just failed.
    fn abandon(&self, lease: Lease) {
        let (repository, key) = (Arc::clone(&self.repository), self.key.clone());
        tokio::spawn(async move {
            // If this fails too, the lease expires.
            let _released = repository.cache.store.release(&key, lease).await;
        });
    }

    /// Reads the database and fills nothing.
    pub(crate) async fn bypass(mut self) {
        let (repository, flight) = (Arc::clone(&self.repository), Arc::clone(&self.flight));
        let key = self.key.clone();
        let loaded = repository
            .load(&mut self, || {
                repository.flights.seal(&key, &flight);
                flight.next_generation()
            })
            .await;
        let result = match loaded {
            Ok(None) => return,
            Ok(Some((below, row))) => LoadResult::Shared {
                outcome: Outcome::store_skipped(row),
                below,
            },
            Err(error) => LoadResult::Failed(error),
        };
        self.finish(result);
    }

    fn close(&self) {
        self.repository.flights.close(&self.key, &self.flight);
    }

    /// Ends the flight, and answers all callers that have no answer yet.
    fn finish(mut self, result: LoadResult<E>) {
        self.close();
        self.early.answer(match &result {
            LoadResult::Shared { outcome, .. } => Ok(outcome.clone()),
            LoadResult::Failed(error) => Err(error.clone()),
        });
        self.flight.finish(result);
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Gives a load up if no caller waits for it: closes its flight, so that none can join. Returns whether it did.
    fn gives_up(&self, key: &Key, flight: &Arc<Flight<E>>, early: &Early<E>) -> bool {
        let gives_up = early.has_left() && self.flights.close_unfollowed(key, flight);
        if gives_up {
            self.counters.abandoned_loads.add_one();
        }
        gives_up
    }

    /// Waits until no caller waits for a load, and gives it up.
    async fn callers_left(&self, key: &Key, flight: &Arc<Flight<E>>, early: &mut Early<E>) {
        early.left().await;
        loop {
            flight.unfollowed().await;
            // A caller may have joined in the meantime.
            if self.gives_up(key, flight, early) {
                return;
            }
        }
    }

    /// Reads one row from the database. All reads come through here, so this is where their number is limited
    /// (`turn`), whether they fill the cache or bypass it. `generation` is called when there is a connection, just
    /// before the statement is sent. Returns `None` if all callers left before that.
    async fn load<M>(
        &self,
        load: &mut Load<E, DB>,
        generation: impl FnOnce() -> M + Send,
    ) -> Result<Option<(M, Option<Arc<E>>)>, Error> {
        let Load {
            key,
            id,
            flight,
            early,
            ..
        } = load;
        let turn = self.turns.take(self.callers_left(key, flight, early)).await;
        let turn = turn.map_err(|full| {
            self.counters.rejected_loads.add_one();
            let row = self.describe_row(key);
            Error::new(
                ErrorKind::Overloaded,
                format!("failed to load {row}: {full}"),
            )
        })?;
        let loaded = async {
            self.counters.loads.add_one();
            let failed = |error| {
                database::describe(
                    "load",
                    &self.describe_row(key),
                    error,
                    WriteOutcome::Nothing,
                )
            };
            let mut connection = self.database.acquire().await.map_err(failed)?;
            if self.gives_up(key, flight, early) {
                return Ok(None);
            }
            self.bind_within(&mut connection).await?;
            let generation = generation();
            let row = self.database.select(&mut connection, id).await;
            Ok(Some((generation, row.map_err(failed)?.map(Arc::new))))
        };
        let Some(_turn) = turn else {
            return Ok(None);
        };
        loaded
            .await
            .inspect_err(|_| self.counters.load_errors.add_one())
    }

    /// Returns what to store at a key for its row or its absence, and for how long. Returns `None` if it must not be
    /// stored.
    pub(crate) fn fill(
        &self,
        key: &Key,
        row: Option<&Arc<E>>,
        meta: Meta,
    ) -> Option<(Fill, Duration)> {
        // The namespace must be bound to this database and table.
        if !self.is_bound() {
            return None;
        }
        match row {
            Some(row) => {
                // The database may treat two spellings of an id as equal. Under this key, only this spelling would be
                // invalidated.
                if self.key(&row.id()).ok()? != *key {
                    return None;
                }
                let payload = self.encode_payload(row)?;
                let ttl = self.jittered_ttl(lease_bits(meta.lease));
                Some((Fill::Value(meta, payload), ttl))
            }
            None => {
                let shortly = self.queue.is_some().then_some(SHORT_ABSENCE);
                let ttl = self.policy.negative_ttl.or(shortly);
                ttl.map(|ttl| (Fill::Negative(meta), ttl))
            }
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns the time to live of a row, minus a random share that depends on the seed.
    pub(crate) fn jittered_ttl(&self, seed: u64) -> Duration {
        let share = self.policy.jitter * random_fraction_of(seed);
        self.policy.ttl.mul_f64(1.0 - share)
    }
}

fn lease_bits(lease: Lease) -> u64 {
    let (_, number) = lease.token.0.split_at(8);
    u64::from_be_bytes(number.try_into().expect("a token is twice eight bytes"))
}
