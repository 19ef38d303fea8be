//! Checks that a queue can be used: the store keeps acknowledged writes, and the tables exist.
//!
//! 1. The store is checked before the first write through each connection. The tables are checked before the very first
//!    write ([`Context::verified`]).
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
    /// Checks the store once per connection to it, and the tables once. Returns when the store may acknowledge a put.
    pub(crate) async fn verified(&self, queue: &Queue) -> Result<Acknowledged, Error> {
        let run = self.cache.store.connection_number() + 1;
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
        // A slow check of an earlier connection must not overwrite the result for a later one.
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
                format!("failed to use the queue of {name}: {reason}"),
            )
        })?;
        // Check the tables only once, so that puts continue after a Redis outage while the database is unreachable.
        if queue.verified.load(Ordering::Acquire) > 0 {
            return Ok(acknowledged);
        }
        self.check_tables(queue).await?;
        Ok(acknowledged)
    }

    /// Checks that the tables exist, and that no writes are queued under another number of partitions.
    pub(super) async fn check_tables(&self, queue: &Queue) -> Result<(), Error> {
        let name = E::SPEC.name;
        let others = offsets::queues_like(&self.database.pool, &queue.family).await?;
        let is_other = |other: &String| **other != *queue.name && !other.contains('@');
        if let Some(other) = others.into_iter().find(is_other) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "failed to use the queue of {name}: the entity has {} partitions, but writes were queued in {other}, whose \
                     last number is its number of partitions; flush that queue with the program that wrote it, and then delete \
                     its rows from larder_offsets",
                    queue.policy.partitions
                ),
            ));
        }
        Ok(())
    }

    /// Creates larder's tables if they do not exist.
    pub(crate) async fn install(&self) -> Result<(), Error> {
        tables::install(&self.database.pool).await?;
        // The database may have an id now, so bind the namespace to it.
        self.bond.prober.forget();
        self.unbind();
        Ok(())
    }
}
