//! Committing: a batch that was read from a log goes to the database, and its result to the counters and the log messages.
//!
//! 1. The writes are decoded. Numbers without a write are counted as lost ([`LogBatch`]).
//! 2. The database applies the batch and advances the position in one transaction (`apply`).
//! 3. What `settle` needs is kept as [`Committed`]: the writes, and what the database holds of their rows.
//!
//! Invariant: if another flusher has advanced the position, nothing of the batch is committed.
//! Not here: the statements (`apply`), and what the store is told afterwards (`settle`).

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
};

use super::{log_view::is_jump, settle::Unjudged};
use crate::{
    behind::{
        Batch,
        apply::{Applied, ApplyError, Flushed, Hooks, MAX_STATEMENTS},
        letter_seal::LetterSeals,
        offsets::{self, OpenIncarnation},
        partition::PartitionContext,
        queue::Committed,
    },
    context::Context,
    database::{self, WriteOutcome, backend::Backend, entity::Entity, tables},
    error::Error,
    printed::Printed,
    store::{
        Point, Store,
        failpoint::Mechanism,
        queue::{Fetched, Logged},
    },
};

/// How many of the refused writes of a flush are named in the log.
const MAX_NAMED: usize = 5;

/// Writes that were read from the log of an incarnation.
pub(in crate::behind) struct LogBatch {
    /// The incarnation, and its position when they were read.
    pub(super) at: OpenIncarnation,
    pub(super) fetched: Fetched,
    /// Of a closed incarnation: up to which number its lost writes were counted before.
    lost_counted_to: Option<u64>,
}

impl LogBatch {
    /// Writes of an open incarnation.
    pub(super) fn of_open(open: OpenIncarnation, fetched: Fetched) -> Self {
        Self {
            at: open,
            fetched,
            lost_counted_to: None,
        }
    }

    /// Writes of a closed incarnation, whose lost writes were counted up to a number. They came too late.
    pub(in crate::behind) fn of_closed(
        at: OpenIncarnation,
        fetched: Fetched,
        lost_counted_to: u64,
    ) -> Self {
        Self {
            at,
            fetched,
            lost_counted_to: Some(lost_counted_to),
        }
    }

    /// Returns whether more writes wait in the log, given that a batch has at most `most`.
    pub(super) fn is_full(&self, most: u32) -> bool {
        self.fetched.is_cut || self.fetched.writes.len() as u64 >= u64::from(most)
    }

    /// Returns how many numbers of the batch have no write, because the store has lost it. Numbers that were counted before are
    /// not counted again, and none before one that cannot follow: larder has not written that.
    fn lost(&self) -> u64 {
        let mut at = self.lost_counted_to.unwrap_or(0).max(self.at.position);
        let mut lost = 0_u64;
        let mut reach = |number: u64, is_written: bool| {
            if number <= at {
                return;
            }
            if !is_jump(at, number) {
                lost += number - at - u64::from(is_written);
            }
            at = number;
        };
        for write in &self.fetched.writes {
            reach(number_of(write), true);
        }
        reach(self.fetched.end(), false);
        lost
    }

    /// Returns the numbers of the writes that have another layout of the struct or another codec. The rows that their programs
    /// have put into the store may have columns that this program does not write.
    fn foreign(&self, own_layout: u32, own_codec: u8) -> Vec<u64> {
        let foreign = self.fetched.writes.iter().filter(|write| {
            let identity = write.pending.meta.lease.identity;
            (identity.fingerprint, identity.codec) != (own_layout, own_codec)
        });
        foreign.map(number_of).collect()
    }
}

