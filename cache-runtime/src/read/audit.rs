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
//! Not here: entities with a queue, whose cache has what the database does not have yet; and what an audit tells (`observe::audit`).

use std::{sync::Arc, time::Duration};

use crate::{
    clock::{Deadline, Stopwatch},
    context::{Context, run_detached},
    database::{self, WriteOutcome, backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    observe::audit::{Audit, AuditOptions, StaleRow},
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
                if audit.seen() >= options.rows {
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
            audit.describe(StaleRow {
                key: cached.key.to_string(),
                age: cached.age,
                columns,
            });
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
    let due = Duration::from_secs_f64(audit.seen() as f64 / f64::from(options.per_second));
    let early = due.saturating_sub(began.elapsed());
    if !early.is_zero() {
        Deadline::after(early).passed().await;
    }
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
