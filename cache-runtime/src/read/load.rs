//! A load: what the task of one or more flights does, from the lease to the fill.
//!
//! A read of one key is a load of one key, and a batch is a load of many.
//!
//! 1. Take the fill leases of all keys, in one round trip. A key that another process loads, or whose entry needs more steps,
//!    gets a load of its own, so that the others do not wait for it. The number of steps is limited, and the entity's wait
//!    budget limits the waiting.
//! 2. Read all keys with one statement, those under a lease and those that bypass the cache, and those of other loads that wait
//!    for a statement (`together`). The flights of keys without a lease are sealed before.
//! 3. Close the flights, answer the leaders, fill the keys under their leases, and finish the flights.
//!
//! If all callers have left before the statement of the load is sent, the load gives up: it releases its leases and ends.
//!
//! Invariant: every granted lease is filled, released, or left to expire because the store failed.
//! Invariant: even if the task panics or is stopped, no caller joins a flight that will not finish.
//! Not here: which callers may share the result (`flight`), the callers (`read`), and the statements (`content`).

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::oneshot;

use crate::{
    clock::{Deadline, Stopwatch, millis},
    context::Context,
    database::{self, WriteOutcome, backend::Backend, entity::Entity},
    detached,
    error::{Error, ErrorKind, StoreError},
    observe::{Operation, Told},
    policy::Coherence,
    protocol::{
        key::Key,
        state::{Lease, Meta},
        tags::{Reading, Stamp},
        token::Token,
        token::random_fraction_of,
    },
    read::{
        LookedUp, Next,
        content::{self, Content, SelectError},
        flight::{ALL, Flight, Follower, LoadResult},
        outcome::Outcome,
        tagged::Clock,
        together,
        turn::{Full, Turn},
    },
    store::{Fill, FillRequest, Found, LeaseRequest, Over, Store},
};

/// The maximum number of steps before a load bypasses the cache. Only an inconsistent store needs more.
const MAX_STEPS: u32 = 16;
/// How long no slow load of an entity is logged after one.
const BETWEEN_SLOW_LOADS: Duration = Duration::from_secs(1);
/// How long an absence is cached for a queued write that needs it, if the entity does not cache absences for reads.
const SHORT_ABSENCE: Duration = Duration::from_secs(1);

/// One key of a load.
pub(crate) struct Item<E: Entity, DB: Backend, C: Content<E, DB>> {
    context: Arc<Context<E, DB>>,
    key: Key,
    content: C,
    flight: Arc<Flight<C::Value>>,
    /// The time to live that the leader asks for, if it is not that of the policy.
    ttl: Option<Duration>,
    /// The leader's own answer, sent before the fill.
    early: Early<C::Value>,
    /// When the load stops waiting for other processes.
    deadline: Option<Deadline>,
    /// Whether no caller waits for this key any longer.
    is_abandoned: bool,
}

/// Receives the leader's answer.
pub(crate) type Answer<V> = oneshot::Receiver<Result<Outcome<V>, Error>>;

/// Sends it.
type Sender<V> = oneshot::Sender<Result<Outcome<V>, Error>>;

/// Returns the error for the callers of a load whose task did not answer.
pub(crate) fn load_stopped(described: &str) -> Error {
    Error::new(
        ErrorKind::TaskFailed,
        format!("failed to load {described}: its task panicked or its runtime shut down"),
    )
}

/// Sends the leader's answer, once. Its clones share it.
struct Early<V>(Arc<Mutex<Option<Sender<V>>>>);

impl<V> Clone for Early<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> Early<V> {
    /// Waits until the leader needs no answer any more.
    async fn left(&self) {
        poll_fn(|context| match &mut *self.lock() {
            Some(early) => early.poll_closed(context),
            None => Poll::Ready(()),
        })
        .await;
    }

    fn has_left(&self) -> bool {
        self.lock().as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Sender<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, answer: Result<Outcome<V>, Error>) {
        let early = self.lock().take();
        if let Some(early) = early {
            // If the leader's future was dropped, it needs no answer.
            let _gone = early.send(answer);
        }
    }
}

