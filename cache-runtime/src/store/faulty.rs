//! A store with faults that a test controls, in front of a real one (feature `internal-faults`).
//!
//! A test can let an operation fail, pause before an operation so that something else happens first, and disable a mechanism
//! to show that another test would fail without it. Every other operation goes to the real store.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

#[cfg(feature = "redis")]
use crate::protocol::entry;
use crate::{
    error::{Error, StoreError},
    health::StoreHealth,
    policy::QueuePolicy,
    protocol::{
        claim::{Claim, InForce},
        key::Key,
        partition_keys::PartitionKeys,
        queue_position::{Incarnation, QueuePosition},
        state::{Change, Identity, Lease, Pending, State},
        tags::{Changed, Reading, Stamp, Tag},
        token::Token,
    },
    store::{
        AnnouncedKey, CacheUpdate, FillRequest, Found, Hit, LeaseRequest, Mechanism, Payload,
        Point, RealStore, Representation, Store,
        queue::{Acknowledged, Fetch, Fetched, Logged, Put, PutAnswer, QueueStore, Settled},
        tags::{ClockAnswer, Marks, TagStore},
        wake::Wakeups,
    },
};

/// An operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after the method of `Store`")]
pub enum Operation {
    Get,
    Acquire,
    Wait,
    Fill,
    Release,
    Begin,
    End,
    Invalidate,
    Bind,
    Scan,
    ReadClock,
    ReadMarks,
    StartClock,
    AdvanceClock,
    BeginTagged,
    EndTagged,
    ExpireTagged,
    Restamp,
    Put,
    StartIncarnation,
    Fetch,
    Settle,
}

/// The faults of one store, shared with the test that controls them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    failing: HashMap<Operation, u64>,
    unanswered: HashMap<Operation, u64>,
    pauses: HashMap<Operation, VecDeque<Pause>>,
    off: Vec<Mechanism>,
    calls: HashMap<Operation, u64>,
    points: HashMap<Point, Action>,
}

impl Plan {
    fn count(&mut self, operation: Operation) {
        *self.calls.entry(operation).or_default() += 1;
    }

    /// Returns whether the next call of an operation fails or waits.
    fn interferes(&self, operation: Operation) -> bool {
        let is_due =
            |faults: &HashMap<_, u64>| faults.get(&operation).is_some_and(|left| *left > 0);
        let waits = self.pauses.get(&operation);
        is_due(&self.failing)
            || is_due(&self.unanswered)
            || waits.is_some_and(|waits| !waits.is_empty())
    }
}

/// What a test does at a point.
#[derive(Clone)]
struct Action(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action(..)")
    }
}

/// A pause before one operation.
#[derive(Clone, Debug)]
pub struct Pause {
    reached: Arc<Semaphore>,
    resumed: Arc<Semaphore>,
}

impl Pause {
    /// Returns when a caller has reached the operation and waits before it.
    pub async fn reached(&self) {
        take(&self.reached).await;
    }

    /// Lets the caller continue.
    pub fn resume(&self) {
        self.resumed.add_permits(1);
    }
}

async fn take(semaphore: &Semaphore) {
    semaphore
        .acquire()
        .await
        .expect("the semaphore is never closed")
        .forget();
}

impl Faults {
    /// Returns a plan without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next `times` calls of an operation fail.
    pub fn fail(&self, operation: Operation, times: u64) {
        self.plan().failing.insert(operation, times);
    }

    /// Lets the next `times` calls of an operation fail as if Redis had not replied. None of them is executed.
    pub fn leave_unanswered(&self, operation: Operation, times: u64) {
        self.plan().unanswered.insert(operation, times);
    }

    /// Stops the next call of an operation (one call per pause) before it reaches the store.
    #[must_use]
    pub fn pause(&self, operation: Operation) -> Pause {
        let pause = Pause {
            reached: Arc::new(Semaphore::new(0)),
            resumed: Arc::new(Semaphore::new(0)),
        };
        let mut plan = self.plan();
        plan.pauses
            .entry(operation)
            .or_default()
            .push_back(pause.clone());
        pause
    }

