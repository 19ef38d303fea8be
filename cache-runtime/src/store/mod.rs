//! The store: where entries live. There are two implementations, Redis and the in-process store.
//!
//! Each method is one operation of the state machine in `state` on one key, and MUST be atomic. A store MUST NOT keep an
//! entry beyond its time to live, and MAY drop an entry at any time. All operations on a key have one order, and a store
//! MUST answer from the place that orders them: not from a replica, and not from a local copy.
//!
//! Not here: what follows from an answer (`read`, `write`). A store that fails never fails a read.

/// Calls the actual store.
macro_rules! dispatch {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Memory($store) => $call,
            #[cfg(feature = "redis")]
            Self::Redis($store) => $call,
        }
    };
}

pub mod failpoint;
#[cfg(feature = "internal-faults")]
pub mod faulty;
pub mod memory;
pub mod queue;
#[cfg(feature = "redis")]
pub mod redis;
pub mod tags;
pub(crate) mod wake;

use std::{any::Any, fmt, future::Future, sync::Arc};

pub use self::failpoint::{Mechanism, Point};
#[cfg(feature = "metrics")]
use crate::observe::survey::StoreUsage;
use crate::{
    error::{Error, StoreError},
    health::StoreHealth,
    policy::QueuePolicy,
    protocol::{
        claim::{Claim, InForce},
        key::Key,
        partition_keys::PartitionKeys,
        state::{Identity, Lease, Lookup, Meta, State},
        token::Token,
    },
    store::wake::Wakeups,
};

/// A row as a store keeps it.
#[derive(Clone)]
pub enum Payload {
    /// Encoded bytes, after a header of this length.
    Bytes(Vec<u8>, usize),
    /// The row itself, for a store in this process, and the number of bytes that it has when it is encoded.
    Shared(Arc<dyn Any + Send + Sync>, usize),
}

impl Payload {
    /// Returns the size of the encoded row in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes, header) => bytes.len() - header,
            Self::Shared(_, size) => *size,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes, header) => write!(f, "Bytes({} bytes)", bytes.len() - header),
            Self::Shared(..) => f.write_str("Shared(..)"),
        }
    }
}

/// The result of looking at a key.
pub type Found = Lookup<Payload>;

/// A row or an absence that is served at once.
#[derive(Clone, Debug)]
pub struct Hit {
    /// When it was loaded, in milliseconds since 1970.
    pub loaded_at_ms: u64,
    /// The row. `None`: it does not exist.
    pub row: Option<Payload>,
}

/// What a fill stores.
#[derive(Clone, Debug)]
pub enum Fill {
    /// The row.
    Value(Meta, Payload),
    /// The absence of the row.
    Negative(Meta),
}

impl Fill {
    /// Returns the state that this is stored as.
    pub(crate) fn into_state(self) -> State<Payload> {
        match self {
            Self::Value(meta, payload) => State::Value(meta, payload),
            Self::Negative(meta) => State::Negative(meta),
        }
    }

    /// Returns the row, if there is one.
    #[cfg(feature = "redis")]
    pub(crate) fn payload(&self) -> Option<&Payload> {
        match self {
            Self::Value(_, payload) => Some(payload),
            Self::Negative(_) => None,
        }
    }

    /// Returns everything but the payload.
    pub(crate) fn meta(&self) -> &Meta {
        match self {
            Self::Value(meta, _) | Self::Negative(meta) => meta,
        }
    }
}

/// A key of a write, and the cache update for it.
#[derive(Clone, Debug)]
pub struct AnnouncedKey {
    /// The key.
    pub key: Key,
    /// What is stored when the write ends and no other writer has interfered. With `None` the key is left empty.
    pub update: Option<CacheUpdate>,
}

/// An entry that cannot be served, in the way of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// None was seen.
    Nothing,
    /// One of another identity, or a damaged one.
    Foreign,
    /// The one with this token, which is outdated.
    Outdated(Token),
}

