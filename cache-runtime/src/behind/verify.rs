//! Whether a queue can be used: the store keeps what it acknowledges, and the tables are there.
//!
//! 1. Before the first write through a connection the store is checked, and before the very first one the tables are too
//!    ([`Context::verified`]).
//!
//! Not here: whose rows the store holds (`binding`).

use std::sync::atomic::Ordering;

use crate::{
    behind::{offsets, queue::Queue},
    binding::Member,
    context::Context,
    database::{backend::Backend, entity::Entity, tables},
    error::{Error, ErrorKind},
    store::{
        Store,
        queue::{Acknowledged, QueueStore},
    },
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Checks that the store can keep the queue, once per connection to it, and once that the database can. When its answer
    /// to a put may come.
    pub(crate) async fn verified(&self, queue: &Queue) -> Result<Acknowledged, Error> {
        let run = self.cache.store.run() + 1;
        let verified = queue.verified.load(Ordering::Acquire);
        if verified >> 1 == run {
            return Ok(if verified & 1 == 1 {
                Acknowledged::AfterSync
            } else {
                Acknowledged::AtOnce
            });
        }
        let acknowledged = Box::pin(self.verify(queue)).await?;
        let syncs = acknowledged == Acknowledged::AfterSync;
        // A check of an earlier store that has taken longer says nothing of this one.
        queue
            .verified
            .fetch_max(run << 1 | u64::from(syncs), Ordering::AcqRel);
        Ok(acknowledged)
    }

    async fn verify(&self, queue: &Queue) -> Result<Acknowledged, Error> {
        let name = E::SPEC.name;
        self.bind_for_queue("check").await?;
        let checked = self.cache.store.check_queue(&queue.policy).await;
        let checked = checked.map_err(|error| self.queue_away("check", error))?;
        let acknowledged = checked.map_err(|reason| {
            Error::new(
                ErrorKind::Configuration,
                format!("{name} cannot be written behind: {reason}"),
            )
        })?;
        // Once, so that puts go on when the database is away and Redis was.
        if queue.verified.load(Ordering::Acquire) > 0 {
            return Ok(acknowledged);
        }
        self.check_tables(queue).await?;
        Ok(acknowledged)
    }

    /// Checks that the tables are there, and that no writes are queued under another number of partitions.
    pub(super) async fn check_tables(&self, queue: &Queue) -> Result<(), Error> {
        let name = E::SPEC.name;
        let others = offsets::queues_like(&self.database.pool, &queue.family).await?;
        let is_other = |other: &String| **other != *queue.name && !other.contains('@');
        if let Some(other) = others.into_iter().find(is_other) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "{name} has {} partitions, but its writes were queued in {other}, where the last number is that of the \
                     partitions; flush that queue with the program it was made by, and then delete its rows from \
                     larder_offsets",
                    queue.policy.partitions
                ),
            ));
        }
        Ok(())
    }

    /// Creates larder's tables, if they are not there.
    pub(crate) async fn install(&self) -> Result<(), Error> {
        tables::install(&self.database.pool).await?;
        // The database may have an id now, to which the namespace is to be bound.
        self.bond.prober.forget();
        self.unbind();
        Ok(())
    }
}
