//! Cleans up a closed incarnation: its last rows, its log, and the count of the writes that the store has lost.
//!
//! 1. Writes that are still in the log of a closed incarnation came too late, and become dead letters.
//! 2. Rows that the incarnation was the last to write are dropped from the store, and its log with them.
//! 3. Writes that were acknowledged to this process, but are neither in the database nor in the store, are counted as
//!    lost.
//!
//! Invariant: a write of a closed incarnation is never applied.
//! Not here: when an incarnation is closed (`flush`), and which numbers of a batch have no write (`flush`, `LogBatch`).

use crate::{
    behind::{
        flush::{LogBatch, PartitionFlusher},
        offsets::{self, OpenIncarnation},
        partition::PartitionContext,
    },
    database::{backend::Backend, entity::Entity},
    error::Error,
    protocol::queue_position::{Incarnation, QueuePosition},
    store::queue::{Fetch, QueueStore, Settled},
};

impl<E: Entity, DB: Backend> PartitionFlusher<'_, E, DB> {
    /// Makes dead letters of the remaining writes of a closed incarnation, and removes its log.
    pub(super) async fn finish_closed(&self, incarnation: Incarnation) -> Result<(), Error> {
        let partition = self.partition;
        let place = partition.place(incarnation);
        let pool = &partition.context.database.pool;
        loop {
            let Some((at, is_closed)) = offsets::position_of(pool, &place).await? else {
                // An incarnation is registered before the store has it, so its row was deleted.
                return match partition.unregistered(incarnation).await? {
                    Some(unregistered) => Err(unregistered),
                    None => partition.clear(incarnation).await,
                };
            };
            if !is_closed {
                // It was registered a moment ago.
                return Ok(());
            }
            let open = OpenIncarnation {
                incarnation,
                position: at,
            };
            partition.settle_committed(&open).await?;
            let fetch = Fetch::read(incarnation, at, partition.queue.policy.batch);
            let fetched = partition.fetch(fetch).await?;
            if fetched.writes.is_empty() {
                if fetched.current == Some(incarnation) {
                    // This server was cut off. Its successor has closed an incarnation that is still written to here.
                    return Ok(());
                }
                return partition.clear(incarnation).await;
            }
            let counted = offsets::counted_of(pool, &place).await?;
            partition
                .flush_batch(LogBatch::of_closed(open, fetched, counted))
                .await?;
        }
    }

    /// Counts the lost writes of former incarnations: those that were acknowledged to this process, and are neither in
    /// the database nor in the store.
    pub(super) async fn count_lost(&self, current: Option<Incarnation>) -> Result<(), Error> {
        let partition = self.partition;
        for last in partition.state.former(current) {
            if let Some(lost) = self.lost_of(last).await? {
                partition.tell_lost(lost);
                partition.state.forget(last);
            }
        }
        Ok(())
    }

    /// Returns how many writes up to this one are lost, or `None` while the writes may still be flushed or lost.
    async fn lost_of(&self, last: QueuePosition) -> Result<Option<u64>, Error> {
        let partition = self.partition;
        let pool = &partition.context.database.pool;
        let place = partition.place(last.incarnation);
        let Some((position, closed)) = offsets::position_of(pool, &place).await? else {
            return Ok(None);
        };
        if position >= last.number {
            return Ok(Some(0));
        }
        if !closed {
            return Ok(None);
        }
        let fetch = Fetch::read(last.incarnation, last.number, 0);
        if partition.fetch(fetch).await?.log_last > position {
            // The remaining writes in the log of a closed incarnation become dead letters first.
            return Ok(None);
        }
        Ok(Some(offsets::count_lost(pool, &place, last.number).await?))
    }
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Removes a closed incarnation from the store: the rows that it was the last to write, and its log.
    pub(super) async fn clear(&self, incarnation: Incarnation) -> Result<(), Error> {
        let store = &self.context.cache.store;
        let away = |error| self.context.queue_away("clear", error);
        let mut cursor = 0;
        loop {
            let (next, pending_index) = store
                .pending_index(&self.state.keys, cursor)
                .await
                .map_err(away)?;
            let own = pending_index.into_iter();
            let own = own.filter(|(_, position)| position.incarnation == incarnation);
            let settled: Vec<_> = own
                .map(|(key, position)| Settled {
                    key,
                    number: position.number,
                    keep_ms: 0,
                })
                .collect();
            self.settle(incarnation, &settled, 0).await?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        store
            .drop_log(&self.state.keys, incarnation)
            .await
            .map_err(away)
    }
}
