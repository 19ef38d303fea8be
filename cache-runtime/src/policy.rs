//! How an entity is cached: plain data, which the derive validates.
//!
//! Every duration is stored in whole milliseconds, the resolution of Redis.

use std::time::Duration;

/// A payload codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// MessagePack with field names.
    #[cfg(feature = "msgpack")]
    MessagePack,
    /// postcard: compact and positional.
    #[cfg(feature = "postcard")]
    Postcard,
    /// JSON.
    #[cfg(feature = "json")]
    Json,
}

impl Default for Codec {
    fn default() -> Self {
        #[cfg(feature = "msgpack")]
        return Self::MessagePack;
        #[cfg(all(feature = "postcard", not(feature = "msgpack")))]
        return Self::Postcard;
        #[cfg(all(feature = "json", not(feature = "msgpack"), not(feature = "postcard")))]
        return Self::Json;
    }
}

/// The maximum size of an in-process store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// A number of rows and absences.
    Rows(usize),
    /// A number of bytes. Each row counts as its encoded size, its key and about 250 bytes.
    Bytes(u64),
}

/// The limits of the loads of one repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoadLimits {
    /// The maximum number of loads that run at the same time (`max_concurrent_loads`).
    pub(crate) running: usize,
    /// The maximum number of loads that wait for their turn (`max_waiting_loads`).
    pub(crate) waiting: usize,
}

/// The caching policy of an entity.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// The caching pattern.
    pub strategy: Strategy,
    /// How stale a read may be after a write.
    pub coherence: Coherence,
    /// How long a row may be served, counted from the moment its loader got the lease.
    pub ttl: Duration,
    /// The largest share of `ttl` that is subtracted at random, so that entries filled together do not expire together.
    pub jitter: f64,
    /// How long the absence of a row may be served. `None`: absences are not cached.
    pub negative_ttl: Option<Duration>,
    /// The namespace of the entity's keys. `None`: the namespace of the cache.
    pub namespace: Option<&'static str>,
    /// Whether all keys of the entity carry one Redis Cluster hash tag and so live in one slot.
    pub hash_tag: bool,
    /// The payload codec. `None`: the codec of the cache.
    pub codec: Option<Codec>,
    /// The maximum size of an encoded row in bytes. `None`: the maximum of the cache.
    pub max_row: Option<u64>,
    /// How long one reader may take to load a row before another reader may try.
    pub lease_ttl: Duration,
    /// How long a reader waits for another reader's load before it reads the database itself.
    pub lease_wait: Duration,
    /// How long the intent of a write blocks its key if the writer disappears. Until then reads go to the database.
    pub intent_ttl: Duration,
    /// What a write does when it cannot place its intents because the store is unreachable.
    pub on_outage: OnOutage,
    /// Whether triggers change rows after the statement that wrote them. Then the rows it returned are not cached.
    pub after_triggers: bool,
    /// Whether single writes of several callers that meet are executed together. `None`: as the database gains by it.
    pub gather_writes: Option<bool>,
    /// How writes are queued, under [`Strategy::WriteBehind`].
    pub queue: QueuePolicy,
}

/// How the writes of a write-behind entity are queued and flushed to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuePolicy {
    /// The number of partitions that the rows are spread over by id, 1 to 256. Each partition is ordered and flushed on
    /// its own.
    pub partitions: u16,
    /// The maximum number of pending writes in all partitions together.
    pub max_pending: u64,
    /// What a write does when the queue is full.
    pub on_full: OnFull,
    /// What an acknowledged write survives. `None`: [`Durability::Fsync`] on Redis; in-process, `Fsync` with a journal
    /// and [`Durability::Memory`] without.
    pub durability: Option<Durability>,
    /// The maximum number of writes in one flush.
    pub batch: u32,
    /// How long a flush waits for more writes.
    pub linger: Duration,
    /// The directory of the in-process store's journal.
    pub journal: Option<&'static str>,
}

impl QueuePolicy {
    /// The queue of an entity that names no option.
    pub const DEFAULT: Self = Self {
        partitions: 4,
        max_pending: 100_000,
        on_full: OnFull::Flush,
        durability: None,
        batch: 1_000,
        linger: Duration::from_millis(50),
        journal: None,
    };
}

impl Policy {
    /// The policy of an entity that names no option.
    pub const DEFAULT: Self = Self {
        strategy: Strategy::Aside,
        coherence: Coherence::Intent,
        ttl: Duration::from_secs(300),
        jitter: 0.1,
        negative_ttl: Some(Duration::from_secs(30)),
        namespace: None,
        hash_tag: false,
        codec: None,
        max_row: None,
        lease_ttl: Duration::from_secs(5),
        lease_wait: Duration::from_millis(100),
        intent_ttl: Duration::from_secs(10),
        on_outage: OnOutage::Available,
        after_triggers: false,
        gather_writes: None,
        queue: QueuePolicy::DEFAULT,
    };

    /// Sets the caching pattern.
    #[must_use]
    pub const fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sets how stale a read may be after a write.
    #[must_use]
    pub const fn coherence(mut self, coherence: Coherence) -> Self {
        self.coherence = coherence;
        self
    }

    /// Sets the time to live of a row, in milliseconds.
    #[must_use]
    pub const fn ttl(mut self, milliseconds: u64) -> Self {
        self.ttl = Duration::from_millis(milliseconds);
        self
    }

