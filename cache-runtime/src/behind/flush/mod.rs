//! One step of a flush: a batch of queued writes goes to the database and leaves its queue.
//!
//! 1. Which incarnation, and from which position on: the first open one in the order of epochs, as the database tells it.
//!    What an earlier flush has committed and not settled is settled first.
//! 2. Fetch: the writes behind the position, in one round trip that also renews this process's claim on the partition.
//! 3. Apply them and move the position, in one transaction (`apply`).
//! 4. Settle: in the store, the rows that were flushed become ordinary entries, if the database holds what was written, and the
//!    log is cut off.
//!    After a full batch that is left to the next step, which does it while the database works on the next batch. So is
//!    the reading of the batch after that.
//! 5. A log that has ended, and that nothing is written to any more, is closed: the next incarnation follows.
//!
//! Any process may run any step at any time: the position is compared by the database, and queue positions by the store. The
//! claim, and what is remembered of the position, only save work.
//!
//! Invariant: the log is cut off behind what was committed, never further.
//! Invariant: what was committed here stays noted until it is settled, also if the step is broken off (`queue::FlushCursor`).
//! Invariant: of what was read ahead only the writes count: that a log has ended, or has lost writes at its end, is seen by a
//! fresh look.
//! Invariant: an incarnation is closed only by who sees that the store writes to a later one.
//! Not here: when a step is taken (`flusher`).

mod decode;
mod log_view;
mod settle;

