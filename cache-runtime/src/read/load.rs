//! One load: what the task of a flight does, from the lease to the fill.
//!
//! 1. Take the fill lease, or wait for somebody else's, or go past the cache; at most so many steps, and waiting is bounded
//!    by the entity's wait budget.
//! 2. Under the lease: read the database, close the flight to newcomers, answer the leader, store the row, land.
//! 3. Past the cache: seal the flight, read the database, land.
//!
//! Invariant: every lease that was granted is filled, given back, or left to expire because the store failed.
//! Invariant: whatever becomes of the task, nobody boards a flight that will not land.
//! Not here: who may share what it brings (`flight`), and the callers (`read`).

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::{
    clock::{Deadline, millis},
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, StoreError},
    protocol::{
        key::Key,
        state::{Lease, Meta},
        token::Token,
        token::random_share,
    },
    read::{
        Judged, Next,
        flight::{ALL, Flight, Landing},
        outcome::Outcome,
    },
    store::{Filling, Found, Store},
};

/// How many steps a load may take before it goes past the cache; more can only be a store that contradicts itself.
const MOST_STEPS: u32 = 16;
/// How long the absence of a row is kept for a queued write that demands it, where reads do not want it kept.
const SHORT_ABSENCE: Duration = Duration::from_secs(1);

/// One load, from the first look at the store to the fill.
pub(crate) struct Load<E: Entity, DB: Backend> {
    repository: Arc<Context<E, DB>>,
    key: Key,
    id: E::Id,
    flight: Arc<Flight<E>>,
    /// The leader's own answer, sent before the fill.
    early: Option<oneshot::Sender<Result<Outcome<E>, Error>>>,
    /// When waiting for other processes ends.
    deadline: Option<Deadline>,
}

