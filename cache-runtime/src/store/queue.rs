//! The queue operations of a store, which write-behind uses.

use std::sync::Arc;

use crate::{
    error::StoreError,
    policy::QueuePolicy,
    protocol::{
        key::Key,
        partition_keys::PartitionKeys,
        queue_position::{Incarnation, QueuePosition},
        row_change::RowChange,
        state::{Condition, Meta, Pending},
    },
    store::{Payload, RealStore},
};

/// A write that is to be queued.
#[derive(Clone, Debug)]
pub struct Put {
    /// Everything but the body. Its lease contains the token of the write.
    pub meta: Meta,
    /// What it does to the row.
    pub body: Body,
    /// The encoded body, for a journal.
    pub journaled: Option<Vec<u8>>,
    /// Its condition on the present row.
    pub condition: Condition,
    /// How many writes the queue may hold.
    pub most: u64,
    /// When the answer may be given.
    pub acknowledged: Acknowledged,
}

/// When the answer to a put acknowledges it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledged {
    /// Immediately: the write is as safe as its `durability` asks when the store answers.
    #[default]
    AtOnce,
    /// After the store has synced it to its disk, which has to be requested.
    AfterSync,
}

/// What a queued write does to its row: stores this payload, or deletes the row with this encoded id.
pub type Body = RowChange<Payload, Vec<u8>>;

/// The result of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAnswer {
    /// It is queued.
    Queued(QueuePosition),
    /// The queue is of another history of the store, or does not exist. A new incarnation must be begun.
    NeedsIncarnation(Option<Incarnation>),
    /// The queue is full.
    Full,
    /// The key does not say whether the condition is met. The row must be loaded first.
    RowUnknown,
    /// The condition is not met.
    ConditionFailed,
}

/// What to read of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// The incarnation whose log is read.
    pub incarnation: Incarnation,
    /// The number after which writes are read.
    pub after: u64,
    /// How many writes at most. A store that is reached over a network returns fewer if they are large.
    pub count: u32,
    /// The duration of a claim on the partition, in milliseconds. Zero reads without a claim.
    pub claim_ms: u64,
    /// Whether all incarnations before this one are closed. Once the store has noted that for the current one, rows may be
    /// cached.
    pub is_first: bool,
}

impl Fetch {
    /// Reads the state of a queue, and no log.
    pub const PEEK: Self = Self {
        incarnation: Incarnation { epoch: 0, nonce: 0 },
        after: 0,
        count: 0,
        claim_ms: 0,
        is_first: false,
    };

    /// Claims a partition for this many milliseconds, and reads no log.
    #[must_use]
    pub const fn claim(claim_ms: u64) -> Self {
        Self::PEEK.claiming(claim_ms)
    }

    /// Reads writes of an incarnation after this number, without a claim.
    #[must_use]
    pub const fn read(incarnation: Incarnation, after: u64, count: u32) -> Self {
        Self {
            incarnation,
            after,
            count,
            ..Self::PEEK
        }
    }

    /// Returns the same fetch with a claim; with none for zero milliseconds.
    #[must_use]
    pub const fn claiming(self, claim_ms: u64) -> Self {
        Self { claim_ms, ..self }
    }

    /// Returns the same fetch for an incarnation whose earlier ones are all closed.
    #[must_use]
    pub const fn of_first_open(self) -> Self {
        Self {
            is_first: true,
            ..self
        }
    }
}

/// What was read of a queue.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Whether this process has the claim, or asked for none. If not, the other fields are empty.
    pub is_claimed: bool,
    /// The id of the store's history.
    pub history: u64,
    /// Whether the current incarnation was begun in this history.
    pub is_present: bool,
    /// The incarnation that puts go to.
    pub current: Option<Incarnation>,
    /// The number of its last write.
    pub current_last: u64,
    /// The number of the last write in the log that was read; zero if the log is empty.
    pub log_last: u64,
    /// The time, in milliseconds since 1970 by the store's clock.
    pub now_ms: u64,
    /// The writes in the order of their numbers.
    pub writes: Vec<Logged>,
    /// Whether there were more writes, for which the batch had no room.
    pub is_cut: bool,
}

/// One write in a log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The key of its row.
    pub key: Key,
    /// The position of the write, and what else is known of it.
    pub pending: Pending,
    /// The row, or the id of a row to delete.
    pub payload: Payload,
    /// When it was put, in milliseconds since 1970 by the store's clock.
    pub at_ms: u64,
    /// Why larder cannot have written it. Then its number is that of its place in the log, and the rest means nothing.
    pub refused: Option<&'static str>,
}

