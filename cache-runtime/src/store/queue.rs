//! What a store and the write-behind engine say to each other.

use crate::{
    behind::mark::{Incarnation, Mark},
    key::Key,
    state::{Condition, Meta, Pending},
    store::Payload,
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
}

/// What a queued write makes of its row.
#[derive(Clone, Debug)]
pub enum Body {
    /// The whole row.
    Row(Payload),
    /// No row; the id, as the codec writes it.
    Deletion(Vec<u8>),
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAnswer {
    /// It is queued.
    Done(Mark),
    /// The queue is of another history of the store, or there is none: a new incarnation has to be begun.
    Rotate(Option<Incarnation>),
    /// The queue holds as many writes as it may.
    Full,
    /// What is at the key does not tell whether the demand is met.
    Unknown,
    /// The demand is not met.
    Refused,
}

/// What a flusher asks of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// Whose log is read.
    pub incarnation: Incarnation,
    /// Behind which number.
    pub after: u64,
    /// How many writes at most.
    pub count: u32,
    /// For how many milliseconds this process claims the partition; zero to read without a claim.
    pub claim_ms: u64,
    /// Whether all incarnations before this one are closed. Once that is known of the current one, rows may be cached.
    pub is_first: bool,
}

/// What is in a queue.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Whether the partition is this process's, or no claim was made. If not, nothing else was answered.
    pub is_claimed: bool,
    /// The stamp of the store's history.
    pub stamp: u64,
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
