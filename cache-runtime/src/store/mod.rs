//! The store: the cache side of the contract. Two of them implement it, Redis and the in-process one.
//!
//! Each method is one operation of the state machine in `state` on one key, and MUST be atomic. A store MUST NOT keep an
//! entry beyond its time to live, MAY drop an entry at any time, and MUST NOT answer from anything but the one place where
//! all operations on a key are ordered (no replica, no local copy).
//!
//! Not here: what to do with an answer (`read`, `write`), and what a failing store means for the caller (nothing).

/// Calls the store that there is.
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
pub(crate) mod wake;

use std::{any::Any, fmt, future::Future, sync::Arc};

pub use self::failpoint::{Mechanism, Point};
use crate::{
    error::{Error, StoreError},
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
    /// The bytes that a codec wrote, starting behind so many bytes of header.
    Bytes(Vec<u8>, usize),
    /// The row itself, for a store in this process.
    Shared(Arc<dyn Any + Send + Sync>),
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes, header) => write!(f, "Bytes({} bytes)", bytes.len() - header),
            Self::Shared(_) => f.write_str("Shared(..)"),
        }
    }
}

/// What a reader finds at a key.
pub type Found = Lookup<Payload>;

/// What a fill stores.
#[derive(Clone, Debug)]
pub enum Fill {
    /// The row.
    Value(Meta, Payload),
    /// That there is none.
    Negative(Meta),
}

impl Fill {
    /// What this is at a key.
    pub(crate) fn into_state(self) -> State<Payload> {
        match self {
            Self::Value(meta, payload) => State::Value(meta, payload),
            Self::Negative(meta) => State::Negative(meta),
        }
    }

    /// What is known beside the payload.
    pub(crate) fn meta(&self) -> &Meta {
        match self {
            Self::Value(meta, _) | Self::Negative(meta) => meta,
        }
    }
}

/// A key that a write touches, and what the write leaves there.
#[derive(Clone, Debug)]
pub struct AnnouncedKey {
    /// The key.
    pub key: Key,
    /// What is stored when the write ends and nobody has disturbed it; nothing leaves the key empty.
    pub update: Option<CacheUpdate>,
}

/// What a write leaves at its key when it ends.
#[derive(Clone, Debug)]
pub struct CacheUpdate {
    /// The row, or its absence.
    pub fill: Fill,
    /// For how many milliseconds.
    pub ttl_ms: u64,
}

impl CacheUpdate {
    /// The same after some milliseconds; `None` if its time is over.
    pub(crate) fn aged(self, age_ms: u64) -> Option<Self> {
        let ttl_ms = self.ttl_ms.saturating_sub(age_ms);
        (ttl_ms > 0).then_some(Self { ttl_ms, ..self })
    }
}

/// How a store keeps rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Representation {
    /// As bytes, which a codec writes.
    Bytes,
    /// As they are.
    Rows,
}

