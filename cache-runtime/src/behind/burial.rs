//! What is left of an incarnation that is over: its last rows, its log, and the writes that the store has lost.
//!
//! 1. What the log of a closed incarnation still holds came too late, and becomes dead letters.
//! 2. Rows that it was the last to write are dropped from the store, and its log with them.
//! 3. Writes that were acknowledged to this process, and are neither in the database nor in the store, are counted.
//!
//! Invariant: a write of a closed incarnation is never applied any more.
//! Not here: when an incarnation is closed (`flush`).

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    behind::{
        offsets::{self, OpenIncarnation},
        queue::{Lane, Queue},
    },
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    protocol::mark::{Incarnation, Mark},
    store::queue::{Fetch, Logged, QueueStore, Settled},
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Makes dead letters of what a closed incarnation still holds, and clears it away.
    pub(super) async fn bury(
        &self,
        queue: &Queue,
        lane: &Lane,
        incarnation: Incarnation,
    ) -> Result<(), Error> {
        let place = queue.place(lane, incarnation);
        let pool = &self.database.pool;
        loop {
            let Some((at, is_closed)) = offsets::position_of(pool, &place).await? else {
                // It is registered before the store has it.
                return match self.missing(queue, lane, incarnation).await? {
                    Some(missing) => Err(missing),
                    None => self.clear(lane, incarnation).await,
                };
            };
            if !is_closed {
                // Registered a moment ago.
                return Ok(());
            }
            let open = OpenIncarnation {
                incarnation,
                position: at,
            };
            self.settle_committed(lane, &open).await?;
            let fetch = Fetch {
                incarnation,
                after: at,
                count: queue.policy.batch,
                claim_ms: 0,
                is_first: false,
            };
            let fetched = self.fetch(lane, fetch).await?;
            if fetched.writes.is_empty() {
                if fetched.current == Some(incarnation) {
                    // A server that was cut off, and whose successor has closed what is still written to here.
                    return Ok(());
                }
                return self.clear(lane, incarnation).await;
            }
            let counted = offsets::counted_of(pool, &place).await?;
            self.flush_batch(queue, lane, fetched, open, Some(counted))
                .await?;
        }
    }

    /// Removes what a closed incarnation has left in the store: rows that it was the last to write, and its log.
    pub(super) async fn clear(&self, lane: &Lane, incarnation: Incarnation) -> Result<(), Error> {
        let store = &self.cache.store;
        let away = |error| self.queue_away("clear", error);
        let mut cursor = 0;
        loop {
            let (next, marks) = store.marks(&lane.partition, cursor).await.map_err(away)?;
            let own = marks.into_iter();
            let own = own.filter(|(_, mark)| mark.incarnation == incarnation);
            let settled: Vec<_> = own
                .map(|(key, mark)| Settled {
                    key,
                    number: mark.number,
                    keep_ms: 0,
                })
                .collect();
            self.settle(lane, incarnation, &settled, 0).await?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        store
            .drop_log(&lane.partition, incarnation)
            .await
            .map_err(away)
    }

    /// How many writes between a position and a number the store has lost, by those that it still has. Of a closed incarnation,
    /// those up to `counted` have been counted as lost.
    pub(super) fn lost_between(
        &self,
        position: u64,
        to: u64,
        writes: &[Logged],
        counted: Option<u64>,
    ) -> u64 {
        #[cfg(feature = "test-util")]
        if self.cache.store.is_left_out(Mechanism::GapCount) {
            return 0;
        }
        let from = counted.unwrap_or(0).max(position);
        let numbers = writes.iter().map(|write| write.pending.mark.number);
        let found = numbers.filter(|number| *number > from).count() as u64;
        to.saturating_sub(from) - found
    }

    /// Counts the writes that were acknowledged to this process in incarnations that are over, and that are neither in the
    /// database nor in the store.
    pub(super) async fn count_lost(
        &self,
        queue: &Queue,
        lane: &Lane,
        current: Option<Incarnation>,
    ) -> Result<(), Error> {
        for mark in lane.former(current) {
            if let Some(lost) = self.lost_of(queue, lane, mark).await? {
                self.tell_lost(queue, lane, lost);
                lane.forget(mark);
            }
        }
        Ok(())
    }

    /// How many writes up to this one are lost; nothing as long as it may yet be flushed, or lost.
    async fn lost_of(&self, queue: &Queue, lane: &Lane, mark: Mark) -> Result<Option<u64>, Error> {
        let pool = &self.database.pool;
        let place = queue.place(lane, mark.incarnation);
        let Some((position, closed)) = offsets::position_of(pool, &place).await? else {
            return Ok(None);
        };
        if position >= mark.number {
            return Ok(Some(0));
        }
        if !closed {
            return Ok(None);
        }
        let fetch = Fetch {
            incarnation: mark.incarnation,
            after: mark.number,
            count: 0,
            claim_ms: 0,
            is_first: false,
        };
        if self.fetch(lane, fetch).await?.log_last > position {
            // What the log of a closed incarnation still holds becomes dead letters first.
            return Ok(None);
        }
        Ok(Some(offsets::count_lost(pool, &place, mark.number).await?))
    }
}
