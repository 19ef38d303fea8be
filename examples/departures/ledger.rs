//! What may a read answer? Every slot's newest revision: the one that is certain, and the one that is under way.
//!
//! 1. A writer notes the revision it is about to write. 2. It writes. 3. When the write has returned, it notes that.
//! 4. A reader takes the acknowledged revision before it asks, and the begun one after it was answered.
//!
//! Invariant: an answer between the two is one that the database held at some moment of the read. An older one is stale,
//! and a newer one cannot be; both are counted as stale.
//! Invariant: a slot has one writer at a time.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use crate::airports::{self, Airport};

/// The revision of a row that does not exist.
const ABSENT: i64 = -1;

/// The revisions of all slots.
pub(crate) struct Ledger(Vec<Slot>);

struct Slot {
    /// The newest revision whose write has returned.
    acknowledged: AtomicI64,
    /// The newest revision whose write has begun.
    begun: AtomicI64,
    /// The highest revision ever given, so that a row that was deleted and inserted again does not repeat one.
    highest: AtomicI64,
}

impl Ledger {
    /// A ledger of so many airports that exist, and so many slots after them without a row.
    pub(crate) fn new(airports: usize, unknown: usize) -> Self {
        let slot = |revision| Slot {
            acknowledged: AtomicI64::new(revision),
            begun: AtomicI64::new(revision),
            highest: AtomicI64::new(0),
        };
        let existing = (0..airports).map(|_| slot(0));
        let absent = (0..unknown).map(|_| slot(ABSENT));
        Self(existing.chain(absent).collect())
    }

    /// Whether a row is known to exist.
    pub(crate) fn exists(&self, slot: usize) -> bool {
        self.acknowledged(slot) != ABSENT
    }

    /// The newest revision whose write has returned; to be taken before a read.
    pub(crate) fn acknowledged(&self, slot: usize) -> i64 {
        self.0[slot].acknowledged.load(SeqCst)
    }

    /// Gives the revision of a write that is about to begin.
    pub(crate) fn begin(&self, slot: usize) -> i64 {
        let slot = &self.0[slot];
        let revision = slot.highest.fetch_add(1, SeqCst) + 1;
        slot.begun.store(revision, SeqCst);
        revision
    }

    /// Notes that a write has returned.
    pub(crate) fn acknowledge(&self, slot: usize, revision: i64) {
        self.0[slot].acknowledged.store(revision, SeqCst);
    }

    /// Notes that a delete has returned. Nobody may read the slot while it is deleted.
    pub(crate) fn acknowledge_delete(&self, slot: usize) {
        self.0[slot].begun.store(ABSENT, SeqCst);
        self.acknowledge(slot, ABSENT);
    }

    /// Whether an answer may be given to a read that began when `before` was acknowledged.
    pub(crate) fn allows(&self, slot: usize, before: i64, answer: Option<&Airport>) -> bool {
        let revision = match answer {
            Some(airport) if airport.id != airports::id(slot) => return false,
            Some(airport) => airport.revision,
            None => ABSENT,
        };
        (before..=self.0[slot].begun.load(SeqCst)).contains(&revision)
    }
}
