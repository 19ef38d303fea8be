//! The operations of a repository inside a transaction: the same words, past the cache.
//!
//! A read asks the database on the connection of the transaction, so it sees the transaction's own writes and nothing of
//! the cache; nothing it finds is stored, because others must not see it yet. A write notes its key with the transaction,
//! which tells the cache at its commit.

use std::{fmt, sync::Arc};

use crate::{
    database::{
        Write,
        backend::Backend,
        entity::{Entity, not_queued},
    },
    error::Error,
    protocol::key::AsId,
    repository::Repository,
    write::{
        bulk::{Batch, Done},
        transaction::Transaction,
    },
};

/// The rows of one entity, read and written inside a transaction. Made by [`Repository::within`].
pub struct Within<'t, 'c, E: Entity, DB: Backend> {
    repository: &'t Repository<E, DB>,
    transaction: &'t mut Transaction<'c, DB>,
}

impl<E: Entity, DB: Backend> fmt::Debug for Within<'_, '_, E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Within")
            .field("entity", &E::SPEC.name)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// The operations of this repository inside a transaction, which must be one on the same database.
    pub fn within<'t, 'c>(
        &'t self,
        transaction: &'t mut Transaction<'c, DB>,
    ) -> Within<'t, 'c, E, DB> {
        const { not_queued::<E>() };
        Within {
            repository: self,
            transaction,
        }
    }
}

impl<E: Entity, DB: Backend> Within<'_, '_, E, DB> {
    /// The row with this id as the transaction sees it, its own writes included. The cache is neither asked nor filled.
    ///
    /// # Errors
    ///
    /// Errors of the database, and kind [`Aborted`](crate::ErrorKind::Aborted) if the transaction can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing. On MySQL and MariaDB the transaction can then only be rolled back, because sqlx
    /// cannot use a connection again whose statement was dropped while it was being prepared.
    pub async fn find(&mut self, id: impl AsId<E::Id>) -> Result<Option<Arc<E>>, Error> {
        let id = id.as_id();
        self.transaction.find(&self.repository.0, &id).await
    }

    /// Whether there is a row with this id, as the transaction sees it.
    ///
    /// # Errors
    ///
    /// As [`Within::find`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::find`].
    pub async fn exists(&mut self, id: impl AsId<E::Id>) -> Result<bool, Error> {
        Ok(self.find(id).await?.is_some())
    }

    /// As [`Repository::insert`].
    ///
    /// # Errors
    ///
    /// As [`Repository::insert`], and kind [`Aborted`](crate::ErrorKind::Aborted) if the transaction can only be rolled
    /// back.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped half-way nobody knows whether the statement was run; the transaction can only be rolled
    /// back.
    pub async fn insert(&mut self, entity: &E) -> Result<Arc<E>, Error> {
        self.write_row(Write::Insert(entity.clone())).await
    }