/// Whatever becomes of the task, nobody boards a flight that will not land.
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
            early: Some(early),
            deadline: None,
        }
    }

    /// Flies to the end: the leader is answered as soon as there is an answer, everybody who joined when the flight lands.
    pub(crate) async fn run(mut self, mut next: Next) {
        for _ in 0..MOST_STEPS {
            let mark = self.flight.mark();
            if !matches!(next, Next::Bypass) && self.repository.denies(&self.key) {
                break;
            }
            let judged = match next {
                Next::Lease { over } => match self.take_lease(over).await {
                    Ok(lease) => return self.load_under(lease).await,
                    Err(answer) => self.repository.judge_bound(&self.key, answer).await,
                },
                Next::Repair => {
                    let repaired = self.repository.cache.store.invalidate(&self.key).await;
                    let answer = repaired.map(|()| Found::Absent);
                    self.repository.judge_bound(&self.key, answer).await
                }
                Next::Wait => self.wait().await,
                Next::Settle => self.repository.judge_unsettled(&self.key).await,
                Next::Bypass => break,
            };
            match judged {
                Err(error) => return self.land(Landing::Failed(error)),
                Ok(Judged::Served(outcome)) => {
                    self.repository.counters.late_hits.add_one();
                    return self.land(Landing::Shared {
                        outcome,
                        below: mark,
                    });
                }
                Ok(Judged::Unserved(then)) => next = then,
            }
        }
        self.bypass().await;
    }

    /// Asks for the lease. What is there instead, if it is not granted.
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
                self.repository.partition(&self.key),
            )
            .await
        {
            Ok(None) => Ok(lease),
            Ok(Some(found)) => Err(Ok(found)),
            Err(error) => {
                // The command may have been carried out although its answer did not come.
                self.abandon(lease);
                Err(Err(error))
            }
        }
    }

    /// Waits until the load of another process ends, or the wait budget does.
    async fn wait(&mut self) -> Result<Judged<E>, Error> {
        let repository = &self.repository;
        let budget = repository.policy.lease_wait;
        let deadline = *self.deadline.get_or_insert_with(|| Deadline::after(budget));
        if deadline.has_passed() {
            return Ok(Judged::Unserved(Next::Bypass));
        }
        repository.counters.waits.add_one();
        // Listening begins before the store is asked, so that news in between is not lost.
        let listener = repository.cache.store.wakeups().listen(&self.key);
        match repository
            .cache
            .store
            .wait(&self.key, repository.identity())
            .await
        {
            Ok(Some(found)) => repository.judge_bound(&self.key, Ok(found)).await,
            Err(error) => repository.judge_bound(&self.key, Err(error)).await,
            // Woken or out of time, look again: it takes the lease if the other one is gone.
            Ok(None) => {
                deadline.bound(listener.woken()).await;
                Ok(Judged::Unserved(Next::Lease { over: false }))
            }
        }
    }

    /// Reads the database with the right to store what it finds.
    async fn load_under(mut self, lease: Lease) {
        let began_us = self.repository.cache.clock.now_us();
        let loaded = self
            .repository
            .load(&self.key, &self.id, || self.flight.mark())
            .await;
        let (mark, row) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Others may try at once; an error is not "does not exist".
                self.release(lease).await;
                return self.land(Landing::Failed(error));
            }
        };
        let outcome = Outcome::fresh(row);
        // Whoever asks from here on may ask after a write that follows the fill, so nobody joins any more.
        self.close();
        self.answer(Ok(outcome.clone()));
        let cost_us = self
            .repository
            .cache
            .clock
            .now_us()
            .saturating_sub(began_us);
        let meta = Meta {
            lease,
            loaded_at_ms: self.repository.cache.clock.wall_ms(),
            load_cost_us: u32::try_from(cost_us).unwrap_or(u32::MAX),
            version: 0,
        };
        // Looked at after the flight was closed: if a write was remembered before somebody joined, then either its key is
        // still denied, or its repair has ended the lease.
        let denied = self.repository.denies(&self.key);
        let filling = if denied {
            None
        } else {
            self.repository
                .filling(&self.key, outcome.row.as_ref(), meta)
        };
        // A lease that was still current when it was given back proves as much as an accepted fill.
        let accepted = match filling {
            Some((filling, ttl)) => self.fill(filling, ttl, lease).await,
            None => self.release(lease).await,
        };
        let below = if accepted && !denied { ALL } else { mark };
        self.land(Landing::Shared { outcome, below });
    }

    async fn fill(&self, filling: Filling, ttl: Duration, lease: Lease) -> bool {
        let repository = &self.repository;
        let lease_ttl_ms = millis(repository.policy.lease_ttl);
        match repository
            .cache
            .store
            .fill(&self.key, filling, millis(ttl).max(1), lease_ttl_ms)
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

    /// Gives the lease back. Whether it was still the current one.
    async fn release(&self, lease: Lease) -> bool {
        let store = &self.repository.cache.store;
        store.release(&self.key, lease).await.unwrap_or_else(|_| {
            self.repository.counters.store_errors.add_one();
            false
        })
    }

    /// Gives a lease back that may or may not have been granted, without waiting for a store that has just failed.
    fn abandon(&self, lease: Lease) {
        let (repository, key) = (Arc::clone(&self.repository), self.key.clone());
        tokio::spawn(async move {
            // If this fails as well the lease expires.
            let _released = repository.cache.store.release(&key, lease).await;
        });
    }

    /// Reads the database and stores nothing.
    async fn bypass(self) {
        self.repository.counters.bypasses.add_one();
        let (flights, flight) = (&self.repository.flights, &self.flight);
        let loaded = self
            .repository
            .load(&self.key, &self.id, || {
                flights.seal(&self.key, flight);
                flight.mark()
            })
            .await;
        let landing = match loaded {
            Ok((below, row)) => Landing::Shared {
                outcome: Outcome::past_store(row),
                below,
            },
            Err(error) => Landing::Failed(error),
        };
        self.land(landing);
    }

    fn close(&self) {
        self.repository.flights.close(&self.key, &self.flight);
    }

    fn answer(&mut self, answer: Result<Outcome<E>, Error>) {
        if let Some(early) = self.early.take() {
            // A leader that has gone needs no answer.
            let _gone = early.send(answer);
        }
    }

    /// Ends the flight for everybody who has not been answered.
    fn land(mut self, landing: Landing<E>) {
        self.close();
        self.answer(match &landing {
            Landing::Shared { outcome, .. } => Ok(outcome.clone()),
            Landing::Failed(error) => Err(error.clone()),
        });
        self.flight.land(landing);
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// What to store at a key for its row or its absence, and for how long; nothing if it must not be stored.
    pub(crate) fn filling(
        &self,
        key: &Key,
        row: Option<&Arc<E>>,
        meta: Meta,
    ) -> Option<(Filling, Duration)> {
        // What it is stored in must be known to hold rows of this database and table.
        if !self.is_bound() {
            return None;
        }
        match row {
            Some(row) => {
                // The database may call two spellings equal; under this key only this spelling would be invalidated.
                if self.key(&row.id()).ok()? != *key {
                    return None;
                }
                let payload = self.encode_payload(row)?;
                let ttl = self.jittered_ttl(lease_bits(meta.lease));
                Some((Filling::Value(meta, payload), ttl))
            }
            None => {
                let shortly = self.queue.is_some().then_some(SHORT_ABSENCE);
                let ttl = self.policy.negative_ttl.or(shortly);
                ttl.map(|ttl| (Filling::Negative(meta), ttl))
            }
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// The time to live of a row, less a share that the seed decides.
    pub(crate) fn jittered_ttl(&self, seed: u64) -> Duration {
        let share = self.policy.jitter * random_share(seed);
        self.policy.ttl.mul_f64(1.0 - share)
    }
}

fn lease_bits(lease: Lease) -> u64 {
    let (_, number) = lease.token.0.split_at(8);
    u64::from_be_bytes(number.try_into().expect("a token is twice eight bytes"))
}
