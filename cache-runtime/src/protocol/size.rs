//! The limit for the size of an encoded row, and the message about a row that exceeds it.
//!
//! Not here: the check of a row's size (`context/payload.rs`).

use std::fmt;

#[cfg(feature = "redis")]
use crate::protocol::{
    entry::{HEADER_LENGTH, SEAL_LENGTH},
    queue_position::QUEUE_POSITION_LENGTH,
};

/// The largest encoded row, in bytes, if no setting changes it.
pub(crate) const DEFAULT: u64 = 4 << 20;
/// The bytes of an entry besides the row: the header, the seal and the queue position.
#[cfg(feature = "redis")]
pub(crate) const AROUND_A_ROW: u64 = (HEADER_LENGTH + SEAL_LENGTH + QUEUE_POSITION_LENGTH) as u64;

/// A row that exceeds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge {
    /// Its size as the codec encodes it, in bytes.
    pub(crate) bytes: u64,
    pub(crate) bound: Bound,
}

/// The limit that the row exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// `max_row` of the entity or the cache.
    MaxRow(u64),
    /// The limit of the Redis server.
    Store(u64),
}

impl Bound {
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::MaxRow(bytes) | Self::Store(bytes) => bytes,
        }
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, bound } = self;
        let most = bound.bytes();
        write!(f, "it has {bytes} bytes when it is encoded, and ")?;
        match bound {
            Bound::MaxRow(_) => write!(
                f,
                "`max_row` allows {most}; raise it with `#[cached(max_row = \"..\")]` or `CacheBuilder::max_row`"
            )?,
            Bound::Store(_) => write!(
                f,
                "Redis takes {most} at once; raise its settings `proto-max-bulk-len` and `client-query-buffer-limit`"
            )?,
        }
        f.write_str(", or store the large part in another table")
    }
}