    /// As [`Repository::update`].
    ///
    /// # Errors
    ///
    /// As [`Repository::update`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn update(&mut self, entity: &E) -> Result<Arc<E>, Error> {
        self.write_row(Write::Update(entity.clone())).await
    }

    /// As [`Repository::save`].
    ///
    /// # Errors
    ///
    /// As [`Repository::save`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn save(&mut self, entity: &E) -> Result<Arc<E>, Error> {
        self.write_row(Write::Save(entity.clone())).await
    }

    /// As [`Repository::delete`].
    ///
    /// # Errors
    ///
    /// As [`Repository::delete`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn delete(&mut self, id: impl AsId<E::Id>) -> Result<(), Error> {
        const {
            assert!(
                !E::SPEC.versioned,
                "an entity with a version is deleted with `delete_row`"
            );
        };
        self.write(Write::Delete(id.as_id().into_owned())).await?;
        Ok(())
    }

    /// As [`Repository::delete_row`].
    ///
    /// # Errors
    ///
    /// As [`Repository::delete_row`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn delete_row(&mut self, entity: &E) -> Result<(), Error> {
        self.write(Write::DeleteRow(entity.clone())).await?;
        Ok(())
    }

    /// As [`Repository::insert_many`]: all of the rows or none, whatever becomes of the rest of the transaction.
    ///
    /// # Errors
    ///
    /// As [`Repository::insert_many`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn insert_many(&mut self, entities: &[E]) -> Result<Vec<Arc<E>>, Error> {
        self.write_rows(Batch::Insert(entities.to_vec())).await
    }

    /// As [`Repository::update_many`]: all of the rows or none, whatever becomes of the rest of the transaction.
    ///
    /// # Errors
    ///
    /// As [`Repository::update_many`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn update_many(&mut self, entities: &[E]) -> Result<Vec<Arc<E>>, Error> {
        self.write_rows(Batch::Update(entities.to_vec())).await
    }

    /// As [`Repository::delete_many`].
    ///
    /// # Errors
    ///
    /// As [`Repository::delete_many`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn delete_many(&mut self, ids: &[E::Id]) -> Result<u64, Error> {
        const {
            assert!(
                !E::SPEC.versioned,
                "entities with a version are deleted with `delete_rows`"
            );
        };
        match self.write_batch(Batch::Delete(ids.to_vec())).await? {
            Done::Count(count) => Ok(count),
            Done::Rows(_) => Ok(0),
        }
    }

    /// As [`Repository::delete_rows`]: all of the rows or none, whatever becomes of the rest of the transaction.
    ///
    /// # Errors
    ///
    /// As [`Repository::delete_rows`], and as [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub async fn delete_rows(&mut self, entities: &[E]) -> Result<(), Error> {
        self.write_batch(Batch::DeleteRows(entities.to_vec()))
            .await?;
        Ok(())
    }

    /// Names a row that a statement of one's own on [`Transaction::connection`] has changed or will change, inserted and
    /// deleted rows included, so that the cache drops it at the commit.
    ///
    /// # Errors
    ///
    /// Kind [`Conversion`](crate::ErrorKind::Conversion) for an id that cannot be written as a key, and kind
    /// [`Aborted`](crate::ErrorKind::Aborted) if the transaction can only be rolled back.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an id is given here as it is given to `find`"
    )]
    pub fn touch(&mut self, id: impl AsId<E::Id>) -> Result<(), Error> {
        let key = self.repository.0.key(&id.as_id())?;
        self.transaction.touch(&self.repository.0, key)
    }

    /// As [`Within::touch`], for several rows.
    ///
    /// # Errors
    ///
    /// As [`Within::touch`]; none of the rows is named then.
    pub fn touch_many(&mut self, ids: &[E::Id]) -> Result<(), Error> {
        let keys = ids.iter().map(|id| self.repository.0.key(id));
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        keys.into_iter()
            .try_for_each(|key| self.transaction.touch(&self.repository.0, key))
    }

    /// Says that statements of one's own on [`Transaction::connection`] have changed or will change rows of the entity that
    /// cannot be named, so that the cache drops all of its rows right after the commit.
    ///
    /// Once the commit has returned no read is older than it; while it drops the rows an old one may still be served, and
    /// until its time to live ends if the process dies meanwhile. It looks at every key of the store once (`SCAN`).
    ///
    /// # Errors
    ///
    /// Kind [`Aborted`](crate::ErrorKind::Aborted) if the transaction can only be rolled back.
    pub fn touch_all(&mut self) -> Result<(), Error> {
        self.transaction.touch_all(&self.repository.0)
    }

    async fn write(&mut self, write: Write<E>) -> Result<Option<Arc<E>>, Error> {
        let row = self.transaction.write(&self.repository.0, &write).await?;
        Ok(row.or_else(|| write.into_row().map(Arc::new)))
    }

    async fn write_rows(&mut self, batch: Batch<E>) -> Result<Vec<Arc<E>>, Error> {
        match self.write_batch(batch).await? {
            Done::Rows(rows) => Ok(rows),
            Done::Count(_) => Ok(Vec::new()),
        }
    }

    async fn write_batch(&mut self, batch: Batch<E>) -> Result<Done<E>, Error> {
        if batch.is_empty() {
            return Ok(batch.nothing());
        }
        // What a batch did before it failed must not stay in the transaction.
        let mut savepoint = self.transaction.savepoint().await?;
        let done = savepoint.write_batch(&self.repository.0, batch).await?;
        savepoint.commit().await?;
        Ok(done)
    }

    async fn write_row(&mut self, write: Write<E>) -> Result<Arc<E>, Error> {
        let row = self.write(write).await?;
        Ok(row.expect("every write but a delete has a row"))
    }
}