    /// Runs an action whenever a write reaches a point. It may end or stop the process.
    pub fn at(&self, point: Point, action: impl Fn() + Send + Sync + 'static) {
        self.plan().points.insert(point, Action(Arc::new(action)));
    }

    fn reach(&self, point: Point) {
        let action = self.plan().points.get(&point).cloned();
        if let Some(Action(action)) = action {
            action();
        }
    }

    /// Disables a mechanism from now on.
    pub fn leave_out(&self, mechanism: Mechanism) {
        self.plan().off.push(mechanism);
    }

    /// Returns whether a mechanism is disabled.
    #[must_use]
    pub fn disables(&self, mechanism: Mechanism) -> bool {
        self.plan().off.contains(&mechanism)
    }

    /// Returns how often an operation was called.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.plan().calls.get(&operation).copied().unwrap_or(0)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        let pause = {
            let mut plan = self.plan();
            plan.count(operation);
            plan.pauses
                .get_mut(&operation)
                .and_then(VecDeque::pop_front)
        };
        if let Some(pause) = pause {
            pause.reached.add_permits(1);
            take(&pause.resumed).await;
        }
        let mut plan = self.plan();
        if take_one(&mut plan.failing, operation) {
            return Err(StoreError::new("a test lets this operation fail"));
        }
        if take_one(&mut plan.unanswered, operation) {
            return Err(StoreError::unanswered(
                "a test leaves this operation unanswered",
            ));
        }
        Ok(())
    }
}

/// Takes one fault of an operation. Returns whether there was one.
fn take_one(faults: &mut HashMap<Operation, u64>, operation: Operation) -> bool {
    match faults.get_mut(&operation) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

/// A real store with faults in front of it.
#[derive(Debug)]
pub struct FaultyStore {
    store: RealStore,
    faults: Option<Faults>,
}

impl FaultyStore {
    pub(crate) fn new(store: RealStore, faults: Option<Faults>) -> Self {
        Self { store, faults }
    }

    /// Awaits one attempt to connect, if the store has a connection.
    #[cfg(feature = "redis")]
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        self.store.connect().await
    }

    /// Opens the queue of an entity.
    pub(crate) fn open_queue(
        &self,
        partitions: &[&PartitionKeys],
        policy: &QueuePolicy,
    ) -> Result<Option<String>, Error> {
        self.store.open_queue(partitions, policy)
    }

    /// Stores a state for this many milliseconds, or removes the key. Ignores the rules of `state`.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn force(
        &self,
        key: &Key,
        entry: Option<(State<Payload>, u64)>,
    ) -> Result<(), StoreError> {
        match &self.store {
            RealStore::Memory(store) => {
                store.force(
                    key,
                    entry.map_or(Change::Delete, |(state, ttl_ms)| Change::Put(state, ttl_ms)),
                );
                Ok(())
            }
            #[cfg(feature = "redis")]
            RealStore::Redis(store) => {
                let bytes = entry
                    .as_ref()
                    .map(|(state, ttl_ms)| (to_bytes(state), *ttl_ms));
                store
                    .force(
                        key,
                        bytes
                            .as_ref()
                            .map(|(bytes, ttl_ms)| (bytes.as_slice(), *ttl_ms)),
                    )
                    .await
            }
        }
    }

    /// Stores raw bytes at a key of Redis for this many milliseconds.
    ///
    /// # Errors
    ///
    /// If the store fails, or is in-process.
    #[cfg(feature = "redis")]
    pub async fn force_bytes(
        &self,
        key: &Key,
        bytes: &[u8],
        ttl_ms: u64,
    ) -> Result<(), StoreError> {
        match &self.store {
            RealStore::Memory(_) => Err(StoreError::new(
                "the in-process store keeps rows, not bytes",
            )),
            RealStore::Redis(store) => store.force(key, Some((bytes, ttl_ms))).await,
        }
    }

    /// Returns the bytes at a key of Redis, and the milliseconds until it expires.
    ///
    /// # Errors
    ///
    /// If the store fails, or is in-process.
    #[cfg(feature = "redis")]
    pub async fn peek_bytes(&self, key: &Key) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        match &self.store {
            RealStore::Memory(_) => Err(StoreError::new(
                "the in-process store keeps rows, not bytes",
            )),
            RealStore::Redis(store) => store.peek(key).await,
        }
    }

    /// Returns the milliseconds until the entry at a key expires.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn remaining_ms(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        match &self.store {
            RealStore::Memory(store) => Ok(store.peek(key).map(|slot| slot.remaining_ms)),
            #[cfg(feature = "redis")]
            RealStore::Redis(store) => {
                Ok(store.peek(key).await?.map(|(_, remaining_ms)| remaining_ms))
            }
        }
    }

    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        match &self.faults {
            Some(faults) => faults.before(operation).await,
            None => Ok(()),
        }
    }
}