/// The callers of one key of a load.
pub(super) struct Callers<V> {
    early: Early<V>,
    flight: Arc<Flight<V>>,
}

impl<V> Callers<V> {
    /// Waits until there are none. A caller may join afterwards.
    pub(super) async fn left(&self) {
        self.early.left().await;
        self.flight.unfollowed().await;
    }
}

/// The permission to fill a key.
struct Held {
    lease: Lease,
    /// The clock of the tags when the load began.
    clock: Option<Reading>,
}

impl Held {
    fn stamp(&self) -> Option<Stamp> {
        self.clock.as_ref().map(|reading| reading.now)
    }
}

/// A key whose value is read next.
pub(super) struct Ready<E: Entity, DB: Backend, C: Content<E, DB>> {
    item: Item<E, DB, C>,
    /// Its lease. Without one, the value is not cached.
    held: Option<Held>,
    /// The generation of the flight in which its statement is sent.
    generation: u32,
}

/// Closes the flight even if the task panics or is stopped, so that no caller joins a flight that will not finish.
impl<E: Entity, DB: Backend, C: Content<E, DB>> Drop for Item<E, DB, C> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs a load. It answers the leaders as soon as there is a result, and the followers at the end.
pub(crate) async fn run<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: Arc<Context<E, DB>>,
    items: Vec<(Item<E, DB, C>, Next)>,
) {
    let mut ready = Vec::with_capacity(items.len());
    let is_batch = items.len() > 1;
    let mut open = items;
    for _ in 0..MAX_STEPS {
        let mut asking = Vec::new();
        let mut judged = Vec::new();
        for (mut item, next) in std::mem::take(&mut open) {
            let generation = item.flight.next_generation();
            let is_blocked = !matches!(next, Next::Bypass) && context.blocks(&item.key);
            match next {
                Next::Bypass => ready.push(Ready::uncached(item)),
                _ if is_blocked => ready.push(Ready::uncached(item)),
                Next::Lease { over } => asking.push((item, over, generation)),
                _ if is_batch => {
                    detached::spawn(run_alone(item, next));
                }
                Next::Repair => {
                    let repaired = context.cache.store.invalidate(&item.key).await;
                    let answer = repaired.map(|()| Found::Absent);
                    let clock = Clock::None;
                    let answer = context.interpret_bound::<C>(&item.key, answer, &clock);
                    let answer = answer.await;
                    judged.push((item, answer, generation));
                }
                Next::Drop(token) => {
                    let store = &context.cache.store;
                    let dropped = store.drop_damaged(&item.key, Some(token)).await;
                    let answer = dropped.map(|()| Found::Absent);
                    let answer = context.interpret::<C>(&item.key, answer);
                    judged.push((item, Ok(answer), generation));
                }
                Next::Wait => {
                    // Otherwise all callers have left.
                    if let Some(answer) = item.wait().await {
                        judged.push((item, answer, generation));
                    }
                }
                Next::Settle => {
                    let answer = C::settle(&context, &item.key).await;
                    judged.push((item, answer, generation));
                }
            }
        }
        let (leases, clock) = take_leases(&context, asking).await;
        for ((item, _, generation), granted) in leases {
            match granted {
                Ok(held) => ready.push(Ready::under(item, held)),
                Err(found) => {
                    let answer = context.interpret_bound::<C>(&item.key, found, &clock);
                    let answer = answer.await;
                    judged.push((item, answer, generation));
                }
            }
        }
        for (item, answer, generation) in judged {
            match answer {
                Err(error) => item.finish(LoadResult::Failed(error)),
                Ok(LookedUp::Served(outcome)) => {
                    context.counters.hits_after_wait.add_one();
                    item.finish(LoadResult::Shared {
                        outcome,
                        below: generation,
                    });
                }
                Ok(LookedUp::Unserved(next)) => open.push((item, next)),
            }
        }
        if open.is_empty() {
            break;
        }
    }
    ready.extend(open.into_iter().map(|(item, _)| Ready::uncached(item)));
    if !ready.is_empty() {
        together::load(&context, ready).await;
    }
}