/// A key whose fill lease is wanted.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// The key.
    pub key: &'a Key,
    /// The lease, if it is granted.
    pub lease: Lease,
    /// Which unusable entry was seen, and may be overwritten.
    pub over: Over,
    /// Its partition, if the entity has a queue. A queued write that is missing at the key is restored first.
    pub partition: Option<&'a PartitionKeys>,
}

/// A value that was loaded under a lease.
#[derive(Clone, Debug)]
pub struct FillRequest {
    /// Its key.
    pub key: Key,
    /// The value, or its absence.
    pub fill: Fill,
    /// Its time to live, in milliseconds.
    pub ttl_ms: u64,
}

/// Returns the only answer to a batch of one.
fn only<T>(answers: Vec<Result<T, StoreError>>) -> Result<T, StoreError> {
    let answer = answers.into_iter().next();
    answer.unwrap_or_else(|| Err(StoreError::new("the store has not answered")))
}

/// The new row, or its absence, that a write leaves at its key.
#[derive(Clone, Debug)]
pub struct CacheUpdate {
    /// The row, or its absence.
    pub fill: Fill,
    /// Its time to live, in milliseconds.
    pub ttl_ms: u64,
}

impl CacheUpdate {
    /// Returns the update with the time to live that is left after `age_ms`, or `None` if none is left.
    pub(crate) fn aged(self, age_ms: u64) -> Option<Self> {
        let ttl_ms = self.ttl_ms.saturating_sub(age_ms);
        (ttl_ms > 0).then_some(Self { ttl_ms, ..self })
    }
}

/// How a store keeps rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Representation {
    /// As bytes, encoded by a codec.
    Bytes,
    /// As values of their type.
    Rows,
}

