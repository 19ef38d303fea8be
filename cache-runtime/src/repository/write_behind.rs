//! What a repository of a write-behind entity offers beside reads and writes: flushing, what waits, and what was refused.

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::{
    behind::{DeadLetters, Flusher, Pending},
    database::{
        backend::Backend,
        entity::{Entity, queued},
    },
    error::Error,
    repository::Repository,
};

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Starts flushing the queue in the background, one task per partition. Any number of processes may do so; one at a time
    /// works on a partition, and when it ends another takes over.
    ///
    /// While the database or the store cannot be reached, it starts all the same: the tasks go on by themselves when both are
    /// there, and the log has a line about it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] when the store does not keep acknowledged writes as the entity demands, when the tables
    /// are missing, or when writes are queued under another number of partitions; if that can be asked within a few seconds.
    /// What turns out later is in the log.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future starts nothing.
    pub async fn start_flushing(&self) -> Result<Flusher, Error> {
        const { queued::<E>() };
        self.0.start_flushing().await
    }

    /// Brings every write to the database that was acknowledged before this call. Returns when they are committed, or dead
    /// letters, and have left the queue. It does the work itself where nobody else does.
    ///
    /// # Errors
    ///
    /// Errors of the database and the store. Nothing is lost then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; what was not flushed stays queued.
    pub async fn flush(&self) -> Result<(), Error> {
        const { queued::<E>() };
        self.0.flush().await
    }

    /// How many acknowledged writes wait, and for how long. While the database does not answer, the store alone tells, and
    /// writes that are in the database and have not left the queue yet count as well.
    ///
    /// # Errors
    ///
    /// Errors of the store, and [`ErrorKind::Configuration`].
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn pending(&self) -> Result<Pending, Error> {
        const { queued::<E>() };
        self.0.pending().await
    }

    /// The writes that were acknowledged and then refused by the database.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<E, DB> {
        const { queued::<E>() };
        DeadLetters::of(&self.0)
    }

    /// Creates larder's tables, if they are not there: those that write-behind needs, and the one with the id of the
    /// database. Their statements, for a migration, are in
    /// [`schema`](crate::database::schema).
    ///
    /// # Errors
    ///
    /// Errors of the database.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave one of the tables; call it again.
    pub async fn install(&self) -> Result<(), Error> {
        const { queued::<E>() };
        self.0.install().await
    }
}
