//! One read by id, step by step.
//!
//! 1. Look: one plain get. A value or an absence of this layout and history is served; that is the whole of a hit.
//! 2. Anything else boards the key's flight (`flight`); the leader's task does the rest for all.
//! 3. Nothing there: take the fill lease. Granted: read the database, hand the row to the leader, store it under the lease.
//! 4. Somebody else's lease: wait to be woken, at most the entity's wait budget, then take the lease or read past it.
//! 5. A write under way, or a store that does not answer: read the database and store nothing.
//!
//! Invariant: a row is stored only by `fill` under the lease it was loaded under, and never by anything but a fresh read
//! outside any transaction. An error is never stored, and never becomes "does not exist".
//! Invariant: the store's errors end here; the caller sees the database's only.
//! Not here: writes (`write`), the rules of a key (`state`), who may share a load (`flight`).

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tracing::Instrument;

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    backend::Backend,
    clock::{Deadline, millis},
    database::{self, Fate},
    entity::Entity,
    error::{Error, ErrorKind, StoreError},
    flight::{ALL, Boarding, Flight, Landing, Passenger},
    key::Key,
    repository::{Inner, Origin, Outcome},
    state::{Lease, Meta},
    store::{Filling, Found, Keeps, Payload, Store},
    token::Token,
};

/// How often a caller boards again because it may not share what a flight brought, before it reads by itself.
const MOST_FLIGHTS: u32 = 4;
/// How many steps a load may take before it goes past the cache; more can only be a store that contradicts itself.
const MOST_STEPS: u32 = 16;

/// What to do about a key that could not be served.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Take the fill lease, over what is there if that is foreign.
    Lease { over: bool },
    /// Drop bytes that nobody can read, then take the lease.
    Repair,
    /// Wait for somebody else's load.
    Wait,
    /// Read past the cache.
    Bypass,
}

/// What a look at the store came to.
enum Judged<E> {
    Served(Outcome<E>),
    Unserved(Next),
}

