//! One step of a flush: a batch of queued writes goes to the database and leaves its queue.
//!
//! 1. Where to go on: at the first open incarnation in the order of epochs, from its position in the database
//!    ([`PartitionFlusher::resume`]). What an earlier flush has committed and not settled is settled first.
//! 2. Fetch: the writes after the position, in one round trip that also renews the claim of this process on the partition.
//! 3. Commit: the writes and the position, in one transaction (`commit`).
//! 4. Settle: in the store, the flushed rows become ordinary entries if the database holds what was written, and the log is cut
//!    off (`settle`). After a full batch the next step settles, while the database works on the next batch. The batch after
//!    that is read at the same time.
//! 5. A log that is empty, and that nothing is written to any more, is closed. The next incarnation follows.
//!
//! Any process may run any step at any time: the database compares the position, and the store compares queue positions. The
//! claim and the remembered position only save work.
//!
//! Invariant: the log is cut off up to what was committed, never further.
//! Invariant: what was committed here stays noted until it is settled, also if the step is dropped half-way
//! (`queue::FlushCursor`).
//! Invariant: of a prefetched batch only the writes are used. A fresh fetch decides whether a log is empty, or has lost writes at
//! its end.
//! Invariant: an incarnation is closed only after the store has shown that it writes to a later one.
//! Not here: when a step is taken (`flusher`), and waiting for a write (`barrier`).

mod barrier;
mod commit;
mod decode;
mod log_view;
mod settle;

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::MutexGuard;

pub(super) use self::commit::LogBatch;
use self::log_view::{LogView, Meanwhile};
use crate::{
    behind::{
        offsets::{self, OpenIncarnation},
        partition::PartitionContext,
        queue::FlushCursor,
    },
    database::{backend::Backend, entity::Entity},
    error::Error,
    observe::{Operation, Told},
    store::queue::Fetch,
};

/// How long this process keeps a partition to itself without renewing its claim.
pub(crate) const CLAIM_MS: u64 = 5_000;

/// Who takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushMode {
    /// The background task. It needs the claim.
    Background,
    /// `flush()`. It goes on without the claim.
    Drain,
    /// A write that needs room in the queue: one batch, settled before the step ends.
    Single,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepResult {
    /// A batch was flushed. If it was `full`, there is more to flush.
    Flushed { full: bool },
    /// Something else has changed, such as the incarnation: take another step.
    Retry,
    /// There is nothing to flush.
    Idle,
    /// Another process has the claim.
    ClaimedElsewhere,
}

/// The flusher of one partition. It holds the cursor of the partition, so there is one at a time in this process.
pub(super) struct PartitionFlusher<'a, E: Entity, DB: Backend> {
    pub(super) partition: &'a PartitionContext<'a, E, DB>,
    cursor: MutexGuard<'a, FlushCursor>,
    mode: FlushMode,
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Takes one step.
    pub(super) async fn flush_step(&self, mode: FlushMode) -> Result<StepResult, Error> {
        // The store may have been replaced by one whose queue is another database's.
        self.context.bind_for_queue("flush").await?;
        let mut flusher = self.flusher(mode).await;
        // Boxed, to keep the callers' futures small.
        let stepped = Box::pin(flusher.step()).await;
        if stepped.is_err() {
            // It may be unknown whether a transaction was committed, so the next step asks the database.
            flusher.cursor.forget();
        }
        stepped
    }

    /// Waits until no other task of this process flushes the partition, and returns its flusher.
    async fn flusher(&self, mode: FlushMode) -> PartitionFlusher<'_, E, DB> {
        PartitionFlusher {
            partition: self,
            cursor: self.state.cursor.lock().await,
            mode,
        }
    }
}

