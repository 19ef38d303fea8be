//! How large an encoded row may be, and how that is said.
//!
//! Not here: where rows are judged by their size (`context/payload.rs`).

use std::fmt;

#[cfg(feature = "redis")]
use crate::protocol::{entry::HEADER_LENGTH, queue_position::QUEUE_POSITION_LENGTH};

/// How many bytes an encoded row may have, where nobody says otherwise.
pub(crate) const DEFAULT: u64 = 4 << 20;
/// What an entry has beside the row: its header, and its queue position.
#[cfg(feature = "redis")]
pub(crate) const AROUND_A_ROW: u64 = (HEADER_LENGTH + QUEUE_POSITION_LENGTH) as u64;

/// A row that is larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge {
    /// Its bytes, as the codec writes it.
    pub(crate) bytes: u64,
    pub(crate) bound: Bound,
}

/// Whose bound it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The entity's, or the cache's.
    MaxRow(u64),
    /// The server's.
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
        f.write_str(", or keep what is large in a table of its own")
    }
}
