//! The place of a write in its queue: which incarnation of the queue, and the number in it.
//!
//! A store can lose a queue, or come back with an older one. Numbers that were given again would then look as if they had
//! been applied. So a queue that may have lost something is never written to again: a new incarnation is registered in the
//! database, which gives it the next *epoch*, and writes go there. Flushes take the incarnations in the order of their
//! epochs.
//!
//! Invariant: within one incarnation, numbers count from one without a gap, and no number is given twice.

use std::fmt;

/// The length of an incarnation in an entry, in bytes.
pub const INCARNATION_LENGTH: usize = 16;
/// The length of a queue position in an entry, in bytes.
pub const QUEUE_POSITION_LENGTH: usize = INCARNATION_LENGTH + 8;

/// One life of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation {
    /// Its place among the incarnations of its queue, from one, given by the database.
    pub epoch: u64,
    /// Drawn at random, so that two that claim one place can be told apart.
    pub nonce: u64,
}

/// The place of a write.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueuePosition {
    /// The life of the queue.
    pub incarnation: Incarnation,
    /// The number of the write in it, from one.
    pub number: u64,
}

impl Incarnation {
    /// The incarnation as it lies in an entry: two numbers, the larger digits first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; INCARNATION_LENGTH] {
        let mut bytes = [0; INCARNATION_LENGTH];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// Reads what [`Incarnation::to_bytes`] has written.
    #[must_use]
    pub fn from_bytes(bytes: [u8; INCARNATION_LENGTH]) -> Self {
        let whole = u128::from_be_bytes(bytes);
        let half = |whole: u128| u64::try_from(whole & u128::from(u64::MAX)).unwrap_or(u64::MAX);
        Self {
            epoch: half(whole >> 64),
            nonce: half(whole),
        }
    }
}

impl QueuePosition {
    /// The queue position as it is stored in an entry: the incarnation, then the number.
    #[must_use]
    pub fn to_bytes(self) -> [u8; QUEUE_POSITION_LENGTH] {
        let mut bytes = [0; QUEUE_POSITION_LENGTH];
        bytes[..INCARNATION_LENGTH].copy_from_slice(&self.incarnation.to_bytes());
        bytes[INCARNATION_LENGTH..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// Reads what [`QueuePosition::to_bytes`] has written.
    #[must_use]
    pub fn from_bytes(bytes: [u8; QUEUE_POSITION_LENGTH]) -> Self {
        let mut incarnation = [0; INCARNATION_LENGTH];
        let mut number = [0; 8];
        incarnation.copy_from_slice(&bytes[..INCARNATION_LENGTH]);
        number.copy_from_slice(&bytes[INCARNATION_LENGTH..]);
        Self {
            incarnation: Incarnation::from_bytes(incarnation),
            number: u64::from_be_bytes(number),
        }
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.epoch, self.nonce)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for QueuePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.incarnation, self.number)
    }
}
