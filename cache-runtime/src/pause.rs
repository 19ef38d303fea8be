//! The switch to turn a cache off while the service runs, in an incident or to find out whether the cache is at fault.
//!
//! - Reads are paused: every row comes from the database, and nothing is filled.
//! - Fills are paused: what is cached is served, and nothing new is stored.
//!
//! Invariant: writes go on to announce what they change, whatever is paused. So everything that is in the store stays as right as
//! before, and may be served again at once.
//! Invariant: a queued write is returned while reads are paused, because the database does not have it yet. Rows of an entity with a
//! queue are dropped and loaded anew by each read, and filled, because queued writes are compared with what is stored.
//! Not here: the steps of a read that is paused (`read`).

use std::sync::atomic::{AtomicBool, Ordering};

/// What is paused, for a cache or for one repository.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    reads: AtomicBool,
    fills: AtomicBool,
    /// As the command `larder` says.
    reads_outside: AtomicBool,
    fills_outside: AtomicBool,
}

impl Pauses {
    pub(crate) fn set_reads(&self, are_paused: bool) {
        self.reads.store(are_paused, Ordering::SeqCst);
    }

    pub(crate) fn set_fills(&self, are_paused: bool) {
        self.fills.store(are_paused, Ordering::SeqCst);
    }

    #[cfg(feature = "redis")]
    pub(crate) fn set_from_outside(&self, reads: bool, fills: bool) {
        self.reads_outside.store(reads, Ordering::SeqCst);
        self.fills_outside.store(fills, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn reads(&self) -> bool {
        self.reads.load(Ordering::Relaxed) || self.reads_outside.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn fills(&self) -> bool {
        self.fills.load(Ordering::Relaxed) || self.fills_outside.load(Ordering::Relaxed)
    }
}
