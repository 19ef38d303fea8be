//! The position of a write in its queue: the incarnation of the queue, and the number of the write in it.
//!
//! A store can lose a queue, or come back with an older copy of it. If it assigned the same numbers again, new writes would
//! look as if they had been applied. So larder never appends to a queue that may have lost writes. It registers a new
//! incarnation in the database, which gives it the next *epoch*, and appends there. Flushes take the incarnations in the
//! order of their epochs.
//!
//! Invariant: within one incarnation, numbers count from one without a gap, and no number is assigned twice.

use std::fmt;

/// The length of an incarnation in an entry, in bytes.
pub const INCARNATION_LENGTH: usize = 16;
/// The length of a queue position in an entry, in bytes.
pub const QUEUE_POSITION_LENGTH: usize = INCARNATION_LENGTH + 8;

/// The largest number and epoch that larder gives: Lua, which counts in the store, is exact up to here.
pub const MAX_NUMBER: u64 = 1 << 53;
/// The largest gap between the numbers of two writes that follow each other. A store loses no more than a queue has room for.
pub const MAX_GAP: u64 = 1 << 32;

/// One life of a partition's log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation {
    /// The number of the incarnation in its queue, from one. The database assigns it.
    pub epoch: u64,
    /// A random number. It distinguishes two incarnations that try to register the same epoch.
    pub nonce: u64,
}

/// The position of a write.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueuePosition {
    /// The incarnation of the queue.
    pub incarnation: Incarnation,
    /// The number of the write in the incarnation, from one.
    pub number: u64,
}

impl Incarnation {
    /// Returns the incarnation as it is stored in an entry: two big-endian numbers.
    #[must_use]
    pub fn to_bytes(self) -> [u8; INCARNATION_LENGTH] {
        let mut bytes = [0; INCARNATION_LENGTH];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    /// Reads the bytes that [`Incarnation::to_bytes`] has written.
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
    /// Returns the position as it is stored in an entry: the incarnation, then the number.
    #[must_use]
    pub fn to_bytes(self) -> [u8; QUEUE_POSITION_LENGTH] {
        let mut bytes = [0; QUEUE_POSITION_LENGTH];
        bytes[..INCARNATION_LENGTH].copy_from_slice(&self.incarnation.to_bytes());
        bytes[INCARNATION_LENGTH..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// Reads the bytes that [`QueuePosition::to_bytes`] has written.
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