/// As [`run`], for one key.
pub(crate) fn run_alone<E: Entity, DB: Backend, C: Content<E, DB>>(
    item: Item<E, DB, C>,
    next: Next,
) -> BoxFuture<'static, ()> {
    Box::pin(run(Arc::clone(&item.context), vec![(item, next)]))
}

/// As [`run_alone`], after the flight before this one has ended.
pub(crate) async fn run_after<E: Entity, DB: Backend, C: Content<E, DB>>(
    mut item: Item<E, DB, C>,
    next: Next,
    before: Follower<C::Value>,
) {
    // Its result does not matter, only that the statement of this load comes after the earlier one.
    let ended = before.result();
    let is_wanted = tokio::select! {
        _result = ended => true,
        () = item.callers_left() => false,
    };
    if is_wanted {
        run_alone(item, next).await;
    }
}

/// Reads keys from the database and fills nothing.
pub(crate) async fn bypass<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: Arc<Context<E, DB>>,
    items: Vec<Item<E, DB, C>>,
) {
    let ready = items.into_iter().map(Ready::bypass).collect();
    together::load(&context, ready).await;
}

/// A key that asks for a lease: its item, the entry that may be overwritten, and the generation of its flight.
type Asking<E, DB, C> = (Item<E, DB, C>, Over, u32);

/// Asks for leases, and reads the clock at the same time. If one is not granted, returns what is at its key instead.
async fn take_leases<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: &Arc<Context<E, DB>>,
    asking: Vec<Asking<E, DB, C>>,
) -> (
    Vec<(Asking<E, DB, C>, Result<Held, Result<Found, StoreError>>)>,
    Clock,
) {
    if asking.is_empty() {
        return (Vec::new(), Clock::None);
    }
    let leases: Vec<_> = asking
        .iter()
        .map(|(item, ..)| Lease {
            token: Token::draw(),
            identity: item.content.identity(context),
        })
        .collect();
    let wanted: Vec<_> = asking
        .iter()
        .zip(&leases)
        .map(|((item, over, _), lease)| LeaseRequest {
            key: &item.key,
            lease: *lease,
            over: *over,
            partition: context.partition_keys(&item.key),
        })
        .collect();
    let lease_ttl_ms = millis(context.policy.lease_ttl);
    let store = &context.cache.store;
    let (answers, clock) = context
        .with_clock(store.acquire_many(&wanted, lease_ttl_ms))
        .await;
    let reading = match answers.iter().any(|answer| matches!(answer, Ok(None))) {
        true => {
            let history = leases[0].identity.history;
            context.clock_of_load(&clock, history).await
        }
        false => Ok(None),
    };
    let answers = asking.into_iter().zip(leases.into_iter().zip(answers));
    let answers = answers.map(|(asked, (lease, answer))| {
        let granted = match (answer, reading.clone()) {
            (Ok(None), Ok(clock)) => Ok(Held { lease, clock }),
            (Ok(Some(found)), _) => Err(Ok(found)),
            (Err(error), _) | (Ok(None), Err(error)) => {
                // The store may have executed the command even though its reply was lost.
                asked.0.abandon(lease);
                Err(Err(error))
            }
        };
        (asked, granted)
    });
    (answers.collect(), clock)
}

