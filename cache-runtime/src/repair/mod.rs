//! Repairs: the keys whose invalidation this process could not deliver, and what is done about them.
//!
//! Without them, an update that is made while the store is away is forgotten by the cache: the store comes back with the old
//! row, and serves it until its time to live ends.
//!
//! 1. A write that could not be told to the store is remembered ([`Repairs::remember`]) before its caller has its answer.
//! 2. From then on this process serves nothing from that key and stores nothing at it ([`Repairs::denies`]): reads go to the
//!    database.
//! 3. A task delivers what is remembered as soon as the store answers, many keys at a time, and then lets go of each.
//! 4. More keys than the limit are not listed: then *everything* is denied until a sweep has dropped every key of this
//!    cache's entities, cursor by cursor.
//!
//! Invariant: a key is let go of only after the store has acknowledged its repair, and only if it was not remembered again
//! since the repair was sent; a sweep counts only for what was remembered before it began, and on one connection.
//!
//! Invariant: a read that begins after the answer of a write that was not delivered does not return an older row. Three
//! looks carry it; each is one atomic load as long as nothing is to be repaired:
//! - before the store is asked. A look after the reply alone would not do: the old row may have left the store before the
//!   repair arrived there, and be judged after the key was let go of;
//! - when a row has arrived from the store, for keys that were remembered while it was on its way;
//! - before a fill, after the flight was closed to newcomers. Whoever joined the flight before that may have joined after
//!   the write returned, and would share the row if the fill were accepted. At this moment either the key is still denied,
//!   and nothing is stored; or its repair was delivered, and has killed the lease of the fill.
//!
//! Commands that were sent before the store fell silent may be carried out late, even after a repair that went over a newer
//! connection. That is harmless: a late fill or publication finds its lease or intent gone or marked, and a late
//! announcement keeps readers off until it expires.
//!
//! A repair that the store acknowledges is delivered for good. If that store then loses it (a restart with older data, a
//! replica that is promoted), its history is another one, and nothing that it held is believed; nothing has to be delivered
//! *before* a new link is used, because `denies` keeps this process off the keys meanwhile. The one exception is a primary
//! that was cut off while others already used its successor: for them, the keys told to it lately (`recent`) are repaired
//! once more, at the successor.
//!
//! Not here: what other processes serve until a repair is delivered (the old row, at most until its time to live ends), and
//! a process that dies with repairs pending, which leaves the same.

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

/// What has to be told to the store about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// The row has changed: drop what is there.
    Drop,
    /// The row may change yet, because the outcome of a write is unknown: put the write's intent there and leave it to
    /// expire.
    Announce { intent: Token, intent_ttl_ms: u64 },
}

impl Repair {
    /// What serves both: an announcement drops what is there as well.
    fn and(self, later: Self) -> Self {
        match (self, later) {
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

    /// When the write it stands for has come to an end, if that is not now.
    fn ends_at(self) -> Option<Deadline> {
        match self {
            Self::Drop => None,
            Self::Announce { intent_ttl_ms, .. } => {
                Some(Deadline::after(Duration::from_millis(intent_ttl_ms)))
            }
        }
    }
}
