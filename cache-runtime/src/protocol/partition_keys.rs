//! The names of one queue: a partition of an entity's rows.
//!
//! The rows of a write-behind entity are spread over partitions by their ids. All keys of a partition, the rows' and the
//! queue's, carry one Redis Cluster hash tag, so one script can touch them together.
//!
//! Invariant: the number of partitions is part of every name, so that queues of another number are never taken for these.

use crate::protocol::{
    key::{Key, partition_tag},
    queue_position::Incarnation,
};

/// What the names of all queues begin with.
const QUEUES: &str = "larder:q:";

/// One queue in the store.
#[derive(Debug)]
pub struct PartitionKeys {
    /// Its number, from zero.
    pub number: u16,
    /// What all of its names begin with.
    base: String,
    /// The hash of what is known of the queue: `i` the incarnation, `s` the id of the store's history it was begun in,
    /// `l` the name of its log, `n` the number of the last write, `t` up to which number the log was cut off.
    pub state: Key,
    /// The hash of pending rows: from a key to the queue position of its latest write.
    pub pending_index: Key,
    /// The set of incarnations that have a log here.
    pub logs: Key,
    /// The name of the process that flushes; for efficiency only.
    pub flusher: Key,
}

impl PartitionKeys {
    /// The partition with a number, of the queue with a name.
    #[must_use]
    pub fn new(queue: &str, number: u16) -> Self {
        let base = format!("{QUEUES}{}:", partition_tag(queue, number));
        let name = |part: &str| Key::from_bytes(format!("{base}{part}").as_bytes());
        Self {
            number,
            state: name("state"),
            pending_index: name("pending"),
            logs: name("logs"),
            flusher: name("flusher"),
            base,
        }
    }

    /// Whether a key is one of this partition's rows.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        let tag = self.base.trim_start_matches(QUEUES).trim_end_matches(':');
        key.as_bytes().starts_with(tag.as_bytes())
    }

    /// What the names of logs begin with.
    #[must_use]
    pub fn log_prefix(&self) -> String {
        format!("{}log:", self.base)
    }

    /// The stream of one incarnation.
    #[must_use]
    pub fn log(&self, incarnation: Incarnation) -> Key {
        let bytes = u128::from_be_bytes(incarnation.to_bytes());
        Key::from_bytes(format!("{}log:{bytes:032x}", self.base).as_bytes())
    }
}