/// Reads the database, and fills the keys that have a lease. If nothing could be read, returns the keys: their callers have no
/// answer yet.
pub(super) async fn load<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: &Arc<Context<E, DB>>,
    mut ready: Vec<Ready<E, DB, C>>,
) -> Result<(), Failed<E, DB, C>> {
    let told = |values: &Option<HashMap<Key, C::Value>>| {
        let rows = values.as_ref();
        rows.map_or_else(Told::default, |values| Told::rows(values.len()))
    };
    let selected = select(context, &mut ready);
    let selected = context.signals.observe_as(Operation::Load, told, selected);
    let values: HashMap<_, _> = match selected.await {
        // Several loads may want one key: callers that bypass the cache share no flight.
        Ok(Some(values)) => values
            .into_iter()
            .map(|(key, value)| (key, Arc::new(value)))
            .collect(),
        Ok(None) => {
            release_all(&ready).await;
            return Ok(());
        }
        Err(error) => return Err(Failed { ready, error }),
    };
    let mut leased = Vec::with_capacity(ready.len());
    for Ready {
        item,
        held,
        generation,
    } in ready
    {
        let value = values.get(&item.key).cloned();
        let Some(held) = held else {
            item.finish(LoadResult::Shared {
                outcome: Outcome::store_skipped(value),
                below: generation,
            });
            continue;
        };
        let outcome = Outcome::fresh(value);
        // A caller that asks from now on may ask after a write that follows the fill, so no caller may join any more.
        item.close();
        item.early.answer(Ok(outcome.clone()));
        leased.push((item, outcome, held, generation));
    }
    if leased.is_empty() {
        return Ok(());
    }
    let mut fills = Vec::with_capacity(leased.len());
    let mut ends = Vec::with_capacity(leased.len());
    for (item, outcome, held, generation) in leased {
        let meta = Meta {
            lease: held.lease,
            loaded_at_ms: context.cache.clock.wall_ms(),
            stamp: context.stamp_of_entry(held.stamp()).await,
        };
        // Check after the flight was closed: if a repair was recorded before a caller joined, then either the key is still
        // blocked, or the repair has ended the lease.
        let value = outcome.row.as_deref();
        let clock = held.clock.as_ref();
        let is_open = clock.is_some_and(|clock| context.is_open::<C>(value, clock));
        let denied = is_open || context.blocks(&item.key);
        let fill = if denied {
            None
        } else {
            context.fill::<C>(&item.key, outcome.row.as_ref(), meta, item.ttl)
        };
        let is_filled = fill.is_some();
        if let Some((fill, ttl)) = fill {
            fills.push(FillRequest {
                key: item.key.clone(),
                fill,
                ttl_ms: millis(ttl).max(1),
            });
        }
        ends.push((item, outcome, held, generation, denied, is_filled));
    }
    let lease_ttl_ms = millis(context.policy.lease_ttl);
    let filling = async {
        match fills.is_empty() {
            true => Vec::new(),
            false => context.cache.store.fill_many(fills, lease_ttl_ms).await,
        }
    };
    let (filled, clock) = context.with_clock(filling).await;
    let mut filled = filled.into_iter();
    for (item, outcome, held, generation, denied, is_filled) in ends {
        let lease = held.lease;
        // A lease that was still current when it was released proves as much as an accepted fill.
        let accepted = match is_filled {
            true => filled
                .next()
                .is_some_and(|answer| item.judge_fill(&answer, lease)),
            false => item.release(lease).await,
        };
        let is_shared = accepted && !denied && context.is_undisturbed(held.stamp(), &clock);
        let below = if is_shared { ALL } else { generation };
        item.finish(LoadResult::Shared { outcome, below });
    }
    Ok(())
}

/// Keys that could not be read.
pub(super) struct Failed<E: Entity, DB: Backend, C: Content<E, DB>> {
    pub(super) ready: Vec<Ready<E, DB, C>>,
    pub(super) error: Error,
}

impl<E: Entity, DB: Backend, C: Content<E, DB>> Failed<E, DB, C> {
    /// Answers their callers.
    pub(super) async fn answer(self) {
        let Self { ready, error } = self;
        // Release the leases so that others can try immediately. An error is not "does not exist".
        release_all(&ready).await;
        for Ready { item, .. } in ready {
            item.finish(LoadResult::Failed(error.clone()));
        }
    }
}

/// Gives keys up that no caller waits for. Returns whether that are all of them.
pub(super) fn are_given_up<E: Entity, DB: Backend, C: Content<E, DB>>(
    ready: &mut [Ready<E, DB, C>],
) -> bool {
    let mut is_wanted = false;
    for ready in ready {
        is_wanted |= !ready.item.gives_up();
    }
    !is_wanted
}