#[cfg(feature = "redis")]
fn to_bytes(state: &State<Payload>) -> Vec<u8> {
    let payload = |payload: &Payload| match payload {
        Payload::Bytes(bytes, header) => bytes[*header..].to_vec(),
        Payload::Shared(..) => Vec::new(),
    };
    match state {
        State::Value(meta, row) => entry::encode(&State::Value(*meta, payload(row).as_slice())),
        State::Loading(lease, waiters) => entry::encode(&State::Loading(*lease, waiters.clone())),
        State::Negative(meta) => entry::encode(&State::Negative(*meta)),
        State::Writing(writers) => entry::encode(&State::Writing(writers.clone())),
        State::Pending(pending, row) => {
            entry::encode(&State::Pending(*pending, payload(row).as_slice()))
        }
        State::Unreadable(unreadable) => entry::encode(&State::Unreadable(*unreadable)),
    }
}

/// Gives the last write of each key the image of its first one.
fn first_image_wins(writes: &mut [Logged]) {
    let mut first: HashMap<Key, Logged> = HashMap::new();
    for write in writes {
        match first.get(&write.key) {
            None => {
                first.insert(write.key.clone(), write.clone());
            }
            Some(first) => {
                write.payload = first.payload.clone();
                write.pending.is_deletion = first.pending.is_deletion;
                write.pending.meta = first.pending.meta;
            }
        }
    }
}

impl FaultyStore {
    /// Returns whether a test controls the store.
    #[cfg(feature = "metrics")]
    pub(crate) fn has_faults(&self) -> bool {
        self.faults.is_some()
    }

    /// Returns Redis, if it is the store.
    #[cfg(feature = "redis")]
    pub(crate) fn redis(&self) -> Option<&super::redis::RedisStore> {
        self.store.redis()
    }
}

impl Store for FaultyStore {
    fn disables(&self, mechanism: Mechanism) -> bool {
        self.faults
            .as_ref()
            .is_some_and(|faults| faults.disables(mechanism))
    }

    fn keeps(&self) -> Representation {
        self.store.keeps()
    }

    fn most_bytes(&self) -> u64 {
        if self.disables(Mechanism::StoreBound) {
            return u64::MAX;
        }
        self.store.most_bytes()
    }

    fn expect_rows_of(&self, bytes: u64) {
        self.store.expect_rows_of(bytes);
    }

    fn history(&self) -> u64 {
        self.store.history()
    }

    fn connection_number(&self) -> u64 {
        self.store.connection_number()
    }

    fn family_changes(&self) -> Option<u64> {
        self.store.family_changes()
    }

    fn is_available(&self) -> bool {
        self.store.is_available()
    }

    #[cfg(feature = "metrics")]
    fn usage(&self) -> crate::observe::survey::StoreUsage {
        self.store.usage()
    }

    fn health(&self) -> StoreHealth {
        self.store.health()
    }

    fn wakeups(&self) -> &Wakeups {
        self.store.wakeups()
    }

    fn reach(&self, point: Point) {
        if let Some(faults) = &self.faults {
            faults.reach(point);
        }
    }

    fn get_now(&self, key: &Key, identity: Identity) -> Option<Hit> {
        let faults = self.faults.as_ref();
        if faults.is_some_and(|faults| faults.plan().interferes(Operation::Get)) {
            return None;
        }
        let hit = self.store.get_now(key, identity)?;
        if let Some(faults) = faults {
            faults.plan().count(Operation::Get);
        }
        Some(hit)
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        self.before(Operation::Get).await?;
        self.store.get(key, fingerprint, codec).await
    }