/// A write that was flushed, or will never be.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The key of its row.
    pub key: Key,
    /// Its number.
    pub number: u64,
    /// The time that the row stays cached, in milliseconds. Zero drops it.
    pub keep_ms: u64,
}

/// A store that keeps queues.
pub trait QueueStore: Send + Sync + 'static {
    /// Checks whether the store keeps writes as safely as the policy asks. Returns when it acknowledges them, or else why it
    /// cannot and which setting to change.
    fn check_queue(
        &self,
        policy: &QueuePolicy,
    ) -> impl Future<Output = Result<Result<Acknowledged, String>, StoreError>> + Send;

    /// Queues a write and stores it at its key, both or neither.
    fn put(
        &self,
        partition: &Arc<PartitionKeys>,
        key: &Key,
        put: Put,
    ) -> impl Future<Output = Result<PutAnswer, StoreError>> + Send;

    /// Begins an incarnation of a queue in this history of the store, if `from` is still the current one. Returns whether it
    /// began.
    fn start_incarnation(
        &self,
        partition: &PartitionKeys,
        from: Option<Incarnation>,
        to: Incarnation,
        history: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Reads a queue.
    fn fetch(
        &self,
        partition: &PartitionKeys,
        fetch: Fetch,
    ) -> impl Future<Output = Result<Fetched, StoreError>> + Send;

    /// Settles writes of an incarnation, and trims its log up to a number, unless that is zero.
    fn settle(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns the queued write at a key, whatever its history.
    fn queued(
        &self,
        key: &Key,
    ) -> impl Future<Output = Result<Option<(Pending, Payload)>, StoreError>> + Send;

    /// Returns the incarnations that have a log in the store.
    fn logs(
        &self,
        partition: &PartitionKeys,
    ) -> impl Future<Output = Result<Vec<Incarnation>, StoreError>> + Send;

    /// Removes the log of an incarnation that gets no more writes.
    fn drop_log(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns some pending rows of a partition with their queue positions, and the next cursor. Zero is both the first
    /// cursor and the last one.
    fn pending_index(
        &self,
        partition: &PartitionKeys,
        cursor: u64,
    ) -> impl Future<Output = Result<(u64, Vec<(Key, QueuePosition)>), StoreError>> + Send;

    /// Releases this process's claim on a partition.
    fn disclaim(
        &self,
        partition: &PartitionKeys,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl QueueStore for RealStore {
    async fn check_queue(
        &self,
        policy: &QueuePolicy,
    ) -> Result<Result<Acknowledged, String>, StoreError> {
        dispatch!(self, store => store.check_queue(policy).await)
    }

    async fn put(
        &self,
        partition: &Arc<PartitionKeys>,
        key: &Key,
        put: Put,
    ) -> Result<PutAnswer, StoreError> {
        dispatch!(self, store => store.put(partition, key, put).await)
    }

    async fn start_incarnation(
        &self,
        partition: &PartitionKeys,
        from: Option<Incarnation>,
        to: Incarnation,
        history: u64,
    ) -> Result<bool, StoreError> {
        dispatch!(self, store => store.start_incarnation(partition, from, to, history).await)
    }

    async fn fetch(&self, partition: &PartitionKeys, fetch: Fetch) -> Result<Fetched, StoreError> {
        dispatch!(self, store => store.fetch(partition, fetch).await)
    }

    async fn settle(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> Result<(), StoreError> {
        dispatch!(self, store => store.settle(partition, incarnation, settled, up_to).await)
    }

    async fn queued(&self, key: &Key) -> Result<Option<(Pending, Payload)>, StoreError> {
        dispatch!(self, store => store.queued(key).await)
    }

    async fn logs(&self, partition: &PartitionKeys) -> Result<Vec<Incarnation>, StoreError> {
        dispatch!(self, store => store.logs(partition).await)
    }

    async fn drop_log(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        dispatch!(self, store => store.drop_log(partition, incarnation).await)
    }

    async fn pending_index(
        &self,
        partition: &PartitionKeys,
        cursor: u64,
    ) -> Result<(u64, Vec<(Key, QueuePosition)>), StoreError> {
        dispatch!(self, store => store.pending_index(partition, cursor).await)
    }

    async fn disclaim(&self, partition: &PartitionKeys) -> Result<(), StoreError> {
        dispatch!(self, store => store.disclaim(partition).await)
    }
}
