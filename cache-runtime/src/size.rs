//! How large a row may be: one bound on its encoded bytes, for every store and every way into it.
//!
//! A row of some dozens of megabytes holds up everybody whose commands come behind it on the connection, and Redis breaks a
//! connection on which it is sent more at once than its `proto-max-bulk-len`. So what is too large is not sent.
//!
//! 1. A row that was loaded or written goes to its caller, is not cached, and is counted.
//! 2. A write to a queue is refused before it is acknowledged.
//!
//! Invariant: no store is given a row that is larger than [`Inner::bound`].
//! Not here: how a row is encoded (`round_trip`). The in-process store keeps rows and not their bytes, but takes none that Redis
//! would not take.

use std::fmt;

use crate::{
    backend::Backend,
    entity::Entity,
    error::{Error, ErrorKind},
    key::Key,
    repository::Inner,
    store::{Payload, Store, queue::Body},
};

/// How many bytes an encoded row may have, where nobody says otherwise.
pub(crate) const DEFAULT: u64 = 4 << 20;
/// What an entry has beside the row: its header, and its mark.
#[cfg(feature = "redis")]
pub(crate) const AROUND_A_ROW: u64 =
    (crate::entry::HEADER_LENGTH + crate::behind::mark::MARK_LENGTH) as u64;

/// A row that is larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge {
    /// Its bytes, as the codec writes it.
    bytes: u64,
    bound: Bound,
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
    const fn bytes(self) -> u64 {
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

impl<E: Entity, DB: Backend> Inner<E, DB> {
    /// How many bytes an encoded row may have now.
    fn bound(&self) -> Bound {
        let own = self.policy.max_row.unwrap_or(self.cache.max_row);
        let store = self.cache.store.most_bytes();
        if own <= store {
            Bound::MaxRow(own)
        } else {
            Bound::Store(store)
        }
    }

    /// Judges an encoded row, or id, by its size.
    pub(crate) fn check_size(&self, encoded: &[u8]) -> Result<(), TooLarge> {
        let (bytes, bound) = (encoded.len() as u64, self.bound());
        if bytes <= bound.bytes() {
            return Ok(());
        }
        self.counters.too_large.add_one();
        Err(TooLarge { bytes, bound })
    }

    /// Whether an encoded row may be cached. Says once that one may not.
    pub(crate) fn fits(&self, encoded: &[u8]) -> bool {
        let checked = self.check_size(encoded);
        if let Err(reason) = &checked
            && self.told_of_size.set(()).is_ok()
        {
            tracing::warn!(
                entity = E::SPEC.name,
                %reason,
                "a row is too large to be cached; it is read from the database each time, as all others of its size"
            );
        }
        checked.is_ok()
    }

    /// Refuses a write whose row is too large for the queue.
    pub(crate) fn check_put(
        &self,
        verb: &str,
        key: &Key,
        body: &Body,
        written: &[u8],
    ) -> Result<(), Error> {
        let encoded = match body {
            Body::Row(payload) => encoded(payload, written),
            Body::Deletion(id) => id,
        };
        self.check_size(encoded).map_err(|reason| {
            let what = self.what(key);
            let message =
                format!("failed to {verb} {what}: its row is too large to be queued: {reason}");
            Error::new(ErrorKind::TooLarge, message)
        })
    }
}

/// The bytes of a row, of which a store that keeps rows has been given none: those that the codec has written.
pub(crate) fn encoded<'a>(payload: &'a Payload, written: &'a [u8]) -> &'a [u8] {
    match payload {
        Payload::Bytes(bytes, header) => &bytes[*header..],
        Payload::Shared(_) => written,
    }
}