/// A place where entries live.
pub trait Store: Send + Sync + 'static {
    /// How the store keeps rows.
    fn keeps(&self) -> Representation;

    /// How many bytes an encoded row may have to be kept.
    fn most_bytes(&self) -> u64;

    /// The hash of the store's identity at this moment, for leases taken now.
    fn history(&self) -> u64;

    /// The number of the connection that operations go through now; what was announced through another may be lost.
    fn connection_number(&self) -> u64;

    /// Whether the store answers and may be believed at this moment; if not, every operation fails at once.
    fn is_available(&self) -> bool;

    /// The registry that the store wakes.
    fn wakeups(&self) -> &Wakeups;

    /// A write has come to this point. A test may stop it here, or end the process; otherwise nothing happens.
    #[inline]
    fn reach(&self, _point: Point) {}

    /// Whether a test has disabled a mechanism, to show that it is needed. Otherwise this is constant, and the compiler
    /// removes what follows from it.
    #[inline]
    fn disables(&self, _mechanism: Mechanism) -> bool {
        false
    }

    /// Looks at a key.
    fn get(
        &self,
        key: &Key,
        fingerprint: u32,
        codec: u8,
    ) -> impl Future<Output = Result<Found, StoreError>> + Send;

    /// Takes the fill lease, or tells what is there. `over` says that something foreign was seen and may be overwritten.
    /// With a partition, a queued write that is missing at the key is put back there first.
    fn acquire(
        &self,
        key: &Key,
        lease: Lease,
        lease_ttl_ms: u64,
        over: bool,
        partition: Option<&PartitionKeys>,
    ) -> impl Future<Output = Result<Option<Found>, StoreError>> + Send;

    /// Asks to be woken when the present load ends; `None` if so, or what is there instead of a load.
    fn wait(
        &self,
        key: &Key,
        identity: Identity,
    ) -> impl Future<Output = Result<Option<Found>, StoreError>> + Send;

    /// Stores what was loaded under a lease, if the lease is still the current one.
    fn fill(
        &self,
        key: &Key,
        fill: Fill,
        ttl_ms: u64,
        lease_ttl_ms: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Gives a lease back.
    fn release(
        &self,
        key: &Key,
        lease: Lease,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Announces a write at each key it touches, in one round trip. If that fails, it may be announced at some of them.
    fn begin(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
        intent_ttl_ms: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes the announcement of a write back at each key. Unless other writers are at work, what is published is left
    /// there, or nothing. A publication of another history of the store is none.
    fn end(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Drops what is known of a key.
    fn invalidate(&self, key: &Key) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Binds a namespace to a database and a name to a table, or tells what they are bound to. With a partition whose queue has
    /// a journal, it is that which is bound; a store in this process has nothing else that outlives it.
    fn bind(
        &self,
        claim: &Claim<'_>,
        journal: Option<&PartitionKeys>,
    ) -> impl Future<Output = Result<InForce, StoreError>> + Send;

    /// Names some of the keys that begin so, and the cursor to go on from; zero is both the first and the end. A key that
    /// is there from the first call to the last is named at least once.
    fn scan(
        &self,
        prefix: &[u8],
        cursor: u64,
    ) -> impl Future<Output = Result<(u64, Vec<Key>), StoreError>> + Send;
}

/// The store of a cache: the real one, or in tests the real one behind faults.
#[cfg(not(feature = "internal-faults"))]
pub type AnyStore = RealStore;
/// The store of a cache: the real one, or in tests the real one behind faults.
#[cfg(feature = "internal-faults")]
pub type AnyStore = faulty::FaultyStore;

/// The stores there are, behind one type, so that a hit in this process costs no allocation and no virtual call.
#[derive(Debug)]
pub enum RealStore {
    /// The in-process store.
    Memory(memory::MemoryStore),
    /// Redis.
    #[cfg(feature = "redis")]
    Redis(redis::RedisStore),
}

impl Store for RealStore {
    fn keeps(&self) -> Representation {
        dispatch!(self, store => store.keeps())
    }

    fn most_bytes(&self) -> u64 {
        dispatch!(self, store => store.most_bytes())
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

    fn wakeups(&self) -> &Wakeups {
        dispatch!(self, store => store.wakeups())
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        dispatch!(self, store => store.get(key, fingerprint, codec).await)
    }

    async fn acquire(
        &self,
        key: &Key,
        lease: Lease,
        lease_ttl_ms: u64,
        over: bool,
        partition: Option<&PartitionKeys>,
    ) -> Result<Option<Found>, StoreError> {
        dispatch!(self, store => store.acquire(key, lease, lease_ttl_ms, over, partition).await)
    }

    async fn wait(&self, key: &Key, identity: Identity) -> Result<Option<Found>, StoreError> {
        dispatch!(self, store => store.wait(key, identity).await)
    }

    async fn fill(
        &self,
        key: &Key,
        fill: Fill,
        ttl_ms: u64,
        lease_ttl_ms: u64,
    ) -> Result<bool, StoreError> {
        dispatch!(self, store => store.fill(key, fill, ttl_ms, lease_ttl_ms).await)
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
    /// Opens the queue of an entity. Answers what tells it from those of the same entity in other processes, where the store
    /// is not shared with them. Blocks.
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

    /// Awaits one attempt to connect, where there is something to connect to.
    #[cfg(feature = "redis")]
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(store) => store.connect().await,
        }
    }
}