/// Where entries live.
pub trait Store: Send + Sync + 'static {
    /// Returns how the store keeps rows.
    fn keeps(&self) -> Representation;

    /// Returns the largest encoded row that the store can keep, in bytes.
    fn most_bytes(&self) -> u64;

    /// Tells the store how large the encoded rows of a repository may be, in bytes. It reads no more of an entry than the largest of
    /// all repositories.
    fn expect_rows_of(&self, _bytes: u64) {}

    /// Returns the hash of the store's identity now, for leases that are taken now.
    fn history(&self) -> u64;

    /// Returns the number of the current connection. An intent that was placed through another one may be lost.
    fn connection_number(&self) -> u64;

    /// Returns whether the store can be used now. If not, every operation fails at once.
    fn is_available(&self) -> bool;

    /// Returns whether the store is used, and what does not work.
    fn health(&self) -> StoreHealth {
        StoreHealth::in_process()
    }

    /// Returns what the store has measured.
    #[cfg(feature = "metrics")]
    fn usage(&self) -> StoreUsage;

    /// Returns how often a family of entities has changed, if all programs that use the store are this one. `None`: others
    /// change families too.
    fn family_changes(&self) -> Option<u64> {
        None
    }

    /// Returns the registry of callers that the store wakes.
    fn wakeups(&self) -> &Wakeups;

    /// A write has reached this point. A test may pause the write here, or end the process. Otherwise nothing happens.
    #[inline]
    fn reach(&self, _point: Point) {}

    /// Returns whether a test has disabled a mechanism, to show that it is needed. Without the feature `internal-faults` it
    /// is constant, and the compiler removes the branch.
    #[inline]
    fn disables(&self, _mechanism: Mechanism) -> bool {
        false
    }

    /// Returns what can be served from a key, if that takes neither a wait nor a lock: a row or an absence of this identity in the
    /// memory of this process. `None` says nothing: [`Store::get`] must be asked.
    #[inline]
    fn get_now(&self, _key: &Key, _identity: Identity) -> Option<Hit> {
        None
    }

    /// Reads a key.
    fn get(
        &self,
        key: &Key,
        fingerprint: u32,
        codec: u8,
    ) -> impl Future<Output = Result<Found, StoreError>> + Send;

    /// Reads several keys, in as few round trips as pipelines of bounded length need. Returns an answer for each.
    fn get_many(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
    ) -> impl Future<Output = Vec<Result<Found, StoreError>>> + Send;

    /// Takes the fill lease of each key, or returns the entry at it.
    fn acquire_many(
        &self,
        wanted: &[LeaseRequest<'_>],
        lease_ttl_ms: u64,
    ) -> impl Future<Output = Vec<Result<Option<Found>, StoreError>>> + Send;

    /// As [`Store::acquire_many`], for one key.
    fn acquire(
        &self,
        key: &Key,
        lease: Lease,
        lease_ttl_ms: u64,
        over: Over,
        partition: Option<&PartitionKeys>,
    ) -> impl Future<Output = Result<Option<Found>, StoreError>> + Send {
        async move {
            let wanted = LeaseRequest {
                key,
                lease,
                over,
                partition,
            };
            only(self.acquire_many(&[wanted], lease_ttl_ms).await)
        }
    }

    /// Asks to be woken when the present load ends. Returns `None` then, or the entry if there is no load.
    fn wait(
        &self,
        key: &Key,
        identity: Identity,
    ) -> impl Future<Output = Result<Option<Found>, StoreError>> + Send;

    /// Stores values that were loaded under leases. Returns for each whether its lease was still the current one.
    fn fill_many(
        &self,
        fills: Vec<FillRequest>,
        lease_ttl_ms: u64,
    ) -> impl Future<Output = Vec<Result<bool, StoreError>>> + Send;

    /// As [`Store::fill_many`], for one key.
    fn fill(
        &self,
        key: &Key,
        fill: Fill,
        ttl_ms: u64,
        lease_ttl_ms: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        async move {
            let key = key.clone();
            let fill = FillRequest { key, fill, ttl_ms };
            only(self.fill_many(vec![fill], lease_ttl_ms).await)
        }
    }

    /// Gives a lease back. Returns whether it was still the current one.
    fn release(
        &self,
        key: &Key,
        lease: Lease,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Announces a write at all of its keys, in one round trip. If that fails, some keys may have the intent.
    fn begin(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
        intent_ttl_ms: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes the intent of a write back at all of its keys. If no other writer is at work, stores the cache update, or drops
    /// the key. Ignores a cache update of another history of the store.
    fn end(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Drops the entry of a key.
    fn invalidate(&self, key: &Key) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Drops what cannot stand at a key, and nothing else (`state::sound`).
    fn drop_damaged(
        &self,
        key: &Key,
        forged: Option<Token>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Binds a namespace to a database and an entity to a table, or returns their binding. With a partition whose queue has
    /// a journal, it binds that journal: nothing else of an in-process store survives the process.
    fn bind(
        &self,
        claim: &Claim<'_>,
        journal: Option<&PartitionKeys>,
    ) -> impl Future<Output = Result<InForce, StoreError>> + Send;

    /// Returns some of the keys with this prefix, and the next cursor. Zero is both the first cursor and the last one. A key
    /// that exists from the first call to the last is returned at least once.
    fn scan(
        &self,
        prefix: &[u8],
        cursor: u64,
    ) -> impl Future<Output = Result<(u64, Vec<Key>), StoreError>> + Send;
}

/// The store of a cache: the real one, or in tests the real one with faults.
#[cfg(not(feature = "internal-faults"))]
pub type AnyStore = RealStore;
/// The store of a cache: the real one, or in tests the real one with faults.
#[cfg(feature = "internal-faults")]
pub type AnyStore = faulty::FaultyStore;

/// The implementations as one type, so that a hit in this process needs no allocation and no virtual call.
#[derive(Debug)]
pub enum RealStore {
    /// The in-process store.
    Memory(memory::MemoryStore),
    /// Redis.
    #[cfg(feature = "redis")]
    Redis(redis::RedisStore),
}

impl RealStore {
    /// Returns Redis, if it is the store.
    #[cfg(feature = "redis")]
    pub(crate) fn redis(&self) -> Option<&redis::RedisStore> {
        match self {
            Self::Redis(store) => Some(store),
            Self::Memory(_) => None,
        }
    }
}

impl Store for RealStore {
    fn keeps(&self) -> Representation {
        dispatch!(self, store => store.keeps())
    }

    fn most_bytes(&self) -> u64 {
        dispatch!(self, store => store.most_bytes())
    }

    fn expect_rows_of(&self, bytes: u64) {
        dispatch!(self, store => store.expect_rows_of(bytes));
    }

    fn history(&self) -> u64 {
        dispatch!(self, store => store.history())
    }

    fn connection_number(&self) -> u64 {
        dispatch!(self, store => store.connection_number())
    }

    fn is_available(&self) -> bool {
        dispatch!(self, store => store.is_available())
    }

    fn health(&self) -> StoreHealth {
        dispatch!(self, store => store.health())
    }

    #[cfg(feature = "metrics")]
    fn usage(&self) -> StoreUsage {
        dispatch!(self, store => store.usage())
    }

    fn family_changes(&self) -> Option<u64> {
        dispatch!(self, store => store.family_changes())
    }

    fn wakeups(&self) -> &Wakeups {
        dispatch!(self, store => store.wakeups())
    }

    #[inline]
    fn get_now(&self, key: &Key, identity: Identity) -> Option<Hit> {
        dispatch!(self, store => store.get_now(key, identity))
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        dispatch!(self, store => store.get(key, fingerprint, codec).await)
    }

    async fn get_many(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
    ) -> Vec<Result<Found, StoreError>> {
        dispatch!(self, store => store.get_many(keys, fingerprint, codec).await)
    }

    async fn acquire_many(
        &self,
        wanted: &[LeaseRequest<'_>],
        lease_ttl_ms: u64,
    ) -> Vec<Result<Option<Found>, StoreError>> {
        dispatch!(self, store => store.acquire_many(wanted, lease_ttl_ms).await)
    }

    async fn wait(&self, key: &Key, identity: Identity) -> Result<Option<Found>, StoreError> {
        dispatch!(self, store => store.wait(key, identity).await)
    }

    async fn fill_many(
        &self,
        fills: Vec<FillRequest>,
        lease_ttl_ms: u64,
    ) -> Vec<Result<bool, StoreError>> {
        dispatch!(self, store => store.fill_many(fills, lease_ttl_ms).await)
    }

    async fn release(&self, key: &Key, lease: Lease) -> Result<bool, StoreError> {
        dispatch!(self, store => store.release(key, lease).await)
    }

    async fn begin(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
        intent_ttl_ms: u64,
    ) -> Result<(), StoreError> {
        dispatch!(self, store => store.begin(touched, intent, intent_ttl_ms).await)
    }

    async fn end(&self, touched: &[AnnouncedKey], intent: Token) -> Result<(), StoreError> {
        dispatch!(self, store => store.end(touched, intent).await)
    }

    async fn invalidate(&self, key: &Key) -> Result<(), StoreError> {
        dispatch!(self, store => store.invalidate(key).await)
    }

    async fn drop_damaged(&self, key: &Key, forged: Option<Token>) -> Result<(), StoreError> {
        dispatch!(self, store => store.drop_damaged(key, forged).await)
    }

    async fn bind(
        &self,
        claim: &Claim<'_>,
        journal: Option<&PartitionKeys>,
    ) -> Result<InForce, StoreError> {
        dispatch!(self, store => store.bind(claim, journal).await)
    }

    async fn scan(&self, prefix: &[u8], cursor: u64) -> Result<(u64, Vec<Key>), StoreError> {
        dispatch!(self, store => store.scan(prefix, cursor).await)
    }
}

impl RealStore {
    /// Opens the queue of an entity. If the store is not shared with other processes, returns a text that distinguishes this
    /// queue from the same entity's queue in them. Blocks.
    pub(crate) fn open_queue(
        &self,
        partitions: &[&PartitionKeys],
        policy: &QueuePolicy,
    ) -> Result<Option<String>, Error> {
        match self {
            Self::Memory(store) => store.open_queue(partitions, policy).map(Some),
            #[cfg(feature = "redis")]
            Self::Redis(_) => Ok(None),
        }
    }

    /// Awaits one attempt to connect, if the store has a connection.
    #[cfg(feature = "redis")]
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(store) => store.connect().await,
        }
    }
}
