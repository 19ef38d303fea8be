//! What has to be asked for: how much waits in the queue of an entity, and how large the bookkeeping of its tags is.
//!
//! Not here: who asks (`behind::survey`, `cache::metrics`), and what is counted as it happens (`stats`).

use std::time::Duration;

/// The answers about one repository. What could not be asked is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// The partitions of the queue.
    pub(crate) partitions: Vec<PartitionSurvey>,
    /// How many writes are dead letters.
    pub(crate) dead_letters: Option<u64>,
    pub(crate) tags: Option<TagSurvey>,
}

/// A partition of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PartitionSurvey {
    pub(crate) number: u16,
    /// How many acknowledged writes wait.
    pub(crate) depth: u64,
    /// How long the oldest of them has waited.
    pub(crate) oldest: Option<Duration>,
    /// How many acknowledged writes the store has lost, since the table exists.
    pub(crate) lost: u64,
}

/// How much an in-process store has.
#[derive(Clone, Copy, Debug)]
pub struct MemoryUsage {
    pub(crate) entries: u64,
    /// What they take of the capacity, in rows or bytes.
    pub(crate) weight: u64,
    /// How many rows or bytes there is room for.
    pub(crate) capacity: u64,
    /// How many entries were dropped because there was no room for them.
    pub(crate) evictions: u64,
}

/// How a server was reached.
#[cfg(feature = "redis")]
#[derive(Debug)]
pub struct LinkUsage {
    /// How often it was connected to.
    pub(crate) connections: u64,
    /// How long it took to answer.
    pub(crate) round_trips: std::sync::Arc<super::timing::Timing>,
}

/// What a store has measured.
#[derive(Debug)]
pub enum StoreUsage {
    /// That of the memory of this process.
    Memory(MemoryUsage),
    /// That of a server.
    #[cfg(feature = "redis")]
    Link(LinkUsage),
}

/// The bookkeeping of the tags of an entity.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TagSurvey {
    /// How many tags it remembers.
    pub(crate) marks: u64,
    /// What it has at least forgotten: entries from before this time of the clock are loaded again.
    pub(crate) floor: u64,
}