impl<E: Entity, DB: Backend> Inner<E, DB> {
    /// Reads a row, from the cache if it can be.
    pub(crate) async fn read(self: &Arc<Self>, id: Cow<'_, E::Id>) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        let found = self
            .cache
            .store
            .get(&key, self.fingerprint, self.codec.number())
            .await;
        let next = match self.judge(found) {
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

    /// Reads one row from the database. The only way a read reaches it. The mark is drawn when there is a connection,
    /// just before the statement is sent.
    pub(crate) async fn load<M>(
        &self,
        key: &Key,
        id: &E::Id,
        mark: impl FnOnce() -> M + Send,
    ) -> Result<(M, Option<Arc<E>>), Error> {
        self.counters.loads.add_one();
        let loaded = async {
            let mut connection = self.database.acquire().await?;
            let mark = mark();
            let row = self.database.load(&mut connection, id).await?;
            Ok((mark, row.map(Arc::new)))
        };
        loaded.await.map_err(|error| {
            self.counters.load_errors.add_one();
            database::describe("load", &self.what(key), error, Fate::Nothing)
        })
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
        let (_, row) = self.load(&key, &id, || ()).await?;
        Ok(fresh(row))
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
        let load = Load {
            repository: Arc::clone(self),
            key,
            id,
            flight,
            early: Some(early),
            deadline: None,
        };
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

    /// Decides what an answer of the store means for a read.
    fn judge(&self, answer: Result<Found, StoreError>) -> Judged<E> {
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                self.counters.store_errors.add_one();
                tracing::debug!(entity = E::SPEC.name, %error, "the store failed; reading the database");
                return Judged::Unserved(Next::Bypass);
            }
        };
        match found {
            Found::Value(meta, payload) => match self.open(payload) {
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
        }
    }

    fn cached(&self, row: Option<Arc<E>>, meta: Meta) -> Outcome<E> {
        Outcome {
            row,
            origin: Origin::Cache,
            age: self.cache.clock.age(meta.loaded_at_ms),
        }
    }

    fn open(&self, payload: Payload) -> Option<Arc<E>> {
        match payload {
            Payload::Bytes(bytes, header) => self.codec.decode(&bytes[header..]).ok().map(Arc::new),
            Payload::Shared(row) => row.downcast().ok(),
        }
    }

    fn seal(&self, row: &Arc<E>) -> Option<Payload> {
        match self.cache.store.keeps() {
            Keeps::Rows => Some(Payload::Shared(Arc::clone(row) as _)),
            Keeps::Bytes => match self.codec.encode(&**row) {
                Ok(bytes) => Some(Payload::Bytes(bytes, 0)),
                Err(error) => {
                    tracing::warn!(entity = E::SPEC.name, %error, "the codec cannot carry this row; it stays uncached");
                    None
                }
            },
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

/// One load, from the first look at the store to the fill.
struct Load<E: Entity, DB: Backend> {
    repository: Arc<Inner<E, DB>>,
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
    async fn run(mut self, mut next: Next) {
        for _ in 0..MOST_STEPS {
            let mark = self.flight.mark();
            let judged = match next {
                Next::Lease { over } => match self.take_lease(over).await {
                    Ok(lease) => return self.load_under(lease).await,
                    Err(judged) => judged,
                },
                Next::Repair => {
                    let repaired = self.repository.cache.store.invalidate(&self.key).await;
                    self.repository.judge(repaired.map(|()| Found::Absent))
                }
                Next::Wait => self.wait().await,
                Next::Bypass => break,
            };
            match judged {
                Judged::Served(outcome) => {
                    self.repository.counters.late_hits.add_one();
                    return self.land(Landing::Shared {
                        outcome,
                        below: mark,
                    });
                }
                Judged::Unserved(then) => next = then,
            }
        }
        self.bypass().await;
    }

    /// Asks for the lease. What is there instead, if it is not granted.
    async fn take_lease(&self, over: bool) -> Result<Lease, Judged<E>> {
        let lease = Lease {
            token: Token::draw(),
            identity: self.repository.identity(),
        };
        let lease_ttl_ms = millis(self.repository.policy.lease_ttl);
        let store = &self.repository.cache.store;
        match store.acquire(&self.key, lease, lease_ttl_ms, over).await {
            Ok(None) => Ok(lease),
            Ok(Some(found)) => Err(self.repository.judge(Ok(found))),
            Err(error) => {
                // The command may have been carried out although its answer did not come.
                self.abandon(lease);
                Err(self.repository.judge(Err(error)))
            }
        }
    }

    /// Waits until the load of another process ends, or the wait budget does.
    async fn wait(&mut self) -> Judged<E> {
        let repository = &self.repository;
        let budget = repository.policy.lease_wait;
        let deadline = *self.deadline.get_or_insert_with(|| Deadline::after(budget));
        if deadline.has_passed() {
            return Judged::Unserved(Next::Bypass);
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
            Ok(Some(found)) => repository.judge(Ok(found)),
            Err(error) => repository.judge(Err(error)),
            // Woken or out of time, look again: it takes the lease if the other one is gone.
            Ok(None) => {
                deadline.bound(listener.woken()).await;
                Judged::Unserved(Next::Lease { over: false })
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
        let outcome = fresh(row);
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
        // A lease that was still current when it was given back proves as much as an accepted fill.
        let accepted = match self.filling(&outcome, meta) {
            Some((filling, ttl)) => self.fill(filling, ttl, lease).await,
            None => self.release(lease).await,
        };
        let below = if accepted { ALL } else { mark };
        self.land(Landing::Shared { outcome, below });
    }

    /// What to store of a loaded row, and for how long; nothing if it must not be stored.
    fn filling(&self, outcome: &Outcome<E>, meta: Meta) -> Option<(Filling, Duration)> {
        let policy = &self.repository.policy;
        match &outcome.row {
            Some(row) => {
                // The database may call two spellings equal; under this key only this spelling would be invalidated.
                let own_key = self.repository.key(&row.id()).ok()?;
                if own_key != self.key {
                    return None;
                }
                let payload = self.repository.seal(row)?;
                let ttl = policy
                    .ttl
                    .mul_f64(1.0 - policy.jitter * random_share(lease_bits(meta.lease)));
                Some((Filling::Value(meta, payload), ttl))
            }
            None => policy
                .negative_ttl
                .map(|ttl| (Filling::Negative(meta), ttl)),
        }
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
                outcome: fresh(row),
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

fn fresh<E>(row: Option<Arc<E>>) -> Outcome<E> {
    Outcome {
        row,
        origin: Origin::Database,
        age: Duration::ZERO,
    }
}

fn lease_bits(lease: Lease) -> u64 {
    let (_, number) = lease.token.0.split_at(8);
    u64::from_be_bytes(number.try_into().expect("a token is twice eight bytes"))
}

/// A number in 0..1 that is spread evenly over successive seeds.
fn random_share(seed: u64) -> f64 {
    // The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    let mut bits = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let share = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    share
}