/// Gives the leases of a load back that has read nothing.
pub(super) async fn release_all<E: Entity, DB: Backend, C: Content<E, DB>>(
    ready: &[Ready<E, DB, C>],
) {
    let leased = ready.iter().filter_map(|ready| {
        let held = ready.held.as_ref()?;
        Some(ready.item.release(held.lease))
    });
    join_all(leased).await;
}

/// Reads keys from the database. Returns `None` if all callers left before the statement was sent.
async fn select<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: &Arc<Context<E, DB>>,
    ready: &mut [Ready<E, DB, C>],
) -> Result<Option<HashMap<Key, C::Value>>, Error> {
    let described = content::describe(context, &wanted(ready));
    let count = ready.len() as u64;
    let left = async {
        for ready in &mut *ready {
            ready.item.callers_left().await;
        }
    };
    let Some(turn) = context.turn(&described, count, left).await? else {
        return Ok(None);
    };
    let read = async |connection: &mut DB::Connection| {
        if are_given_up(ready) {
            return Ok(None);
        }
        let bound = context.bind_within(connection).await;
        bound.map_err(SelectError::Refused)?;
        for ready in &mut *ready {
            ready.send();
        }
        C::select(context, connection, &wanted(ready))
            .await
            .map(Some)
    };
    context.read_in_turn(turn, &described, count, read).await
}

pub(super) fn wanted<E: Entity, DB: Backend, C: Content<E, DB>>(
    ready: &[Ready<E, DB, C>],
) -> Vec<(&Key, &C)> {
    let wanted = ready.iter();
    wanted
        .map(|ready| (&ready.item.key, &ready.item.content))
        .collect()
}

impl<E: Entity, DB: Backend, C: Content<E, DB>> Ready<E, DB, C> {
    /// Returns its callers.
    pub(super) fn callers(&self) -> Callers<C::Value> {
        Callers {
            early: self.item.early.clone(),
            flight: Arc::clone(&self.item.flight),
        }
    }

    pub(super) fn context(&self) -> &Arc<Context<E, DB>> {
        &self.item.context
    }

    pub(super) fn content(&self) -> &C {
        &self.item.content
    }

    fn under(item: Item<E, DB, C>, held: Held) -> Self {
        Self {
            item,
            held: Some(held),
            generation: 0,
        }
    }

    fn bypass(item: Item<E, DB, C>) -> Self {
        Self {
            item,
            held: None,
            generation: 0,
        }
    }

    /// Bypasses the cache, and counts that.
    fn uncached(item: Item<E, DB, C>) -> Self {
        item.context.counters.uncached_loads.add_one();
        Self::bypass(item)
    }

    /// Records that the statement is sent now.
    fn send(&mut self) {
        let Item {
            context,
            key,
            flight,
            ..
        } = &self.item;
        if self.held.is_none() {
            C::flights(context).seal(key, flight);
        }
        self.generation = flight.next_generation();
    }
}

impl<E: Entity, DB: Backend, C: Content<E, DB>> Item<E, DB, C> {
    /// Returns the key of a load whose flight was opened, and the receiver of the leader's answer.
    pub(crate) fn new(
        context: Arc<Context<E, DB>>,
        key: Key,
        content: C,
        flight: Arc<Flight<C::Value>>,
        ttl: Option<Duration>,
    ) -> (Self, Answer<C::Value>) {
        let (early, answer) = oneshot::channel();
        let item = Self {
            context,
            key,
            content,
            flight,
            ttl,
            early: Early(Arc::new(Mutex::new(Some(early)))),
            deadline: None,
            is_abandoned: false,
        };
        (item, answer)
    }