fn number_of(write: &Logged) -> u64 {
    write.pending.position.number
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Commits a batch and settles it.
    pub(in crate::behind) async fn flush_batch(&self, batch: LogBatch) -> Result<(), Error> {
        match self.commit(batch).await? {
            Some(committed) => self.settle_all(&[Arc::new(committed)]).await,
            None => Ok(()),
        }
    }

    /// Commits a batch. Returns what is to be settled then, or `None` if another flusher was faster.
    pub(super) async fn commit(&self, batch: LogBatch) -> Result<Option<Committed>, Error> {
        let context = self.context;
        let (store, pool) = (&context.cache.store, &context.database.pool);
        store.reach(Point::BeforeFlush);
        let LogBatch {
            at,
            lost_counted_to,
            ..
        } = batch;
        let place = self.place(at.incarnation);
        let foreign = batch.foreign(context.fingerprint, context.codec.number());
        let to = batch.fetched.end();
        let lost = if store.disables(Mechanism::GapCount) {
            0
        } else {
            batch.lost()
        };
        let writes = batch.fetched.writes.into_iter();
        let mut writes: Vec<_> = writes.map(|write| context.queued(write)).collect();
        let mut batch = Batch {
            place: &place,
            from: at.position,
            to,
            writes: &writes,
            lost,
            lost_counted_to,
            compares: context.compares_flushed(),
            codec: context.codec,
            layout: context.fingerprint,
            seals: LetterSeals::of(store),
            now_ms: context.cache.clock.wall_ms(),
        };
        let in_transaction = || store.reach(Point::InFlushTransaction);
        let hooks = Hooks {
            in_transaction: &in_transaction,
            max_statements: MAX_STATEMENTS,
        };
        let applied = loop {
            // Named as a type, because the compiler cannot infer that the future may change threads.
            let applied: Pin<Box<dyn Future<Output = Result<_, ApplyError>> + Send + '_>> =
                Box::pin(context.database.apply_queued(&batch, &hooks));
            let applied = applied.await;
            if matches!(applied, Err(ApplyError::Overtaken))
                && store.disables(Mechanism::OffsetCompare)
                && let Some((position, false)) = offsets::position_of(pool, &place).await?
            {
                batch.from = position;
                continue;
            }
            break applied;
        };
        let Flushed { applied, held, .. } = match applied {
            Ok(applied) => applied,
            Err(ApplyError::Overtaken) => {
                context.counters.flush_conflicts.add_one();
                return Ok(None);
            }
            Err(ApplyError::Failed(error)) => {
                let what = format!("writes of the queue {}", self.queue.name);
                let fate = WriteOutcome::Nothing;
                return Err(database::describe("flush", &what, error, fate));
            }
            Err(ApplyError::Outdated(error)) => {
                let what = format!("dead letters of the queue {}", self.queue.name);
                return Err(tables::describe::<DB>("insert", &what, error));
            }
        };
        store.reach(Point::AfterFlushCommit);
        writes.truncate(writes.partition_point(|write| write.number <= applied.to));
        self.count_flushed(writes.len() as u64, &applied);
        let dead = applied.dead.iter().map(|dead| dead.number);
        let differs = dead.chain(applied.changed).chain(foreign).collect();
        Ok(Some(Committed {
            incarnation: at.incarnation,
            settled: OnceLock::new(),
            unjudged: Box::new(Unjudged {
                writes,
                held,
                differs,
            }),
            up_to: applied.to,
        }))
    }

    fn count_flushed(&self, count: u64, applied: &Applied) {
        let counters = &self.context.counters;
        counters.flushed_writes.add(count);
        counters.flushed_rows.add(applied.rows);
        counters.flushes.add_one();
        counters.flush_statements.add(applied.statements);
        counters.dead_letters.add(applied.dead.len() as u64);
        self.tell_lost(applied.lost);
        if let Some(first) = applied.dead.first() {
            let numbers = applied.dead.iter().take(MAX_NAMED);
            let numbers: Vec<_> = numbers.map(|dead| dead.number).collect();
            tracing::error!(
                entity = E::SPEC.name,
                queue = &*self.queue.name,
                partition = self.number(),
                writes = applied.dead.len(),
                numbers = ?numbers,
                error = %Printed::short(&first.error),
                "queued writes were refused and are dead letters now; the error is that of the first one"
            );
        }
    }

    /// Counts and logs writes that the store has lost.
    pub(in crate::behind) fn tell_lost(&self, lost: u64) {
        if lost > 0 {
            self.context.counters.lost_writes.add(lost);
            tracing::error!(
                entity = E::SPEC.name,
                queue = &*self.queue.name,
                partition = self.number(),
                writes = lost,
                "the store has lost acknowledged writes before they were flushed"
            );
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns whether flushed rows are compared with what the database holds of them.
    fn compares_flushed(&self) -> bool {
        if self.cache.store.disables(Mechanism::FlushedRow) {
            return false;
        }
        // Otherwise they are dropped anyway.
        !self.is_changed_by_database()
    }
}
