//! Compares what is cached with the database, in production.
//!
//! 1. Scan the keys of the entity's rows, and those of its lookups, a step of each at a time.
//! 2. Look at the keys as a reader does: what no reader would be served is passed over.
//! 3. Read the same from the database: the rows with one statement (`rows`), each list with one of its own (`lists`).
//! 4. Where they differ, look at the key again. If the same entry is still there, and would still be served, it is *stale*: it was
//!    served at a time when the database had something else. If it is gone, a write was under way, and all is well.
//!
//! Step 4 makes a false alarm impossible with the coherence `intent`: a write announces itself before its commit, so the old entry is gone
//! before the database can have the new row.
//!
//! Invariant: an audit changes nothing: it neither fills nor drops, and is no hit and no miss.
//! Not here: what an audit tells (`observe::audit`). Absences are not compared: a key does not tell its id or its values.

mod lists;
mod rows;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    clock::{Deadline, Stopwatch},
    context::{Context, run_detached},
    database::{self, WriteOutcome, backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    observe::audit::{Audit, AuditOptions, Difference, StaleEntry},
    protocol::{key::Key, token::Token},
    read::{
        LookedUp,
        content::{Content, SelectError},
        outcome::Outcome,
    },
    store::{
        Found, Store,
        failpoint::{Mechanism, Point},
    },
};

/// How many entries are compared at once, unless fewer may be compared in a second.
const AT_ONCE: usize = 500;

/// An entry that would be served.
struct Cached<V> {
    key: Key,
    /// What has left it: no other entry has this token.
    token: Token,
    value: Arc<V>,
    age: Duration,
}

/// The keys that are looked at.
struct Scan {
    prefix: Vec<u8>,
    /// Whether they are those of rows, and not those of lookups.
    is_of_rows: bool,
    /// Where the next step begins, until all were looked at.
    cursor: Option<u64>,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Compares cached rows and lists with the database.
    pub(crate) async fn audit(self: &Arc<Self>, options: AuditOptions) -> Result<Audit, Error> {
        self.bind_now().await?;
        let (mut audit, began) = (Audit::default(), Stopwatch::start());
        let at_once = match options.per_second {
            0 => AT_ONCE,
            rate => usize::try_from(rate).map_or(AT_ONCE, |rate| rate.min(AT_ONCE)),
        };
        let prefixes = self.keys.prefixes(Self::HAS_LOOKUPS);
        let scans = prefixes.into_iter().enumerate();
        let mut scans: Vec<_> = scans
            .map(|(at, prefix)| Scan {
                prefix,
                is_of_rows: at == 0,
                cursor: Some(0),
            })
            .collect();
        while scans.iter().any(|scan| scan.cursor.is_some()) {
            for scan in &mut scans {
                let Some(cursor) = scan.cursor else { continue };
                let scanned = self.cache.store.scan(&scan.prefix, cursor).await;
                let (next, keys) = scanned.map_err(not_audited::<E>)?;
                for keys in keys.chunks(at_once) {
                    if audit.seen() >= options.rows {
                        return Ok(audit);
                    }
                    if scan.is_of_rows {
                        self.audit_rows(keys, &mut audit).await?;
                    } else if Self::HAS_LOOKUPS {
                        self.audit_lists(keys, &mut audit).boxed().await?;
                    }
                    keep_to(options, &audit, began).await;
                }
                scan.cursor = (next != 0).then_some(next);
            }
        }
        audit.is_complete = true;
        Ok(audit)
    }

    /// Returns the entries that would be served, of these keys. They are entries of one kind.
    async fn served<C: Content<E, DB>>(
        &self,
        keys: Vec<&Key>,
        fingerprint: u32,
    ) -> Result<Vec<Cached<C::Value>>, Error> {
        let (found, clock) = self.look_at_many(&keys, fingerprint).await;
        let mut served = Vec::with_capacity(keys.len());
        for (key, found) in keys.into_iter().zip(found) {
            let found = found.map_err(not_audited::<E>)?;
            let Found::Value(meta, _) = &found else {
                continue;
            };
            let token = meta.lease.token;
            let looked_up = self.interpret_bound::<C>(key, Ok(found), &clock);
            if let LookedUp::Served(Outcome {
                row: Some(value),
                age,
                ..
            }) = looked_up.await?
            {
                served.push(Cached {
                    key: key.clone(),
                    token,
                    value,
                    age,
                });
            }
        }
        Ok(served)
    }

    /// Notes that an entry differs from the database, unless it was changed meanwhile.
    async fn note_difference<C: Content<E, DB>>(
        &self,
        cached: &Cached<C::Value>,
        fingerprint: u32,
        difference: Difference,
        audit: &mut Audit,
    ) -> Result<(), Error> {
        if !self.is_still_served::<C>(cached, fingerprint).await? {
            audit.changing += 1;
            return Ok(());
        }
        self.note_audited(audit);
        self.counters.stale_entries.add_one();
        audit.stale += 1;
        audit.describe(StaleEntry {
            key: cached.key.to_string(),
            age: cached.age,
            token: format!("{:?}", cached.token),
            difference,
        });
        Ok(())
    }

    fn note_audited(&self, audit: &mut Audit) {
        self.counters.audited_entries.add_one();
        audit.checked += 1;
    }

    /// Returns whether the same entry is still there, and would be served.
    async fn is_still_served<C: Content<E, DB>>(
        &self,
        cached: &Cached<C::Value>,
        fingerprint: u32,
    ) -> Result<bool, Error> {
        if self.cache.store.disables(Mechanism::SecondLook) {
            return Ok(true);
        }
        let (found, clock) = self.look(&cached.key, fingerprint).await;
        let found = found.map_err(not_audited::<E>)?;
        let is_same = matches!(&found, Found::Value(meta, _) if meta.lease.token == cached.token);
        let looked_up = self.interpret_bound::<C>(&cached.key, Ok(found), &clock);
        Ok(is_same && matches!(looked_up.await?, LookedUp::Served(_)))
    }

    /// Reads from the database, on a connection of the pool.
    async fn read_to_audit<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl for<'c> FnOnce(
            &'c Self,
            &'c mut DB::Connection,
        ) -> BoxFuture<'c, Result<T, SelectError>>
        + Send
        + 'static,
    ) -> Result<T, Error> {
        let context = Arc::clone(self);
        let reading = async move {
            let refused = |error| {
                let what = format!("entries of {}", E::SPEC.name);
                database::describe("audit", &what, error, WriteOutcome::Nothing)
            };
            let mut connection = context.database.acquire().await.map_err(refused)?;
            context.cache.store.reach(Point::BeforeAuditRead);
            let read = read(&context, &mut connection).await;
            context.cache.store.reach(Point::AfterAuditRead);
            read.map_err(|error| match error {
                SelectError::Refused(error) => error,
                SelectError::Database(error) => refused(error),
            })
        };
        run_detached::<E, _>("audit", reading).await
    }
}

/// Waits until so many entries may be compared.
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