    /// Waits until the load of another process ends, or the wait budget does. Returns `None` if all callers left first.
    async fn wait(&mut self) -> Option<Result<LookedUp<C::Value>, Error>> {
        let context = Arc::clone(&self.context);
        let budget = context.policy.lease_wait;
        let deadline = *self.deadline.get_or_insert_with(|| Deadline::after(budget));
        if deadline.has_passed() {
            context.counters.waits_given_up.add_one();
            return Some(Ok(LookedUp::Unserved(Next::Bypass)));
        }
        context.counters.lease_waits.add_one();
        // Listen before asking the store, so that a wake-up in between is not lost.
        let listener = context.cache.store.wakeups().listen(&self.key);
        let identity = self.content.identity(&context);
        let waiting = context.cache.store.wait(&self.key, identity);
        let (answer, clock) = context.with_clock(waiting).await;
        let found = match answer {
            Ok(None) => None,
            Ok(Some(found)) => Some(Ok(found)),
            Err(error) => Some(Err(error)),
        };
        match found {
            Some(found) => {
                let answer = context.interpret_bound::<C>(&self.key, found, &clock);
                Some(answer.await)
            }
            // After a wake-up or a time-out, look again, and take the lease if the other one has ended.
            None => {
                tokio::select! {
                    _in_time = deadline.bound(listener.woken()) => {
                        Some(Ok(LookedUp::Unserved(Next::Lease { over: Over::Nothing })))
                    }
                    () = self.callers_left() => None,
                }
            }
        }
    }

    /// Counts the answer to a fill. Returns whether it was accepted.
    fn judge_fill(&self, answer: &Result<bool, StoreError>, lease: Lease) -> bool {
        let counters = &self.context.counters;
        match answer {
            Ok(true) => {
                counters.fills_accepted.add_one();
                true
            }
            Ok(false) => {
                counters.fills_refused.add_one();
                false
            }
            Err(_) => {
                counters.store_errors.add_one();
                self.abandon(lease);
                false
            }
        }
    }

    /// Releases the lease. Returns whether it was still the current one.
    async fn release(&self, lease: Lease) -> bool {
        let store = &self.context.cache.store;
        store.release(&self.key, lease).await.unwrap_or_else(|_| {
            self.context.counters.store_errors.add_one();
            false
        })
    }

    /// Releases a lease that may or may not have been granted, without waiting for a store that has just failed.
    fn abandon(&self, lease: Lease) {
        let (context, key) = (Arc::clone(&self.context), self.key.clone());
        detached::spawn(async move {
            // If this fails too, the lease expires.
            let _released = context.cache.store.release(&key, lease).await;
        });
    }

    /// Gives the load of this key up if no caller waits for it: closes its flight, so that none can join. Returns whether it
    /// did.
    fn gives_up(&mut self) -> bool {
        let flights = C::flights(&self.context);
        if !self.is_abandoned
            && self.early.has_left()
            && flights.close_unfollowed(&self.key, &self.flight)
        {
            self.is_abandoned = true;
            self.context.counters.abandoned_loads.add_one();
        }
        self.is_abandoned
    }

    /// Waits until no caller waits for this key, and gives its load up.
    async fn callers_left(&mut self) {
        self.early.left().await;
        loop {
            self.flight.unfollowed().await;
            // A caller may have joined in the meantime.
            if self.gives_up() {
                return;
            }
        }
    }

    fn close(&self) {
        C::flights(&self.context).close(&self.key, &self.flight);
    }

    /// Ends the flight, and answers all callers that have no answer yet.
    fn finish(self, result: LoadResult<C::Value>) {
        self.close();
        self.early.answer(match &result {
            LoadResult::Shared { outcome, .. } => Ok(outcome.clone()),
            LoadResult::Failed(error) => Err(error.clone()),
        });
        self.flight.finish(result);
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Waits for a turn to read the database. Every read takes one, whether it fills the cache or bypasses it. Returns `None`
    /// if `left` is ready before the turn comes. `count`: how many keys are read.
    pub(crate) async fn turn(
        &self,
        described: &str,
        count: u64,
        left: impl Future<Output = ()>,
    ) -> Result<Option<Turn<'_>>, Error> {
        let turn = self.turns.take(left).await;
        turn.map_err(|full| self.overloaded(full, described, count))
    }