    async fn get_many(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
    ) -> Vec<Result<Found, StoreError>> {
        match self.before(Operation::Get).await {
            Ok(()) => self.store.get_many(keys, fingerprint, codec).await,
            Err(error) => vec![Err(error); keys.len()],
        }
    }

    async fn acquire_many(
        &self,
        wanted: &[LeaseRequest<'_>],
        lease_ttl_ms: u64,
    ) -> Vec<Result<Option<Found>, StoreError>> {
        if let Err(error) = self.before(Operation::Acquire).await {
            return vec![Err(error); wanted.len()];
        }
        let mut wanted = wanted.to_vec();
        if self.disables(Mechanism::PendingIndex) {
            wanted.iter_mut().for_each(|wanted| wanted.partition = None);
        }
        self.store.acquire_many(&wanted, lease_ttl_ms).await
    }

    async fn wait(&self, key: &Key, identity: Identity) -> Result<Option<Found>, StoreError> {
        self.before(Operation::Wait).await?;
        self.store.wait(key, identity).await
    }

    async fn fill_many(
        &self,
        fills: Vec<FillRequest>,
        lease_ttl_ms: u64,
    ) -> Vec<Result<bool, StoreError>> {
        if let Err(error) = self.before(Operation::Fill).await {
            return vec![Err(error); fills.len()];
        }
        if !self.disables(Mechanism::FillCompare) {
            return self.store.fill_many(fills, lease_ttl_ms).await;
        }
        let mut answers = Vec::with_capacity(fills.len());
        for FillRequest { key, fill, ttl_ms } in fills {
            let forced = self.force(&key, Some((fill.into_state(), ttl_ms))).await;
            answers.push(forced.map(|()| true));
        }
        answers
    }

    async fn release(&self, key: &Key, lease: Lease) -> Result<bool, StoreError> {
        self.before(Operation::Release).await?;
        self.store.release(key, lease).await
    }

    async fn begin(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
        intent_ttl_ms: u64,
    ) -> Result<(), StoreError> {
        self.before(Operation::Begin).await?;
        if self.disables(Mechanism::Intent) {
            return Ok(());
        }
        self.store.begin(touched, intent, intent_ttl_ms).await
    }

    async fn end(&self, touched: &[AnnouncedKey], intent: Token) -> Result<(), StoreError> {
        self.before(Operation::End).await?;
        if self.disables(Mechanism::End) {
            return Ok(());
        }
        self.store.end(touched, intent).await?;
        if self.disables(Mechanism::Contended) {
            for AnnouncedKey { key, update } in touched {
                if let Some(CacheUpdate { fill, ttl_ms }) = update.clone() {
                    self.force(key, Some((fill.into_state(), ttl_ms))).await?;
                }
            }
        }
        Ok(())
    }

    async fn invalidate(&self, key: &Key) -> Result<(), StoreError> {
        self.before(Operation::Invalidate).await?;
        self.store.invalidate(key).await
    }

    async fn drop_damaged(&self, key: &Key, forged: Option<Token>) -> Result<(), StoreError> {
        self.store.drop_damaged(key, forged).await
    }

    async fn bind(
        &self,
        claim: &Claim<'_>,
        journal: Option<&PartitionKeys>,
    ) -> Result<InForce, StoreError> {
        self.before(Operation::Bind).await?;
        self.store.bind(claim, journal).await
    }

    async fn scan(&self, prefix: &[u8], cursor: u64) -> Result<(u64, Vec<Key>), StoreError> {
        self.before(Operation::Scan).await?;
        self.store.scan(prefix, cursor).await
    }
}

impl QueueStore for FaultyStore {
    async fn check_queue(
        &self,
        policy: &QueuePolicy,
    ) -> Result<Result<Acknowledged, String>, StoreError> {
        self.store.check_queue(policy).await
    }

    async fn put(
        &self,
        partition: &Arc<PartitionKeys>,
        key: &Key,
        put: Put,
    ) -> Result<PutAnswer, StoreError> {
        self.before(Operation::Put).await?;
        self.store.put(partition, key, put).await
    }

