//! One partition of a repository's queue, with the repository: what the operations on a partition work on.
//!
//! 1. [`PartitionContext`] has the repository, its queue and the partition. An operation on one partition is a method of it, in
//!    the file of its concept: `put`, `flush`, `loss`, `unregistered`, `flusher`.
//! 2. Here are only the requests to the store that these share. The error of a failed request names the entity.
//!
//! Invariant: what this process knows of the partition is in `queue::Partition`. A `PartitionContext` adds nothing to it, so one
//! can be made and dropped at any time.
//! Not here: the task that holds the cursor of a partition while it flushes (`flush`, `PartitionFlusher`).

use std::sync::Arc;

use crate::{
    behind::{
        offsets::QueueIncarnation,
        queue::{Partition, Queue},
    },
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    protocol::{key::Key, queue_position::Incarnation},
    store::{
        Point, Store,
        queue::{Fetch, Fetched, QueueStore, Settled},
    },
};

/// A partition of the queue of a repository.
pub(super) struct PartitionContext<'a, E: Entity, DB: Backend> {
    pub(super) context: &'a Context<E, DB>,
    pub(super) queue: &'a Queue,
    /// What this process knows of the partition.
    pub(super) state: &'a Partition,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns the partitions of the queue, in the order of their numbers.
    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionContext<'_, E, DB>> {
        let partitions = self.queue().partitions.iter();
        partitions.map(|partition| self.with_partition(partition))
    }

    /// Returns the partition with a number, if the queue has so many.
    pub(super) fn partition(&self, number: u16) -> Option<PartitionContext<'_, E, DB>> {
        let partition = self.queue().partitions.get(usize::from(number))?;
        Some(self.with_partition(partition))
    }

    /// Returns the partition that the writes of a key are queued in.
    pub(super) fn partition_of(&self, key: &Key) -> PartitionContext<'_, E, DB> {
        self.with_partition(&self.queue().partitions[self.keys.partition(key)])
    }

    fn with_partition<'a>(&'a self, partition: &'a Partition) -> PartitionContext<'a, E, DB> {
        PartitionContext {
            context: self,
            queue: self.queue(),
            state: partition,
        }
    }
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Returns the number of the partition.
    pub(super) fn number(&self) -> u16 {
        self.state.keys.number
    }

    /// Returns an incarnation of the partition as the database names it.
    pub(super) fn place(&self, incarnation: Incarnation) -> QueueIncarnation {
        QueueIncarnation {
            queue: Arc::clone(&self.queue.name),
            partition: self.number(),
            incarnation,
        }
    }

    /// Reads the queue in the store.
    pub(super) async fn fetch(&self, fetch: Fetch) -> Result<Fetched, Error> {
        let store = &self.context.cache.store;
        let fetched = store.fetch(&self.state.keys, fetch).await;
        fetched.map_err(|error| self.context.queue_away("read writes of", error))
    }

    /// Returns the incarnations that have a log in the store. `verb` says in the error what the caller does with them.
    pub(super) async fn logs(&self, verb: &str) -> Result<Vec<Incarnation>, Error> {
        let logs = self.context.cache.store.logs(&self.state.keys).await;
        logs.map_err(|error| self.context.queue_away(verb, error))
    }

    /// Tells the store which writes of an incarnation are done. The store cuts the log off up to the number `up_to`, unless that
    /// is zero.
    pub(super) async fn settle(
        &self,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> Result<(), Error> {
        let store = &self.context.cache.store;
        store.reach(Point::BeforeTrim);
        let done = store.settle(&self.state.keys, incarnation, settled, up_to);
        done.await
            .map_err(|error| self.context.queue_away("settle flushed writes of", error))?;
        store.reach(Point::AfterTrim);
        Ok(())
    }
}
