//! Write-behind: a write is acknowledged when it stands in a queue of the store, and the database gets it later.
//!
//! 1. A *put* stores the row at its key as `Pending`, marks the key in the partition's index, and appends the row to the
//!    partition's queue: one atomic step of the store, whose answer is the acknowledgement (`put`).
//! 2. Readers are served the pending row like any other. A pending row that the store has lost is rebuilt from the queue.
//! 3. A *flush* takes the writes behind the position that the database knows, the last one of each key, and in one
//!    transaction moves the position by compare-and-set and applies them (`apply`). Only then are the marks cleared and the
//!    queue cut off (`flush`).
//!
//! Invariant: the position and the rows are committed together, so a write is applied exactly once, in the order of its
//! queue, whoever stops or starts when.
//! Invariant: positions of one *incarnation* of a queue are never compared with those of another (`position`).

pub mod apply;
mod batch;
mod canonical;
mod flush;
mod flusher;
mod held;
pub mod letters;
mod loss;
pub mod offsets;
mod put;
pub(crate) mod queue;
mod replay;
mod row_error;
mod stale_pending;
mod unregistered;
mod verify;

#[cfg(feature = "internal-faults")]
pub(crate) use self::held::changed;
pub(crate) use self::queue::Queue;
pub use self::{
    batch::{Batch, Image, Queued},
    flusher::{Flusher, Pending},
    replay::DeadLetters,
};
