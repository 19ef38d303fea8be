//! How is every look-up counted and checked? By going through here: one read or one edit, with its entry in the ledger.
//!
//! Invariant: `reads` counts the calls of `find`, apart from what the repository counts, so that the two can be compared.
//! Invariant: a read is compared with what had been acknowledged before it began, never with what came later.

use std::{
    ops::Sub,
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use larder::Stats;
use sqlx::Pool;

use crate::{
    Fallible,
    airports::{self, Airport, AirportRepository, Airports},
    dialect::Dialect,
    ledger::Ledger,
};

/// Where airports are looked up and edited.
pub(crate) struct Desk<DB: Dialect> {
    pub(crate) airports: Airports,
    repository: AirportRepository<DB>,
    ledger: Ledger,
    /// Where to write past the cache, if that is what was asked for.
    past: Option<Pool<DB>>,
    reads: AtomicU64,
    reads_after_edits: AtomicU64,
    edits: AtomicU64,
    stale: AtomicU64,
}

/// What happened so far, or between two moments.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Look-ups, by the desk's own count.
    pub(crate) reads: u64,
    /// Look-ups of rows that had been edited before.
    pub(crate) reads_after_edits: u64,
    /// Inserts, updates and deletes.
    pub(crate) edits: u64,
    /// Answers that the ledger does not allow.
    pub(crate) stale: u64,
    /// Look-ups that the cache answered with a row.
    pub(crate) hits: u64,
    /// Look-ups that the cache answered with "does not exist".
    pub(crate) negative_hits: u64,
    /// Statements that look-ups sent to the database.
    pub(crate) statements: u64,
    /// The rows that these statements looked for.
    pub(crate) loads: u64,
}

impl<DB: Dialect> Desk<DB> {
    /// A desk over a full table. With `past`, edits are made there with plain SQL.
    pub(crate) fn new(
        airports: Airports,
        unknown: usize,
        repository: AirportRepository<DB>,
        past: Option<Pool<DB>>,
    ) -> Self {
        Self {
            ledger: Ledger::new(airports.len(), unknown),
            airports,
            repository,
            past,
            reads: AtomicU64::default(),
            reads_after_edits: AtomicU64::default(),
            edits: AtomicU64::default(),
            stale: AtomicU64::default(),
        }
    }

    /// Looks an airport up and checks the answer.
    pub(crate) async fn look_up(&self, slot: usize) -> Fallible<Option<Arc<Airport>>> {
        let before = self.ledger.acknowledged(slot);
        self.reads.fetch_add(1, Relaxed);
        if before > 0 {
            self.reads_after_edits.fetch_add(1, Relaxed);
        }
        let answer = self.repository.find(airports::id(slot)).await?;
        if !self.ledger.allows(slot, before, answer.as_deref()) {
            self.stale.fetch_add(1, Relaxed);
        }
        Ok(answer)
    }

    /// Changes an airport, or inserts it if there is none. One at a time for a slot.
    pub(crate) async fn edit(&self, slot: usize) -> Fallible<()> {
        let exists = self.ledger.exists(slot);
        let revision = self.ledger.begin(slot);
        let airport = self.airports.edited(slot, revision);
        self.edits.fetch_add(1, Relaxed);
        match (&self.past, exists) {
            (None, true) => drop(self.repository.update(&airport).await?),
            (None, false) => drop(self.repository.insert(&airport).await?),
            (Some(past), true) => DB::update(&mut *past.acquire().await?, &airport).await?,
            (Some(past), false) => {
                DB::insert(&mut *past.acquire().await?, slice::from_ref(&airport)).await?;
            }
        }
        self.ledger.acknowledge(slot, revision);
        Ok(())
    }

    /// Deletes an airport. Nobody may look it up at the same time.
    pub(crate) async fn delete(&self, slot: usize) -> Fallible<()> {
        self.edits.fetch_add(1, Relaxed);
        let id = airports::id(slot);
        match &self.past {
            None => self.repository.delete(id).await?,
            Some(past) => DB::delete(&mut *past.acquire().await?, id).await?,
        }
        self.ledger.acknowledge_delete(slot);
        Ok(())
    }

    /// What the repository has counted.
    pub(crate) fn stats(&self) -> Stats {
        self.repository.stats()
    }

    pub(crate) fn figures(&self) -> Figures {
        let stats = self.stats();
        Figures {
            reads: self.reads.load(Relaxed),
            reads_after_edits: self.reads_after_edits.load(Relaxed),
            edits: self.edits.load(Relaxed),
            stale: self.stale.load(Relaxed),
            hits: stats.hits,
            negative_hits: stats.negative_hits,
            loads: stats.loads,
            statements: stats.load_statements,
        }
    }
}

impl Sub for Figures {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            reads_after_edits: self.reads_after_edits - before.reads_after_edits,
            edits: self.edits - before.edits,
            stale: self.stale - before.stale,
            hits: self.hits - before.hits,
            negative_hits: self.negative_hits - before.negative_hits,
            loads: self.loads - before.loads,
            statements: self.statements - before.statements,
        }
    }
}