    async fn start_incarnation(
        &self,
        partition: &PartitionKeys,
        from: Option<Incarnation>,
        to: Incarnation,
        history: u64,
    ) -> Result<bool, StoreError> {
        self.before(Operation::StartIncarnation).await?;
        self.store
            .start_incarnation(partition, from, to, history)
            .await
    }

    async fn fetch(&self, partition: &PartitionKeys, fetch: Fetch) -> Result<Fetched, StoreError> {
        self.before(Operation::Fetch).await?;
        let mut fetched = self.store.fetch(partition, fetch).await?;
        if self.disables(Mechanism::QueueOrder) {
            first_image_wins(&mut fetched.writes);
        }
        Ok(fetched)
    }

    async fn settle(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> Result<(), StoreError> {
        self.before(Operation::Settle).await?;
        self.store
            .settle(partition, incarnation, settled, up_to)
            .await
    }

    async fn queued(&self, key: &Key) -> Result<Option<(Pending, Payload)>, StoreError> {
        self.store.queued(key).await
    }

    async fn logs(&self, partition: &PartitionKeys) -> Result<Vec<Incarnation>, StoreError> {
        self.store.logs(partition).await
    }

    async fn drop_log(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        self.store.drop_log(partition, incarnation).await
    }

    async fn pending_index(
        &self,
        partition: &PartitionKeys,
        cursor: u64,
    ) -> Result<(u64, Vec<(Key, QueuePosition)>), StoreError> {
        self.store.pending_index(partition, cursor).await
    }

    async fn disclaim(&self, partition: &PartitionKeys) -> Result<(), StoreError> {
        self.store.disclaim(partition).await
    }
}

impl TagStore for FaultyStore {
    async fn get_many_tagged(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
        clock: &Key,
    ) -> (Vec<Result<Found, StoreError>>, ClockAnswer) {
        let (get, read) = (
            self.before(Operation::Get).await,
            self.before(Operation::ReadClock).await,
        );
        let (found, reading) = self
            .store
            .get_many_tagged(keys, fingerprint, codec, clock)
            .await;
        let found = match get {
            Ok(()) => found,
            Err(error) => vec![Err(error); keys.len()],
        };
        (found, read.and(reading))
    }

    async fn read_clock(&self, clock: &Key) -> ClockAnswer {
        self.before(Operation::ReadClock).await?;
        self.store.read_clock(clock).await
    }

    #[cfg(feature = "metrics")]
    async fn count_marks(&self, clock: &Key) -> Result<u64, StoreError> {
        self.store.count_marks(clock).await
    }

    async fn read_marks(&self, clock: &Key, tags: &[Tag]) -> Result<Marks, StoreError> {
        self.before(Operation::ReadMarks).await?;
        self.store.read_marks(clock, tags).await
    }

    async fn start_clock(&self, clock: &Key) -> Result<Reading, StoreError> {
        self.before(Operation::StartClock).await?;
        self.store.start_clock(clock).await
    }

    async fn advance_clock(&self, clock: &Key, changed: &Changed) -> Result<(), StoreError> {
        self.before(Operation::AdvanceClock).await?;
        self.store.advance_clock(clock, changed).await
    }

    async fn begin_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
        ttl_ms: u64,
    ) -> Result<(), StoreError> {
        self.before(Operation::BeginTagged).await?;
        if self.disables(Mechanism::TagIntent) {
            return Ok(());
        }
        self.store.begin_tagged(clock, write, changed, ttl_ms).await
    }

    async fn end_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
    ) -> Result<(), StoreError> {
        self.before(Operation::EndTagged).await?;
        self.store.end_tagged(clock, write, changed).await
    }

    async fn expire_tagged(&self, clock: &Key) -> Result<(), StoreError> {
        self.before(Operation::ExpireTagged).await?;
        self.store.expire_tagged(clock).await
    }

    async fn restamp(&self, key: &Key, token: Token, stamp: Stamp) -> Result<bool, StoreError> {
        self.before(Operation::Restamp).await?;
        self.store.restamp(key, token, stamp).await
    }
}