    /// Sets the largest share of the time to live that is subtracted at random.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Sets the time to live of an absence, in milliseconds.
    #[must_use]
    pub const fn negative_ttl(mut self, milliseconds: u64) -> Self {
        self.negative_ttl = Some(Duration::from_millis(milliseconds));
        self
    }

    /// Switches absence caching off.
    #[must_use]
    pub const fn without_negative(mut self) -> Self {
        self.negative_ttl = None;
        self
    }

    /// Sets the namespace of the entity's keys.
    #[must_use]
    pub const fn namespace(mut self, namespace: &'static str) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Puts all keys of the entity into one Redis Cluster slot.
    #[must_use]
    pub const fn hash_tag(mut self) -> Self {
        self.hash_tag = true;
        self
    }

    /// Sets the payload codec.
    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Sets the maximum size of an encoded row in bytes.
    #[must_use]
    pub const fn max_row(mut self, bytes: u64) -> Self {
        self.max_row = Some(bytes);
        self
    }

    /// Sets the time one reader may take to load a row, in milliseconds.
    #[must_use]
    pub const fn lease_ttl(mut self, milliseconds: u64) -> Self {
        self.lease_ttl = Duration::from_millis(milliseconds);
        self
    }

    /// Sets the time a reader waits for another reader's load, in milliseconds.
    #[must_use]
    pub const fn lease_wait(mut self, milliseconds: u64) -> Self {
        self.lease_wait = Duration::from_millis(milliseconds);
        self
    }

    /// Sets how long the intent of a write blocks its key if the writer disappears, in milliseconds.
    #[must_use]
    pub const fn intent_ttl(mut self, milliseconds: u64) -> Self {
        self.intent_ttl = Duration::from_millis(milliseconds);
        self
    }

    /// Sets what a write does when it cannot place its intents because the store is unreachable.
    #[must_use]
    pub const fn on_outage(mut self, on_outage: OnOutage) -> Self {
        self.on_outage = on_outage;
        self
    }

    /// Declares that triggers change rows after the statement that wrote them.
    #[must_use]
    pub const fn after_triggers(mut self) -> Self {
        self.after_triggers = true;
        self
    }

    /// Sets whether single writes of several callers that meet are executed together.
    #[must_use]
    pub const fn gather_writes(mut self, gathers: bool) -> Self {
        self.gather_writes = Some(gathers);
        self
    }

    /// Sets the number of partitions that the rows are spread over.
    #[must_use]
    pub const fn partitions(mut self, partitions: u16) -> Self {
        self.queue.partitions = partitions;
        self
    }

    /// Sets the maximum number of pending writes.
    #[must_use]
    pub const fn max_pending(mut self, writes: u64) -> Self {
        self.queue.max_pending = writes;
        self
    }

    /// Sets what a write does when the queue is full.
    #[must_use]
    pub const fn on_full(mut self, on_full: OnFull) -> Self {
        self.queue.on_full = on_full;
        self
    }

    /// Sets what an acknowledged write survives.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.queue.durability = Some(durability);
        self
    }

    /// Sets the maximum number of writes in one flush.
    #[must_use]
    pub const fn batch(mut self, writes: u32) -> Self {
        self.queue.batch = writes;
        self
    }

    /// Sets how long a flush waits for more writes, in milliseconds.
    #[must_use]
    pub const fn linger(mut self, milliseconds: u64) -> Self {
        self.queue.linger = Duration::from_millis(milliseconds);
        self
    }

    /// Sets the directory of the in-process store's journal.
    #[must_use]
    pub const fn journal(mut self, path: &'static str) -> Self {
        self.queue.journal = Some(path);
        self
    }
}

/// The caching pattern of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Reads fill the cache. Writes go to the database and drop the entry.
    Aside,
    /// Reads fill the cache. Writes go to the database and then cache the row as the database has it.
    WriteThrough,
    /// Writes go to a queue in the store, which acknowledges them. Reads see them immediately. They are flushed to the
    /// database later, in batches.
    WriteBehind,
}

/// What a write does when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// It makes room by flushing queued writes itself, and returns when its own write is in the database.
    Flush,
    /// It fails with the kind `Backpressure`.
    Refuse,
}

/// What an acknowledged write of a write-behind entity survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// It survives a power failure: it is on disk. On Redis this needs `appendfsync always`, or Redis 7.2 with
    /// `appendfsync everysec`. With `everysec` each write waits until Redis has synced its file.
    Fsync,
    /// It survives a crash of the program. A crash of Redis or of its machine can lose the writes since Redis last
    /// synced its file: one to two seconds with `appendfsync everysec`.
    Memory,
}

/// What a write does when it cannot place its intents because the store is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOutage {
    /// The write is executed. This process tracks its key and reads it from the database until the store has dropped
    /// the old entry. Until then other processes may serve the old row, at most until its time to live ends.
    Available,
    /// The write fails before it reaches the database, so no process ever serves an old row.
    Consistent,
}

/// How stale a cached read may be after a write made through a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Coherence {
    /// Stale up to the time to live: writes do not touch the cache at all.
    Ttl,
    /// Never stale once the write has returned. Between its commit and its return an old row may still be served. If
    /// the writer crashes in that window, the old row stays until its time to live ends.
    Lease,
    /// Never stale: reads by id are linearizable with writes, even if a writer crashes half-way.
    Intent,
}
