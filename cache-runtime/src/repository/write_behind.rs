//! The operations that only a repository of a write-behind entity has: flushing, pending writes and dead letters.

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::{
    behind::{DeadLetters, Flusher, Pending},
    database::{backend::Backend, entity::Entity, writes::QueuedWrites},
    error::Error,
    observe::Operation,
    repository::Repository,
};

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Starts flushing the queue in the background, with one task per partition. Any number of processes may call it.
    /// One process at a time flushes a partition, and when it ends another takes over.
    ///
    /// The tasks start even if the database or the store cannot be reached. They log a line, retry, and begin to flush
    /// as soon as both are reachable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the store does not keep acknowledged writes as safely as the entity's
    /// `durability` asks, if the tables are missing, or if writes are queued under another number of partitions. The
    /// call checks this for a few seconds. Mistakes that are found later are logged.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, nothing was started.
    pub fn start_flushing<W: QueuedWrites>(
        &self,
    ) -> W::Operation<impl Future<Output = Result<Flusher, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.0.start_flushing().await })
    }

    /// Flushes every write that was acknowledged before this call. Returns when each of them is committed or a dead
    /// letter, and has left the queue. It flushes them itself if no background task does.
    ///
    /// # Errors
    ///
    /// Errors of the database and the store. No write is lost: the remaining ones stay queued.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing. Writes that were not flushed stay queued.
    pub fn flush<W: QueuedWrites>(&self) -> W::Operation<impl Future<Output = Result<(), Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move {
            let flushed = self.0.flush();
            self.0.signals.observe(Operation::Flush, flushed).await
        })
    }

    /// Returns how many acknowledged writes are pending, and how old the oldest is. While the database does not answer,
    /// only the queue is counted. It may still contain writes that are already in the database.
    ///
    /// # Errors
    ///
    /// Errors of the store, and [`ErrorKind::Configuration`].
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub fn pending<W: QueuedWrites>(
        &self,
    ) -> W::Operation<impl Future<Output = Result<Pending, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.0.pending().await })
    }

    /// Returns the dead letters: the writes that were acknowledged and later rejected by the database.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<E, DB>
    where
        E::Writes: QueuedWrites,
    {
        DeadLetters::of(&self.0)
    }

    /// Creates larder's tables if they do not exist: those for write-behind, and the one with the id of the database.
    /// To run the statements in a migration, see [`schema`](crate::database::schema).
    ///
    /// # Errors
    ///
    /// Errors of the database.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, only some of the tables may exist. Call it again.
    pub fn install<W: QueuedWrites>(&self) -> W::Operation<impl Future<Output = Result<(), Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.0.install().await })
    }
}
