//! The dead letters of a repository: what its flushes could not bring to the database.
//!
//! Not here: how a write becomes one (`apply`), and the table (`letters`).

use std::{fmt, sync::Arc};

use crate::{
    backend::Backend,
    behind::{
        Image,
        letters::{self, DeadLetter},
        tables,
    },
    binding::Member,
    database::Write,
    entity::Entity,
    error::{Error, ErrorKind},
    repository::{Inner, Repository, queued},
};

/// The writes of one repository that were acknowledged and then refused by the database.
pub struct DeadLetters<E: Entity, DB: Backend>(Arc<Inner<E, DB>>);

impl<E: Entity, DB: Backend> fmt::Debug for DeadLetters<E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("entity", &E::SPEC.name)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> DeadLetters<E, DB> {
    /// The dead letters, at most so many, in the order of their partitions and of the queue.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn list(&self, limit: u32) -> Result<Vec<DeadLetter<E>>, Error> {
        let inner = &self.0;
        inner.bind_now().await?;
        let queue = &inner.queue().name;
        letters::list(&inner.database.pool, queue, inner.fingerprint, limit).await
    }

    /// Queues the write of a letter again, as the latest one of its row, and removes the letter. A row that was written since
    /// becomes what the letter says: look at it first, or write what is right with `modify`, and discard the letter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conversion`] for a letter that this program cannot read; otherwise as `save` and errors of the database.
    /// If the letter cannot be removed, its write is queued all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, the write may be queued and the letter still be there.
    pub async fn replay(&self, letter: &DeadLetter<E>) -> Result<(), Error> {
        let inner = &self.0;
        inner.bind_for_queue("replay").await?;
        match letter.image() {
            Some(Image::Row(row)) => inner.write_behind(Write::Save(E::clone(&row))).await?,
            Some(Image::Deletion(id)) => match inner.write_behind(Write::Delete(id)).await {
                // It is gone already.
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                deleted => deleted?,
            },
            Some(Image::Unreadable { .. }) | None => {
                return Err(Error::new(
                    ErrorKind::Conversion,
                    format!(
                        "failed to replay a dead letter of {}: {}",
                        E::SPEC.name,
                        letter.unreadable().unwrap_or("it cannot be read")
                    ),
                ));
            }
        };
        self.discard(letter).await
    }

    /// Removes a letter.
    ///
    /// # Errors
    ///
    /// Errors of the database. A letter that is not there any more is none.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, the letter may or may not be there.
    pub async fn discard(&self, letter: &DeadLetter<E>) -> Result<(), Error> {
        self.0.bind_now().await?;
        letters::discard(&self.0.database.pool, letter).await?;
        Ok(())
    }
}

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// The writes that were acknowledged and then refused by the database.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<E, DB> {
        const { queued::<E>() };
        DeadLetters(Arc::clone(&self.0))
    }

    /// Creates larder's tables, if they are not there: those that write-behind needs, and the one with the id of the
    /// database. Their statements, for a migration, are in
    /// [`schema`](crate::schema).
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
        let inner = &self.0;
        tables::install(&inner.database.pool).await?;
        // The database may have an id now, to which the namespace is to be bound.
        inner.bond.prober.forget();
        inner.unbind();
        Ok(())
    }
}
