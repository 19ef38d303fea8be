//! Starting an incarnation of a partition: the database gives it its epoch, then the store begins its log.
//!
//! 1. Several tasks may notice at once that the partition has no queue in the store's current history. In one process the first
//!    of them starts an incarnation, and the others find that it is started.
//! 2. Of several processes, one starts its incarnation in the store. Those of the others stay empty, and are closed.
//!
//! Invariant: an incarnation is registered in the database before the store has it (`offsets::register`).
//! Not here: when one is needed (`put`, `flush`, `flusher`), and closing it (`flush`).

use std::sync::atomic::Ordering;

use crate::{
    behind::{offsets, partition::PartitionContext},
    database::{backend::Backend, entity::Entity},
    error::Error,
    protocol::queue_position::Incarnation,
    store::queue::{Fetch, QueueStore},
};

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Starts an incarnation if there is none of the store's current history, so that puts need not wait for the database.
    pub(super) async fn begin(&self) -> Result<(), Error> {
        let incarnations_started = self.state.incarnations_started.load(Ordering::Acquire);
        let fetched = self.fetch(Fetch::PEEK).await?;
        if fetched.is_present {
            return Ok(());
        }
        let (from, history) = (fetched.current, fetched.history);
        self.start_incarnation(from, history, incarnations_started)
            .await
    }

    /// Starts an incarnation after `from`, in the history of the store in which the caller has seen that. Does nothing if
    /// this process has started one since the caller has read `incarnations_started`.
    pub(super) async fn start_incarnation(
        &self,
        from: Option<Incarnation>,
        history: u64,
        incarnations_started: u64,
    ) -> Result<(), Error> {
        let partition = self.state;
        let _starting = partition.starting.lock().await;
        if partition.incarnations_started.load(Ordering::Acquire) != incarnations_started {
            return Ok(());
        }
        let pool = &self.context.database.pool;
        let last = from.map_or(0, |from| from.epoch);
        let to = offsets::register(pool, &self.queue.name, self.number(), last).await?;
        partition.given(to);
        let begun = self
            .context
            .cache
            .store
            .start_incarnation(&partition.keys, from, to, history)
            .await;
        // If not, another process has begun one. The one that was registered here stays empty, and a flusher closes it.
        let begun =
            begun.map_err(|error| self.context.queue_away("begin an incarnation of", error))?;
        partition
            .incarnations_started
            .fetch_add(1, Ordering::AcqRel);
        tracing::info!(
            entity = E::SPEC.name,
            queue = &*self.queue.name,
            partition = self.number(),
            incarnation = %to,
            begun,
            "a new incarnation of the queue was registered"
        );
        Ok(())
    }
}