    /// Returns the error of a load that may not even wait.
    pub(crate) fn overloaded(&self, full: Full, described: &str, count: u64) -> Error {
        self.counters.rejected_loads.add(count);
        Error::new(
            ErrorKind::Overloaded,
            format!("failed to load {described}: {full}"),
        )
    }

    /// Reads the database on a connection of the pool.
    pub(crate) async fn read_in_turn<T>(
        &self,
        _turn: Turn<'_>,
        described: &str,
        count: u64,
        read: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, SelectError>,
    ) -> Result<T, Error> {
        self.counters.loads.add(count);
        self.counters.load_statements.add_one();
        let began = Stopwatch::start();
        let read = async {
            let mut connection = self.database.acquire().await?;
            read(&mut connection).await
        };
        let read = read.await;
        self.note_slow_load(began.elapsed(), described, count);
        read.map_err(|error| {
            self.counters.load_errors.add(count);
            match error {
                SelectError::Refused(error) => error,
                SelectError::Database(error) => {
                    database::describe("load", described, error, WriteOutcome::Nothing)
                }
            }
        })
    }

    /// Logs a load that took long, once in a while.
    fn note_slow_load(&self, took: Duration, described: &str, count: u64) {
        let is_slow = self.cache.slow_load.is_some_and(|slow| took >= slow);
        if is_slow && self.slow_loads.is_due(BETWEEN_SLOW_LOADS) {
            tracing::warn!(
                entity = E::SPEC.name,
                loaded = described,
                keys = count,
                elapsed_ms = millis(took),
                "a load from the database was slow"
            );
        }
    }

    /// Returns what to store at a key for its value or its absence, and for how long. Returns `None` if it must not be
    /// stored. `ttl`: the time to live that a caller asks for, if it is not that of the policy. An absence lives no longer than
    /// the policy says.
    pub(crate) fn fill<C: Content<E, DB>>(
        &self,
        key: &Key,
        value: Option<&Arc<C::Value>>,
        meta: Meta,
        ttl: Option<Duration>,
    ) -> Option<(Fill, Duration)> {
        // The namespace must be bound to this database and table. Nothing is stored while fills are paused.
        if !self.is_fillable() || self.pauses_fills() {
            return None;
        }
        match value {
            Some(value) => {
                let longest = self.longest_life(C::ends_at(value))?;
                let payload = C::encode(self, key, value)?;
                let ttl = ttl.map_or(self.policy.ttl, |ttl| self.allowed_ttl(ttl));
                let ttl = self.jittered(ttl, lease_bits(meta.lease));
                Some((Fill::Value(meta, payload), ttl.min(longest)))
            }
            None => {
                let shortly = self.queue.is_some().then_some(SHORT_ABSENCE);
                let longest = self.policy.negative_ttl.or(shortly)?;
                let ttl = ttl.map_or(longest, |ttl| ttl.min(longest));
                Some((Fill::Negative(meta), ttl))
            }
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns the time to live of a row, minus a random share that depends on the seed.
    pub(crate) fn jittered_ttl(&self, seed: u64) -> Duration {
        self.jittered(self.policy.ttl, seed)
    }

    /// Returns the time to live of a row for a caller that asks for this one.
    fn allowed_ttl(&self, ttl: Duration) -> Duration {
        match self.policy.coherence {
            // It is what the entity promises: nothing else ends an old row.
            Coherence::Ttl => ttl.min(self.policy.ttl),
            Coherence::Lease | Coherence::Intent => ttl,
        }
    }

    fn jittered(&self, ttl: Duration, seed: u64) -> Duration {
        let share = self.policy.jitter * random_fraction_of(seed);
        ttl.mul_f64(1.0 - share)
    }
}

fn lease_bits(lease: Lease) -> u64 {
    let (_, number) = lease.token.0.split_at(8);
    u64::from_be_bytes(number.try_into().expect("a token is twice eight bytes"))
}