impl<E: Entity, DB: Backend> PartitionFlusher<'_, E, DB> {
    async fn step(&mut self) -> Result<StepResult, Error> {
        let partition = self.partition;
        let open = match self.cursor.position {
            Some(open) => open,
            None => {
                self.settle_rest().await?;
                // Claim first: another process may have committed writes that it is about to settle.
                let claim_ms = self.mode.claim_ms();
                if claim_ms > 0 && !partition.fetch(Fetch::claim(claim_ms)).await?.is_claimed {
                    return Ok(StepResult::ClaimedElsewhere);
                }
                match self.resume().await? {
                    Some(open) => *self.cursor.position.insert(open),
                    None => return self.replace_unknown().await,
                }
            }
        };
        let fetch = self.next_read(open);
        if let Some(mut fetched) = self.cursor.take_prefetched(&fetch) {
            fetched.cut_at_jump(open);
            if !fetched.writes.is_empty() {
                return self
                    .flush_read(LogBatch::of_open(open, fetched), true)
                    .await;
            }
        }
        let mut fetched = partition.fetch(fetch).await?;
        // Of a log that nothing is written to any more, all that is left becomes dead letters, whatever its number.
        let is_current = fetched.current == Some(open.incarnation);
        if is_current {
            fetched.cut_at_jump(open);
        }
        let view = LogView::of(&fetched, open);
        if view != LogView::Batch {
            // There is no transaction during which this could be done.
            let was_settled = self.cursor.to_settle.is_empty();
            self.settle_rest().await?;
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
                // The process that has the claim advances the position.
                self.cursor.forget();
                Ok(StepResult::ClaimedElsewhere)
            }
            LogView::OtherHistory | LogView::Jump => {
                // Nothing is cached until the queue has an incarnation in the store's current history. A log with a number that no
                // put has given takes no more writes: another incarnation has a log of its own.
                let started = partition.state.incarnations_started.load(Ordering::Acquire);
                partition
                    .start_incarnation(fetched.current, fetched.history, started)
                    .await?;
                Ok(StepResult::Retry)
            }
            LogView::Batch | LogView::LostTail => {
                self.flush_read(LogBatch::of_open(open, fetched), false)
                    .await
            }
            LogView::Drained => Ok(StepResult::Idle),
            LogView::SetBack => {
                self.cursor.forget();
                Ok(StepResult::Idle)
            }
            LogView::Superseded => {
                // The fetched end is the last one: nothing is written to this log any more.
                self.cursor.forget();
                if let StepResult::Retry = self.replace_unknown().await? {
                    return Ok(StepResult::Retry);
                }
                let place = partition.place(open.incarnation);
                let pool = &partition.context.database.pool;
                if offsets::close(pool, &place, open.position).await? {
                    partition.clear(open.incarnation).await?;
                }
                Ok(StepResult::Retry)
            }
        }
    }

    /// Commits a batch. While the database works on it, the batches before it are settled, and the next one is read if more
    /// writes wait.
    async fn flush_read(
        &mut self,
        batch: LogBatch,
        was_prefetched: bool,
    ) -> Result<StepResult, Error> {
        let partition = self.partition;
        let open = batch.at;
        let to = batch.fetched.end();
        let is_full = batch.is_full(partition.queue.policy.batch);
        let meanwhile = Meanwhile::of(self.mode, is_full, was_prefetched);
        let next = self.next_read(OpenIncarnation {
            position: to,
            ..open
        });
        let cursor = &mut *self.cursor;
        let earlier = cursor.to_settle.clone();
        let committed = async {
            let told = |_: &_| Told::default();
            let committing = partition.commit(batch);
            let signals = &partition.context.signals;
            let committing = signals.observe_as(Operation::FlushBatch, told, committing);
            let Some(committed) = committing.await? else {
                return Ok(None);
            };
            let position = committed.up_to;
            cursor.position = Some(OpenIncarnation { position, ..open });
            cursor.to_settle.push(Arc::new(committed));
            Ok(Some(position))
        };
        let settled = partition.settle_all(&earlier);
        // If this fails, the next step fails too, and returns the error.
        let read = async {
            if meanwhile.reads_next {
                let mut fetched = partition.fetch(next).await.ok()?;
                for write in &mut fetched.writes {
                    partition.context.decode(write);
                }
                return Some(fetched);
            }
            if meanwhile.renews_claim {
                let renewal = Fetch { count: 0, ..next };
                partition.fetch(renewal).await.ok()?;
            }
            None
        };
        let (committed, settled, prefetched) =
            futures_util::future::join3(committed, settled, read).await;
        if settled.is_ok() {
            self.cursor.to_settle.drain(..earlier.len());
        }
        let position = committed?;
        settled?;
        let Some(position) = position else {
            self.cursor.forget();
            return Ok(StepResult::Retry);
        };
        if meanwhile.reads_next {
            // It is used only if all of this batch was applied, because then the next step reads from the same position.
            if let Some(prefetched) = prefetched {
                self.cursor.keep_prefetched(next, prefetched);
            }
        } else {
            self.settle_rest().await?;
        }
        Ok(StepResult::Flushed {
            full: is_full || position < to,
        })
    }

    /// Returns where to go on: the first open incarnation. Settles what was committed before, and finishes closed incarnations.
    async fn resume(&self) -> Result<Option<OpenIncarnation>, Error> {
        let partition = self.partition;
        let (pool, queue) = (&partition.context.database.pool, &partition.queue.name);
        let all = offsets::open_incarnations(pool, queue, partition.number()).await?;
        for incarnation in partition.logs("flush").await? {
            if !all.iter().any(|open| open.incarnation == incarnation) {
                self.finish_closed(incarnation).await?;
            }
        }
        for open in &all {
            partition.state.given(open.incarnation);
        }
        let Some(first) = all.first() else {
            return Ok(None);
        };
        partition.settle_committed(first).await?;
        Ok(Some(*first))
    }

    /// Starts an incarnation if the store writes to one that the database has never given: what is written there would never be
    /// flushed.
    async fn replace_unknown(&self) -> Result<StepResult, Error> {
        let partition = self.partition;
        let started = partition.state.incarnations_started.load(Ordering::Acquire);
        let fetched = partition.fetch(Fetch::PEEK).await?;
        let Some(current) = fetched.current.filter(|_| fetched.is_present) else {
            return Ok(StepResult::Idle);
        };
        let pool = &partition.context.database.pool;
        // Its row may have been deleted. Then there is an error with the way out.
        if offsets::may_have_given(pool, &partition.place(current)).await? {
            return Ok(StepResult::Idle);
        }
        tracing::error!(
            entity = E::SPEC.name,
            queue = &*partition.queue.name,
            partition = partition.number(),
            incarnation = %current,
            "the store names an incarnation of the queue that was not registered by larder; the queue goes on in another one"
        );
        partition
            .start_incarnation(Some(current), fetched.history, started)
            .await?;
        Ok(StepResult::Retry)
    }

    /// Returns how the batch after a position is read.
    fn next_read(&self, open: OpenIncarnation) -> Fetch {
        let most = self.partition.queue.policy.batch;
        Fetch::read(open.incarnation, open.position, most)
            .claiming(self.mode.claim_ms())
            .of_first_open()
    }

    /// Settles what was committed and is not settled yet.
    async fn settle_rest(&mut self) -> Result<(), Error> {
        self.partition.settle_all(&self.cursor.to_settle).await?;
        self.cursor.to_settle.clear();
        Ok(())
    }
}

impl FlushMode {
    /// Returns for how many milliseconds a step claims the partition. Zero is no claim.
    const fn claim_ms(self) -> u64 {
        match self {
            Self::Background => CLAIM_MS,
            Self::Drain | Self::Single => 0,
        }
    }
}
