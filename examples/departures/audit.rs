//! Is what the cache has what the database has? An audit compares the two, while airports are read and edited.
//!
//! 1. While others are at work, audit after audit, as an operator would. 2. Then until enough was compared. 3. With `--break`, the edits have
//!    gone past the cache, so the audit must find stale rows.
//!
//! Invariant: it has a repository and connections of its own, so it is not among what the desk counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use larder::{AuditOptions, Cache};
use sqlx::Pool;

use crate::{
    Fallible,
    airports::{Airport, AirportRepository},
    dialect::Dialect,
};

/// What all audits came to.
#[derive(Clone, Default)]
pub(crate) struct Audited {
    pub(crate) audits: u64,
    pub(crate) checked: u64,
    pub(crate) stale: u64,
    /// Rows that were written at the same time.
    pub(crate) changing: u64,
    /// The first stale row, in words.
    pub(crate) example: Option<String>,
}

/// Audits until they are told to end.
pub(crate) struct Auditor<DB: Dialect> {
    airports: AirportRepository<DB>,
    is_over: Arc<AtomicBool>,
    audits: tokio::task::JoinHandle<Fallible<Audited>>,
}

impl<DB: Dialect> Auditor<DB> {
    /// Begins.
    pub(crate) fn start(cache: &Cache, pool: &Pool<DB>) -> Fallible<Self> {
        let airports = Airport::try_repository(cache, pool.clone())?;
        let is_over = Arc::new(AtomicBool::new(false));
        let audits = tokio::spawn({
            let (airports, is_over) = (airports.clone(), Arc::clone(&is_over));
            async move {
                let mut audited = Audited::default();
                while !is_over.load(Relaxed) {
                    audited.add(&airports).await?;
                    tokio::task::yield_now().await;
                }
                Fallible::Ok(audited)
            }
        });
        Ok(Self {
            airports,
            is_over,
            audits,
        })
    }

    /// Ends when at least so many rows were compared.
    pub(crate) async fn end(self, rows: u64) -> Fallible<Audited> {
        self.is_over.store(true, Relaxed);
        let mut audited = self.audits.await??;
        while audited.checked < rows {
            let before = audited.checked;
            audited.add(&self.airports).await?;
            if audited.checked == before {
                return Err("an audit has found nothing in the cache".into());
            }
        }
        Ok(audited)
    }
}

impl Audited {
    async fn add<DB: Dialect>(&mut self, airports: &AirportRepository<DB>) -> Fallible<()> {
        let options = AuditOptions::default().rows(u64::MAX).per_second(0);
        let audit = airports.audit(options).await?;
        self.audits += 1;
        self.checked += audit.checked;
        self.stale += audit.stale;
        self.changing += audit.changing;
        if self.example.is_none() {
            let mut found = audit.examples.into_iter();
            let example = found.next();
            self.example = example.map(|entry| format!("{} {}", entry.key, entry.difference));
        }
        Ok(())
    }
}