use std::{
    pin::Pin,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use self::{
    log_view::{LogView, Meanwhile},
    settle::Unjudged,
};
use crate::{
    behind::{
        Batch,
        apply::{Applied, ApplyError, Flushed, Hooks, MAX_STATEMENTS},
        offsets::{self, OpenIncarnation},
        partition::PartitionContext,
        queue::{Committed, FlushCursor, Queue},
    },
    context::Context,
    database::{self, WriteOutcome, backend::Backend, entity::Entity, tables},
    error::{Error, ErrorKind},
    protocol::queue_position::QueuePosition,
    store::{
        Point, Store,
        failpoint::Mechanism,
        queue::{Fetch, Fetched, Logged},
    },
};

/// How long this process keeps a partition to itself without renewing its claim.
pub(crate) const CLAIM_MS: u64 = 5_000;
/// How many of the refused writes of a flush are named in the log.
const MAX_NAMED: usize = 5;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushMode {
    /// By the background task: needs the claim.
    Background,
    /// By `flush()`: goes on without the claim.
    Drain,
    /// By a write that needs room in the queue: one batch, settled before the step ends.
    Single,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepResult {
    /// A batch was flushed; whether it was as large as it may be, so that there is more.
    Flushed { full: bool },
    /// Something else has changed, such as the incarnation: take another step.
    Retry,
    /// There is nothing to flush.
    Idle,
    /// Another process has the claim.
    ClaimedElsewhere,
}

/// Writes that were read from a log, and where it is open.
struct Read {
    fetched: Fetched,
    open: OpenIncarnation,
    /// Whether they were read while the batch before them was applied.
    was_prefetched: bool,
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Takes one step in a partition.
    pub(in crate::behind) async fn flush_step(&self, mode: FlushMode) -> Result<StepResult, Error> {
        // The store may have been replaced by one whose queue is another database's.
        self.context.bind_for_queue("flush").await?;
        let mut cursor = self.state.cursor.lock().await;
        // Out of the futures of those who wait for it, which are deep enough.
        let stepped = Box::pin(self.step(&mut cursor, mode)).await;
        if stepped.is_err() {
            // The outcome of a commit may be unknown: ask again.
            cursor.forget();
        }
        stepped
    }

    async fn step(&self, cursor: &mut FlushCursor, mode: FlushMode) -> Result<StepResult, Error> {
        let open = match cursor.position {
            Some(open) => open,
            None => {
                self.settle_rest(cursor).await?;
                // What another process has committed and is about to settle is left to it.
                let claim_ms = mode.claim_ms();
                if claim_ms > 0 && !self.fetch(Fetch::claim(claim_ms)).await?.is_claimed {
                    return Ok(StepResult::ClaimedElsewhere);
                }
                match self.resume().await? {
                    Some(open) => *cursor.position.insert(open),
                    None => return Ok(StepResult::Idle),
                }
            }
        };
        let fetch = next_read(self.queue, open, mode);
        if let Some(fetched) = cursor.take_prefetched(&fetch) {
            let batch = Read {
                fetched,
                open,
                was_prefetched: true,
            };
            return self.flush_read(cursor, batch, mode).await;
        }
        let fetched = self.fetch(fetch).await?;
        let view = LogView::of(&fetched, open);
        if view != LogView::Batch {
            // There is no transaction during which it could be done.
            let was_settled = cursor.to_settle.is_empty();
            self.settle_rest(cursor).await?;
            if fetched.is_claimed && !was_settled {
                // A put to a queue that was not empty sends no wake-up, so look again.
                return Ok(StepResult::Retry);
            }
        }
        if fetched.is_claimed {
            self.count_lost(fetched.current).await?;
        }
        match view {
            LogView::ClaimedElsewhere => {
                // Whoever has the partition moves on.
                cursor.forget();
                Ok(StepResult::ClaimedElsewhere)
            }
            LogView::OtherHistory => {
                // Nothing is cached before a queue stands in the store's present history.
                let started = self.state.incarnations_started.load(Ordering::Acquire);
                let (from, history) = (fetched.current, fetched.history);
                self.start_incarnation(from, history, started).await?;
                Ok(StepResult::Retry)
            }
            LogView::Batch | LogView::LostTail => {
                let batch = Read {
                    fetched,
                    open,
                    was_prefetched: false,
                };
                self.flush_read(cursor, batch, mode).await
            }
            LogView::Drained => Ok(StepResult::Idle),
            LogView::SetBack => {
                cursor.forget();
                Ok(StepResult::Idle)
            }
            LogView::Superseded => {
                // What was fetched is still the end: nothing is written to this log any more.
                cursor.forget();
                let place = self.place(open.incarnation);
                if offsets::close(&self.context.database.pool, &place, open.position).await? {
                    self.clear(open.incarnation).await?;
                }
                Ok(StepResult::Retry)
            }
        }
    }

    /// Applies a batch. While the database works on it, the batches before it are settled, and the next one is read if more
    /// writes wait.
    async fn flush_read(
        &self,
        cursor: &mut FlushCursor,
        batch: Read,
        mode: FlushMode,
    ) -> Result<StepResult, Error> {
        let Read {
            fetched,
            open,
            was_prefetched,
        } = batch;
        let to = fetched.end();
        let is_full =
            fetched.is_cut || fetched.writes.len() as u64 >= u64::from(self.queue.policy.batch);
        let meanwhile = Meanwhile::of(mode, is_full, was_prefetched);
        let next = next_read(
            self.queue,
            OpenIncarnation {
                position: to,
                ..open
            },
            mode,
        );
        let earlier = cursor.to_settle.clone();
        let applied = async {
            let Some(committed) = self.apply(fetched, open, None).await? else {
                return Ok(None);
            };
            let position = committed.up_to;
            cursor.position = Some(OpenIncarnation { position, ..open });
            cursor.to_settle.push(Arc::new(committed));
            Ok(Some(position))
        };
        let settled = self.settle_all(&earlier);
        // If this fails, the next step does too, and says so.
        let read = async {
            if meanwhile.reads_next {
                let mut fetched = self.fetch(next).await.ok()?;
                for write in &mut fetched.writes {
                    self.context.decode(write);
                }
                return Some(fetched);
            }
            if meanwhile.renews_claim {
                self.fetch(Fetch { count: 0, ..next }).await.ok()?;
            }
            None
        };
        let (applied, settled, prefetched) =
            futures_util::future::join3(applied, settled, read).await;
        if settled.is_ok() {
            cursor.to_settle.drain(..earlier.len());
        }
        let position = applied?;
        settled?;
        let Some(position) = position else {
            cursor.forget();
            return Ok(StepResult::Retry);
        };
        if meanwhile.reads_next {
            // Used only if all of this batch was applied: it is found by the position that it begins at.
            if let Some(prefetched) = prefetched {
                cursor.keep_prefetched(next, prefetched);
            }
        } else {
            self.settle_rest(cursor).await?;
        }
        Ok(StepResult::Flushed {
            full: is_full || position < to,
        })
    }

    /// Where to go on: the first open incarnation. Settles what was committed before, and clears away what is left of closed
    /// incarnations.
    async fn resume(&self) -> Result<Option<OpenIncarnation>, Error> {
        let all = offsets::open_incarnations(
            &self.context.database.pool,
            &self.queue.name,
            self.number(),
        )
        .await?;
        for incarnation in self.logs("flush").await? {
            if !all.iter().any(|open| open.incarnation == incarnation) {
                self.count_loss(incarnation).await?;
            }
        }
        let Some(first) = all.first() else {
            return Ok(None);
        };
        self.settle_committed(first).await?;
        Ok(Some(*first))
    }

    /// Applies a batch and settles it. `lost_counted_to` is of a closed incarnation: up to which number its loss has been counted.
    pub(in crate::behind) async fn flush_batch(
        &self,
        fetched: Fetched,
        open: OpenIncarnation,
        lost_counted_to: Option<u64>,
    ) -> Result<(), Error> {
        match self.apply(fetched, open, lost_counted_to).await? {
            Some(committed) => self.settle_all(&[Arc::new(committed)]).await,
            None => Ok(()),
        }
    }

    /// Applies a batch. What is to be settled then; nothing if another flusher was faster.
    async fn apply(
        &self,
        fetched: Fetched,
        open: OpenIncarnation,
        lost_counted_to: Option<u64>,
    ) -> Result<Option<Committed>, Error> {
        self.context.cache.store.reach(Point::BeforeFlush);
        let to = fetched.end();
        let place = self.place(open.incarnation);
        let foreign = self.context.foreign(&fetched.writes);
        let lost = self.lost_between(open.position, to, &fetched.writes, lost_counted_to);
        let writes: Vec<_> = fetched
            .writes
            .into_iter()
            .map(|w| self.context.queued(w))
            .collect();
        let mut batch = Batch {
            place: &place,
            from: open.position,
            to,
            writes: &writes,
            lost,
            lost_counted_to,
            compares: self.context.compares_flushed(),
            codec: self.context.codec,
            layout: self.context.fingerprint,
            now_ms: self.context.cache.clock.wall_ms(),
        };
        let in_transaction = || self.context.cache.store.reach(Point::InFlushTransaction);
        let hooks = Hooks {
            in_transaction: &in_transaction,
            max_statements: MAX_STATEMENTS,
        };
        let applied = loop {
            // Named as a type, because the compiler cannot tell of the future itself that it may change threads.
            let applied: Pin<Box<dyn Future<Output = Result<_, ApplyError>> + Send + '_>> =
                Box::pin(self.context.database.apply_queued(&batch, &hooks));
            let applied = applied.await;
            if matches!(applied, Err(ApplyError::Overtaken))
                && self.context.cache.store.disables(Mechanism::OffsetCompare)
                && let Some((position, false)) =
                    offsets::position_of(&self.context.database.pool, &place).await?
            {
                batch.from = position;
                continue;
            }
            break applied;
        };
        let Flushed { applied, held, .. } = match applied {
            Ok(applied) => applied,
            Err(ApplyError::Overtaken) => {
                self.context.counters.flush_conflicts.add_one();
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
        self.context.cache.store.reach(Point::AfterFlushCommit);
        let mut writes = writes;
        writes.truncate(writes.partition_point(|write| write.number <= applied.to));
        self.count_flushed(writes.len() as u64, &applied);
        let dead = applied.dead.iter().map(|dead| dead.number);
        let differs = dead.chain(applied.changed).chain(foreign).collect();
        Ok(Some(Committed {
            incarnation: open.incarnation,
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
                error = first.error,
                "queued writes were refused and are dead letters now; the error is that of the first one"
            );
        }
    }

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

    /// Makes room in a full partition.
    pub(in crate::behind) async fn make_room(&self) -> Result<(), Error> {
        self.flush_step(FlushMode::Single).await?;
        Ok(())
    }

    /// Flushes until a write, and all before it, are in the database and have left the queue; without one, until nothing is
    /// left.
    pub(in crate::behind) async fn flush_up_to(
        &self,
        target: Option<QueuePosition>,
    ) -> Result<(), Error> {
        loop {
            let stepped = self.flush_step(FlushMode::Drain).await?;
            if stepped == StepResult::Retry {
                continue;
            }
            let mut cursor = self.state.cursor.lock().await;
            if let (Some(at), Some(target)) = (cursor.position, target)
                && has_passed(at, target)
            {
                cursor.drop_prefetched();
                return self.settle_rest(&mut cursor).await;
            }
            drop(cursor);
            if stepped == StepResult::Idle {
                return match target {
                    Some(target) => self.check_flushed(target).await,
                    None => Ok(()),
                };
            }
        }
    }

    /// Fails if a write is not in the database although nothing is left to flush.
    async fn check_flushed(&self, target: QueuePosition) -> Result<(), Error> {
        let place = self.place(target.incarnation);
        match offsets::position_of(&self.context.database.pool, &place).await? {
            Some((position, closed)) if closed || position >= target.number => Ok(()),
            // Nothing was written to the incarnation.
            _ if target.number == 0 => Ok(()),
            _ => Err(Error::new(
                ErrorKind::CacheUnavailable,
                format!(
                    "failed to flush {}: the store has lost writes of the queue {}",
                    E::SPEC.name,
                    self.queue.name
                ),
            )),
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// The writes of programs that know another layout of the struct, or write it with another codec. What they have put into
    /// the store may have columns that this program does not write.
    fn foreign(&self, writes: &[Logged]) -> Vec<u64> {
        let own = (self.fingerprint, self.codec.number());
        let foreign = writes.iter().filter(|write| {
            let identity = write.pending.meta.lease.identity;
            (identity.fingerprint, identity.codec) != own
        });
        foreign.map(|write| write.pending.position.number).collect()
    }

    /// Whether flushed rows are compared with what the database makes of them.
    fn compares_flushed(&self) -> bool {
        if self.cache.store.disables(Mechanism::FlushedRow) {
            return false;
        }
        // Otherwise they are dropped anyway.
        !self.is_changed_by_database()
    }
}

/// Whether a flush that has come to one position has applied the write at another.
fn has_passed(at: OpenIncarnation, target: QueuePosition) -> bool {
    at.incarnation.epoch > target.incarnation.epoch
        || (at.incarnation == target.incarnation && at.position >= target.number)
}

/// Returns what the next batch is read with.
fn next_read(queue: &Queue, open: OpenIncarnation, mode: FlushMode) -> Fetch {
    Fetch::read(open.incarnation, open.position, queue.policy.batch)
        .claiming(mode.claim_ms())
        .of_first_open()
}

impl FlushMode {
    /// For how long a step claims the partition, in milliseconds; zero if it does not.
    const fn claim_ms(self) -> u64 {
        match self {
            Self::Background => CLAIM_MS,
            Self::Drain | Self::Single => 0,
        }
    }
}
