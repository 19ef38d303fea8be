//! Write-behind: a write is acknowledged when the store has queued it, and the database gets it later.
//!
//! 1. A *put* is one atomic step of the store: it stores the row at its key as `Pending`, notes the key in the partition's index
//!    of pending rows, and appends the row to the log. Its answer is the acknowledgement (`put`).
//! 2. Readers are served the pending row like any other. A pending row that the store has evicted is restored from the log.
//! 3. A *flush* reads the writes after the position that the database knows. In one transaction it moves the position by
//!    compare-and-set and applies the last write of each row (`apply`).
//! 4. Then it settles: the store forgets that the rows are pending, and the log is cut off (`flush`).
//!
//! Invariant: the position and the rows are committed together, so a write is applied exactly once and in the order of its
//! queue, even if processes crash.
//! Invariant: positions of one *incarnation* are never compared with those of another (`queue_position`).

pub mod apply;
mod batch;
mod canonical;
mod flush;
mod flusher;
mod held;
mod incarnation;
pub mod letter_seal;
pub mod letters;
mod loss;
pub mod offsets;
mod partition;
mod put;
pub(crate) mod queue;
mod replay;
mod row_error;
mod stale_pending;
#[cfg(feature = "metrics")]
mod survey;
mod unregistered;
mod verify;

#[cfg(feature = "internal-faults")]
pub(crate) use self::held::changed;
pub use self::{
    batch::{Batch, Image, Queued},
    flusher::{Flusher, Pending},
    replay::DeadLetters,
};
