//! Compares what is cached with the database, in production.
//!
//! 1. Scan the keys of the entity's rows, a step at a time.
//! 2. Look at the keys as a reader does: what no reader would be served is passed over.
//! 3. Read the same rows from the database, with one statement.
//! 4. Where they differ, look at the key again. If the same entry is still there, and would still be served, the row is *stale*: it was
//!    served at a time when the database had another one. If it is gone, a write was under way, and all is well.
//!
//! Step 4 makes a false alarm impossible with the coherence `intent`: a write announces itself before its commit, so the old entry is gone
//! before the database can have the new row.
//!
//! Invariant: an audit changes nothing: it neither fills nor drops, and is no hit and no miss.
//! Not here: entities with a queue, whose cache has what the database does not have yet.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::{Deadline, Stopwatch},
    context::{Context, run_detached},
    database::{self, WriteOutcome, backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    protocol::{key::Key, token::Token},
    read::{
        LookedUp,
        content::{Content, RowOf, SelectError},
        outcome::Outcome,
    },
    store::{Found, Store, failpoint::Mechanism},
};

/// How many rows are compared with one statement.
const AT_ONCE: usize = 500;
/// How many stale rows are described.
const DESCRIBED: usize = 20;

/// How an audit is made.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct AuditOptions {
    rows: u64,
    per_second: u32,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            rows: 10_000,
            per_second: 1_000,
        }
    }
}

impl AuditOptions {
    /// Compares about so many rows at most. Default: 10,000.
    pub fn rows(mut self, rows: u64) -> Self {
        self.rows = rows;
        self
    }

    /// Compares no more rows in a second than this. Default: 1,000. With 0, there is no limit.
    pub fn per_second(mut self, rows: u32) -> Self {
        self.per_second = rows;
        self
    }
}

/// The result of an audit.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Audit {
    /// How many rows were compared.
    pub checked: u64,
    /// How many of them were stale: the cache would have served a row that the database did not have any more.
    pub stale: u64,
    /// How many were written at the same time, so that nothing can be said of them. They are not among the checked ones.
    pub changing: u64,
    /// How many have values that cannot be compared. They are not among the checked ones.
    pub not_comparable: u64,
    /// Whether all keys of the entity were looked at.
    pub is_complete: bool,
    /// The first of the stale rows.
    pub examples: Vec<StaleRow>,
}

/// A row that was stale.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StaleRow {
    /// Its key in the store.
    pub key: String,
    /// How long ago it was loaded.
    pub age: Duration,
    /// The columns that differ, or `None` if the database has no such row.
    pub columns: Option<Vec<&'static str>>,
}

impl Audit {
    /// Returns the share of the rows that were right, or `None` if none was checked.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio need not be exact")]
    pub fn right(&self) -> Option<f64> {
        (self.checked > 0).then(|| 1.0 - self.stale as f64 / self.checked as f64)
    }
}

