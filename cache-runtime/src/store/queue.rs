//! What a store and the write-behind engine say to each other.

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
    /// What is known of it; the lease is the write itself.
    pub meta: Meta,
    /// What it makes of the row.
    pub body: Body,
    /// The body as bytes, for a journal.
    pub journaled: Option<Vec<u8>>,
    /// What it demands of what is at the key.
    pub condition: Condition,
    /// How many writes the queue may hold.
    pub most: u64,
    /// When its answer may come.
    pub acknowledged: Acknowledged,
}

/// When the answer to a put is an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledged {
    /// At once: when the store answers, the write is as safe as it is to be.
    #[default]
    AtOnce,
    /// When the store has written it to its disk, for which it has to be asked.
    AfterSync,
}

/// What a queued write makes of its row: the payload, or the id as the codec writes it.
pub type Body = RowChange<Payload, Vec<u8>>;

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAnswer {
    /// It is queued.
    Queued(QueuePosition),
    /// The queue is of another history of the store, or there is none: a new incarnation has to be begun.
    NeedsIncarnation(Option<Incarnation>),
    /// The queue holds as many writes as it may.
    Full,
    /// What is at the key does not tell whether the condition is met.
    RowUnknown,
    /// The condition is not met.
    ConditionFailed,
}

/// What a flusher asks of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// Whose log is read.
    pub incarnation: Incarnation,
    /// Behind which number.
    pub after: u64,
    /// How many writes at most. A store that carries them over a network returns fewer where they are large.
    pub count: u32,
    /// For how many milliseconds this process claims the partition; zero to read without a claim.
    pub claim_ms: u64,
    /// Whether all incarnations before this one are closed. Once that is known of the current one, rows may be cached.
    pub is_first: bool,
}

impl Fetch {
    /// Looks at a queue and reads no log.
    pub const PEEK: Self = Self {
        incarnation: Incarnation { epoch: 0, nonce: 0 },
        after: 0,
        count: 0,
        claim_ms: 0,
        is_first: false,
    };

    /// Claims a partition for some milliseconds and reads no log.
    #[must_use]
    pub const fn claim(claim_ms: u64) -> Self {
        Self::PEEK.claiming(claim_ms)
    }

    /// Reads writes of an incarnation, from the one after a number on, without a claim.
    #[must_use]
    pub const fn read(incarnation: Incarnation, after: u64, count: u32) -> Self {
        Self {
            incarnation,
            after,
            count,
            ..Self::PEEK
        }
    }

    /// The same with a claim; zero milliseconds are none.
    #[must_use]
    pub const fn claiming(self, claim_ms: u64) -> Self {
        Self { claim_ms, ..self }
    }

    /// The same for an incarnation of which is known that all before it are closed.
    #[must_use]
    pub const fn of_first_open(self) -> Self {
        Self {
            is_first: true,
            ..self
        }
    }
}

/// What is in a queue.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Whether the partition is this process's, or no claim was made. If not, nothing else was answered.
    pub is_claimed: bool,
    /// The id of the store's history.
    pub history: u64,
    /// Whether the current incarnation was begun in it.
    pub is_present: bool,
    /// The incarnation that writes go to.
    pub current: Option<Incarnation>,
    /// The number of the last write to that.
    pub current_last: u64,
    /// The number of the last write in the log that was read, zero if it is empty.
    pub log_last: u64,
    /// The time, in milliseconds since 1970 by the store's clock.
    pub now_ms: u64,
    /// The writes in the order of their numbers.
    pub writes: Vec<Logged>,
    /// Whether there would be more of them if they were smaller.
    pub is_cut: bool,
}

/// One write in a log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The key of its row.
    pub key: Key,
    /// What is known of it.
    pub pending: Pending,
    /// The row, or the id of a row to delete.
    pub payload: Payload,
    /// When it was put, in milliseconds since 1970 by the store's clock.
    pub at_ms: u64,
}

/// A write that has left its queue.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The key of its row.
    pub key: Key,
    /// Its number.
    pub number: u64,
    /// For how many milliseconds the row stays; zero drops it.
    pub keep_ms: u64,
}

/// A store that keeps queues.
pub trait QueueStore: Send + Sync + 'static {
    /// When the store may acknowledge writes to a queue, as the policy demands; if never, why, and what to change.
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

    /// Begins an incarnation of a queue in the history of the store with this id, if the current one is still `from`.
    /// Answers whether it was.
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

    /// Takes note that writes of an incarnation have left the queue, and cuts its log off behind a number, unless that is
    /// zero.
    fn settle(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The queued write that stands at a key, whatever its history.
    fn queued(
        &self,
        key: &Key,
    ) -> impl Future<Output = Result<Option<(Pending, Payload)>, StoreError>> + Send;

    /// The incarnations whose logs are here.
    fn logs(
        &self,
        partition: &PartitionKeys,
    ) -> impl Future<Output = Result<Vec<Incarnation>, StoreError>> + Send;

    /// Removes the log of an incarnation that nothing is written to any more.
    fn drop_log(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Some of the pending rows of a partition with their queue positions, and the cursor to go on from; zero is both the first and the end.
    fn pending_index(
        &self,
        partition: &PartitionKeys,
        cursor: u64,
    ) -> impl Future<Output = Result<(u64, Vec<(Key, QueuePosition)>), StoreError>> + Send;

    /// Gives up the claim of this process on a partition.
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
