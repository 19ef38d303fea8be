//! Repairs: the invalidations that this process could not deliver, and how they are delivered later.
//!
//! Without them, the cache would miss an update that is made while the store is unreachable: it would serve the old row
//! until its time to live ends.
//!
//! 1. A write that could not invalidate its key records a repair ([`Repairs::remember`]) before it returns.
//! 2. From then on this process neither serves nor fills the key ([`Repairs::blocks`]). Reads go to the database.
//! 3. A task delivers the repairs as soon as the store answers, many keys at a time, and removes each delivered one.
//! 4. Beyond the limit, keys are not listed. Then *all* keys are blocked until a sweep has dropped every key of this
//!    cache's entities, cursor by cursor.
//!
//! Invariant: a repair is removed only after the store has acknowledged it, and only if the key was not recorded again
//! since it was sent. A sweep counts only for keys that were recorded before it began, and only if one connection lasts
//! through it.
//!
//! Invariant: a read that begins after an undelivered write has returned does not return an older row. Three checks
//! ensure it. Each is one atomic load while there are no repairs:
//! - Before the store is asked. A check after the reply would not be enough: the store may send the old row before the
//!   repair arrives, and the repair may be removed before the reply is checked.
//! - When a row has arrived from the store, for keys that were recorded while it was on its way.
//! - Before a fill, after the flight was closed. A caller that joined before may have joined after the write returned,
//!   and would share the row if the fill were accepted. At this point either the key is still blocked, and nothing is
//!   filled. Or the repair was delivered, and has ended the lease of the fill.
//!
//! Commands that were sent before the store stopped answering may be executed late, even after a repair that went over
//! a newer connection. That is harmless: a late fill or cache update finds its lease or intent gone or marked, and a
//! late intent only blocks the key until it expires.
//!
//! A repair that the store has acknowledged is final. If the store loses it (a restart with older data, a promoted
//! replica), its history changes, and its old entries are not served. Nothing has to be delivered *before* a new link
//! is used, because `blocks` blocks the keys in this process. There is one exception: a primary that was cut off while
//! other processes already used its successor. For them, the recently written keys (`recent`) are invalidated again on
//! the successor.
//!
//! Not here: other processes, which may serve the old row until a repair is delivered, at most until its time to live
//! ends. A crash of this process with pending repairs has the same effect.

mod backlog;
mod delivery;
#[cfg(feature = "redis")]
mod recent;

use std::time::Duration;

pub(crate) use self::backlog::{DEFAULT_LIMIT, Repairs};
use crate::{clock::Deadline, protocol::token::Token, store::AnyStore};

/// The cache that repairs belong to.
pub(crate) trait Host: Send + Sync {
    fn store(&self) -> &AnyStore;
    fn repairs(&self) -> &Repairs;
}

/// The command that has to be delivered for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// The row has changed: drop the entry.
    Drop,
    /// The row may still change, because the outcome of a write is unknown: place the write's intent and let it expire.
    Announce { intent: Token, intent_ttl_ms: u64 },
    /// The key is the clock of an entity's tags, and some of its rows have changed: advance it for all of them.
    Advance,
}

impl Repair {
    /// Returns the repair that covers both: an intent also drops the entry.
    fn and(self, later: Self) -> Self {
        match (self, later) {
            // The key of a clock has no other repairs.
            (Self::Advance, _) | (_, Self::Advance) => Self::Advance,
            (_, Self::Drop) => self,
            (Self::Drop, _) => later,
            (
                Self::Announce {
                    intent_ttl_ms: earlier_ttl_ms,
                    ..
                },
                Self::Announce {
                    intent,
                    intent_ttl_ms,
                },
            ) => Self::Announce {
                intent,
                intent_ttl_ms: intent_ttl_ms.max(earlier_ttl_ms),
            },
        }
    }

    /// Returns when the write can no longer take effect, unless it has already ended.
    fn ends_at(self) -> Option<Deadline> {
        match self {
            Self::Drop | Self::Advance => None,
            Self::Announce { intent_ttl_ms, .. } => {
                Some(Deadline::after(Duration::from_millis(intent_ttl_ms)))
            }
        }
    }
}
