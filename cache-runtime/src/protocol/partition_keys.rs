//! The names of the keys of one partition of a queue.
//!
//! The rows of a write-behind entity are spread over partitions by their ids. All keys of a partition, those of the rows and
//! those of the queue, have one Redis Cluster hash tag, so that one script can use them together.
//!
//! Invariant: every name contains the number of partitions, so a queue with another number of partitions has other keys.

use crate::protocol::{
    key::{Key, partition_tag},
    queue_position::Incarnation,
};

/// The prefix of all names of queues.
const QUEUES: &str = "larder:q:";

/// The names of one partition's keys.
#[derive(Debug)]
pub struct PartitionKeys {
    /// The partition's number, from zero.
    pub number: u16,
    /// The prefix of all names of the partition's queue.
    base: String,
    /// The hash with the state of the queue: `i` the incarnation, `s` the history that the store had when the incarnation
    /// began, `l` the name of the log, `n` the number of the last write, `t` the number up to which the log was trimmed, `r`
    /// 1 when all earlier incarnations are closed and rows may be cached.
    pub state: Key,
    /// The hash of pending rows. It maps a key to the queue position of its latest write.
    pub pending_index: Key,
    /// The set of incarnations that have a log in the store.
    pub logs: Key,
    /// The name of the process that has the claim. A claim saves work and decides nothing.
    pub flusher: Key,
}

impl PartitionKeys {
    /// Makes the names of the partition with this number, of the queue with this name.
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

    /// Returns whether a key is the key of a row in this partition.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        let tag = self.base.trim_start_matches(QUEUES).trim_end_matches(':');
        key.as_bytes().starts_with(tag.as_bytes())
    }

    /// Returns the prefix of the names of all logs.
    #[must_use]
    pub fn log_prefix(&self) -> String {
        format!("{}log:", self.base)
    }

    /// Returns the name of the log of one incarnation, a Redis stream.
    #[must_use]
    pub fn log(&self, incarnation: Incarnation) -> Key {
        let bytes = u128::from_be_bytes(incarnation.to_bytes());
        Key::from_bytes(format!("{}log:{bytes:032x}", self.base).as_bytes())
    }
}