/// A row that would be served.
struct Cached<E: Entity> {
    key: Key,
    token: Token,
    row: Arc<E>,
    age: Duration,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Compares cached rows with the database.
    pub(crate) async fn audit(self: &Arc<Self>, options: AuditOptions) -> Result<Audit, Error> {
        if self.queue.is_some() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "failed to audit {}: it is `write_behind`, so its cache has rows that the database does not have yet",
                    E::SPEC.name
                ),
            ));
        }
        self.bind_now().await?;
        let (mut audit, mut cursor, began) = (Audit::default(), 0, Stopwatch::start());
        loop {
            let scanned = self.cache.store.scan(self.keys.prefix(), cursor).await;
            let (next, keys) = scanned.map_err(not_audited::<E>)?;
            for keys in keys.chunks(AT_ONCE) {
                if seen(&audit) >= options.rows {
                    return Ok(audit);
                }
                self.audit_keys(keys, &mut audit).await?;
                keep_to(options, &audit, began).await;
            }
            cursor = next;
            if cursor == 0 {
                audit.is_complete = true;
                return Ok(audit);
            }
        }
    }

    async fn audit_keys(self: &Arc<Self>, keys: &[Key], audit: &mut Audit) -> Result<(), Error> {
        let keys: Vec<_> = keys.iter().collect();
        let (found, clock) = self.look_at_many(&keys, self.fingerprint).await;
        let mut cached = Vec::with_capacity(keys.len());
        for (key, found) in keys.into_iter().zip(found) {
            let found = found.map_err(not_audited::<E>)?;
            let Found::Value(meta, _) = &found else {
                continue;
            };
            let token = meta.lease.token;
            let looked_up = self.interpret_bound::<RowOf<E>>(key, Ok(found), &clock);
            if let LookedUp::Served(Outcome {
                row: Some(row),
                age,
                ..
            }) = looked_up.await?
            {
                let key = key.clone();
                cached.push(Cached {
                    key,
                    token,
                    row,
                    age,
                });
            }
        }
        let wanted = cached
            .iter()
            .map(|cached| (cached.key.clone(), RowOf::of(cached.row.id())));
        let mut rows = self.read_to_audit(wanted.collect()).await?;
        for cached in cached {
            let columns = match rows.remove(&cached.key) {
                None => None,
                Some(row) => match self.database.different_columns(&cached.row, &row) {
                    Ok(columns) if columns.is_empty() => {
                        self.note_audited(audit);
                        continue;
                    }
                    Ok(columns) => Some(columns),
                    Err(_) => {
                        audit.not_comparable += 1;
                        continue;
                    }
                },
            };
            if !self.is_still_served(&cached).await? {
                audit.changing += 1;
                continue;
            }
            self.note_audited(audit);
            self.counters.stale_rows.add_one();
            audit.stale += 1;
            if audit.examples.len() < DESCRIBED {
                audit.examples.push(StaleRow {
                    key: cached.key.to_string(),
                    age: cached.age,
                    columns,
                });
            }
        }
        Ok(())
    }

    fn note_audited(&self, audit: &mut Audit) {
        self.counters.audited_rows.add_one();
        audit.checked += 1;
    }

    /// Returns whether the same entry is still there, and would be served.
    async fn is_still_served(&self, cached: &Cached<E>) -> Result<bool, Error> {
        if self.cache.store.disables(Mechanism::SecondLook) {
            return Ok(true);
        }
        let (found, clock) = self.look(&cached.key, self.fingerprint).await;
        let found = found.map_err(not_audited::<E>)?;
        let is_same = matches!(&found, Found::Value(meta, _) if meta.lease.token == cached.token);
        let looked_up = self.interpret_bound::<RowOf<E>>(&cached.key, Ok(found), &clock);
        Ok(is_same && matches!(looked_up.await?, LookedUp::Served(_)))
    }

    /// Reads rows from the database, on a connection of the pool.
    async fn read_to_audit(
        self: &Arc<Self>,
        wanted: Vec<(Key, RowOf<E>)>,
    ) -> Result<std::collections::HashMap<Key, E>, Error> {
        if wanted.is_empty() {
            return Ok(std::collections::HashMap::new());
        }
        let context = Arc::clone(self);
        let read = async move {
            let refused = |error| {
                let what = format!("rows of {}", E::SPEC.name);
                database::describe("audit", &what, error, WriteOutcome::Nothing)
            };
            let mut connection = context.database.acquire().await.map_err(refused)?;
            let wanted: Vec<_> = wanted.iter().map(|(key, row)| (key, row)).collect();
            let selected = RowOf::select(&context, &mut connection, &wanted).await;
            selected.map_err(|error| match error {
                SelectError::Refused(error) => error,
                SelectError::Database(error) => refused(error),
            })
        };
        run_detached::<E, _>("audit", read).await
    }
}

/// Waits until so many rows may be compared.
async fn keep_to(options: AuditOptions, audit: &Audit, began: Stopwatch) {
    if options.per_second == 0 {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
    let due = Duration::from_secs_f64(seen(audit) as f64 / f64::from(options.per_second));
    let early = due.saturating_sub(began.elapsed());
    if !early.is_zero() {
        Deadline::after(early).passed().await;
    }
}

fn seen(audit: &Audit) -> u64 {
    audit.checked + audit.changing + audit.not_comparable
}

fn not_audited<E: Entity>(error: StoreError) -> Error {
    Error::with_source(
        ErrorKind::CacheUnavailable,
        format!(
            "failed to audit {}: the store cannot be reached or rejected the command",
            E::SPEC.name
        ),
        error,
    )
}
