//! The operations of a repository inside a transaction. They have the same names, and bypass the cache.
//!
//! A read queries the database on the connection of the transaction, so it sees the transaction's own writes. Its
//! result is not cached, because other callers must not see it yet. A write records its key in the transaction, which
//! invalidates or updates the cache at its commit.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{
    database::{
        Write,
        backend::Backend,
        entity::{Entity, OmitsColumns},
        writes::{DeletesById, DirectWrites},
    },
    error::{Error, ErrorKind},
    observe::{Operation, Told},
    protocol::key::AsId,
    read::{Distinct, content::RowOf},
    repository::{MAX_TRIES, Repository},
    write::{
        bulk::{Batch, Done},
        modify::{ChangeResult, Modified},
        transaction::Transaction,
    },
};

/// The rows of one entity, read and written inside a transaction. Returned by [`Repository::within`].
pub struct Within<'t, 'c, E: Entity, DB: Backend> {
    pub(super) repository: &'t Repository<E, DB>,
    pub(super) transaction: &'t mut Transaction<'c, DB>,
}

impl<E: Entity, DB: Backend> fmt::Debug for Within<'_, '_, E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Within")
            .field("entity", &E::SPEC.name)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Returns the operations of this repository inside a transaction. The transaction must be on the same database.
    pub fn within<'t, 'c>(
        &'t self,
        transaction: &'t mut Transaction<'c, DB>,
    ) -> Within<'t, 'c, E, DB>
    where
        E::Writes: DirectWrites,
    {
        Within {
            repository: self,
            transaction,
        }
    }
}

impl<E: Entity, DB: Backend> Within<'_, '_, E, DB> {
    /// Returns the row with this id as the transaction sees it, including the transaction's own writes. The cache is
    /// neither read nor filled.
    ///
    /// # Errors
    ///
    /// Errors of the database, and kind [`TransactionAborted`](crate::ErrorKind::TransactionAborted) if the transaction
    /// can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing. On MySQL and MariaDB the transaction can then only be rolled back: sqlx
    /// cannot reuse a connection whose statement was dropped while it was being prepared.
    pub fn find<Id: AsId<E::Id>>(
        &mut self,
        id: Id,
    ) -> Id::Operation<impl Future<Output = Result<Option<Arc<E>>, Error>>> {
        Id::Operation::from(async move {
            let id = id.as_id().into_owned();
            self.read_row(RowOf::of(id)).await
        })
    }

    /// As [`Within::find`], with the columns that are `omit`.
    ///
    /// # Errors
    ///
    /// As [`Within::find`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::find`].
    pub fn find_complete<Id: AsId<E::Id>>(
        &mut self,
        id: Id,
    ) -> Id::Operation<impl Future<Output = Result<Option<Arc<E>>, Error>>>
    where
        E: OmitsColumns,
    {
        Id::Operation::from(async move {
            let id = id.as_id().into_owned();
            self.read_row(RowOf::complete(id)).await
        })
    }

    async fn read_row(&mut self, row: RowOf<E>) -> Result<Option<Arc<E>>, Error> {
        let context = &self.repository.0;
        let wanted = [(context.key(&row.id)?, row)];
        let read = async {
            let mut found = self.transaction.read(context, &wanted).await?;
            Ok(found.remove(&wanted[0].0).map(Arc::new))
        };
        context.signals.observe(Operation::FindUncached, read).await
    }

    /// Returns the rows with these ids as the transaction sees them, in the order of `ids`, with one statement. An id without
    /// a row has `None`. The cache is neither read nor filled.
    ///
    /// # Errors
    ///
    /// As [`Within::find`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::find`].
    pub async fn find_many(&mut self, ids: &[E::Id]) -> Result<Vec<Option<Arc<E>>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let Distinct { wanted, places } = self.repository.0.distinct_ids(ids)?;
        let found = self.transaction.read(&self.repository.0, &wanted).await?;
        let found = found.into_iter().map(|(key, row)| (key, Arc::new(row)));
        let found: HashMap<_, _> = found.collect();
        let rows = places.into_iter().map(|place| &wanted[place].0);
        Ok(rows.map(|key| found.get(key).cloned()).collect())
    }

    /// Returns whether there is a row with this id, as the transaction sees it.
    ///
    /// # Errors
    ///
    /// As [`Within::find`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::find`].
    pub fn exists<Id: AsId<E::Id>>(
        &mut self,
        id: Id,
    ) -> Id::Operation<impl Future<Output = Result<bool, Error>>> {
        Id::Operation::from(async move { Ok(self.find(id).await?.is_some()) })
    }

    /// As [`Repository::insert`].
    ///
    /// # Errors
    ///
    /// As [`Repository::insert`], and kind [`TransactionAborted`](crate::ErrorKind::TransactionAborted) if the
    /// transaction can only be rolled back.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, it is unknown whether the database executed the statement. The transaction
    /// can then only be rolled back.
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

    /// As [`Repository::modify`]: the row stays locked until the transaction ends.
    ///
    /// # Errors
    ///
    /// As [`Repository::modify`], and kind [`TransactionAborted`](crate::ErrorKind::TransactionAborted) if the transaction can
    /// only be rolled back. After an error of `change`, the transaction can continue.
    ///
    /// # Cancel safety
    ///
    /// As [`Within::update`].
    #[expect(
        clippy::type_complexity,
        reason = "each layer makes one mistake a single error of rustc"
    )]
    pub fn modify<Id: AsId<E::Id>, W: DirectWrites, R: ChangeResult>(
        &mut self,
        id: Id,
        mut change: impl FnMut(&mut E) -> R + Send,
    ) -> W::Operation<Id::Operation<impl Future<Output = Result<Modified<E, R::Value>, Error>>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(Id::Operation::from(async move {
            let id = id.as_id();
            let repository = &self.repository.0;
            let modified = self.transaction.modify(repository, &id, &mut change);
            let signals = &repository.signals;
            signals.observe(Operation::Modify, modified).await
        }))
    }

    /// As [`Repository::modify_or_insert`]. An insert is made in a savepoint, so that the transaction can continue if another one
    /// has inserted the row in between.
    ///
    /// # Errors
    ///
    /// As [`Within::modify`] and [`Within::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Within::insert`].
    pub fn modify_or_insert<W: DirectWrites, R: ChangeResult<Value = ()>>(
        &mut self,
        row: &E,
        mut change: impl FnMut(&mut E) -> R + Send,
    ) -> W::Operation<impl Future<Output = Result<Arc<E>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move {
            let id = row.id();
            let mut tries = 0;
            loop {
                match self.modify(&id, &mut change).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    modified => return Ok(modified?.row),
                }
                let mut savepoint = self.transaction.savepoint().await?;
                let inserted = self.repository.within(&mut savepoint).insert(row).await;
                match inserted {
                    Ok(row) => {
                        savepoint.commit().await?;
                        return Ok(row);
                    }
                    // As outside a transaction.
                    Err(error) if error.kind() == ErrorKind::Duplicate && tries < MAX_TRIES => {
                        savepoint.rollback().await?;
                        tries += 1;
                    }
                    Err(error) => {
                        // After a deadlock there may be no savepoint any more.
                        if let Err(undone) = savepoint.rollback().await {
                            tracing::debug!(error = %undone, "failed to roll back the savepoint of a failed insert");
                        }
                        return Err(error);
                    }
                }
            }
        })
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
    pub fn delete<Id: AsId<E::Id>, D: DeletesById>(
        &mut self,
        id: Id,
    ) -> D::Operation<Id::Operation<impl Future<Output = Result<(), Error>>>>
    where
        E: Entity<Deletes = D>,
    {
        D::Operation::from(Id::Operation::from(async move {
            self.write(Write::Delete(id.as_id().into_owned())).await?;
            Ok(())
        }))
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

    /// As [`Repository::insert_many`]: all of the rows or none, even if the transaction continues after an error.
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

    /// As [`Repository::update_many`]: all of the rows or none, even if the transaction continues after an error.
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
    pub fn delete_many<D: DeletesById>(
        &mut self,
        ids: &[E::Id],
    ) -> D::Operation<impl Future<Output = Result<u64, Error>>>
    where
        E: Entity<Deletes = D>,
    {
        D::Operation::from(async move {
            match self.write_batch(Batch::Delete(ids.to_vec())).await? {
                Done::Count(count) => Ok(count),
                Done::Rows(_) => Ok(0),
            }
        })
    }

    /// As [`Repository::delete_rows`]: all of the rows or none, even if the transaction continues after an error.
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

    /// Marks a row as changed by raw SQL on [`Transaction::connection`], so that the cache drops it at the commit. Call
    /// it before or after the statement, also for inserted and deleted rows.
    ///
    /// larder does not know which values the row has got. If the statement inserted the row, or changed columns of a `unique`
    /// or an `index`, call [`Within::mark_all_changed`] instead.
    ///
    /// # Errors
    ///
    /// Kind [`Conversion`](crate::ErrorKind::Conversion) for an id that cannot be written as a key, and kind
    /// [`TransactionAborted`](crate::ErrorKind::TransactionAborted) if the transaction can only be rolled back.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an id is given here as it is given to `find`"
    )]
    pub fn mark_changed(&mut self, id: impl AsId<E::Id>) -> Result<(), Error> {
        let ids = [id.as_id().into_owned()];
        self.transaction.mark_changed(&self.repository.0, &ids)
    }

    /// As [`Within::mark_changed`], for several rows.
    ///
    /// # Errors
    ///
    /// As [`Within::mark_changed`]. After an error none of the rows is marked.
    pub fn mark_many_changed(&mut self, ids: &[E::Id]) -> Result<(), Error> {
        self.transaction.mark_changed(&self.repository.0, ids)
    }

    /// Marks all rows of the entity as changed by raw SQL on [`Transaction::connection`], for statements whose rows are
    /// not known. The cache drops all of the entity's rows right after the commit. Call it before or after the
    /// statements.
    ///
    /// Once the commit has returned, no read is older than the commit. While the rows are being dropped, an old one may
    /// still be served. If the process crashes at that point, an old row may be served until its time to live ends.
    /// Dropping them scans all keys of the store once (`SCAN`). None of this is so for an entity with `tags`: it is announced
    /// like [`Within::mark_tags_changed`], for all of its rows.
    ///
    /// # Errors
    ///
    /// Kind [`TransactionAborted`](crate::ErrorKind::TransactionAborted) if the transaction can only be rolled back.
    pub fn mark_all_changed(&mut self) -> Result<(), Error> {
        self.transaction.mark_all_changed(&self.repository.0)
    }

    /// Marks the rows with one of these tags as changed by raw SQL on [`Transaction::connection`]. Call it before or after the
    /// statements, and name the tags that the rows had *before* them as well as those that they get: a row whose earlier tags are not
    /// named may still be served as it was.
    ///
    /// From before the commit until after it, readers of rows with these tags, of absences and of lists go to the database, and
    /// nothing of it is cached. So it is as safe as a write by id. If this process dies in between, they do so until the intent
    /// expires (`intent(ttl)`).
    ///
    /// # Errors
    ///
    /// Kind [`Configuration`](crate::ErrorKind::Configuration) if no row of the entity can have one of the tags, and kind
    /// [`TransactionAborted`](crate::ErrorKind::TransactionAborted) if the transaction can only be rolled back.
    pub fn mark_tags_changed(
        &mut self,
        tags: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<(), Error> {
        let texts: Vec<String> = tags.into_iter().map(Into::into).collect();
        let tags = self.repository.0.known_tags("mark", &texts)?;
        if tags.is_empty() {
            return Ok(());
        }
        self.transaction.mark_tags_changed(&self.repository.0, tags)
    }

    async fn write(&mut self, write: Write<E>) -> Result<Option<Arc<E>>, Error> {
        let context = &self.repository.0;
        let written = self.transaction.write(context, &write);
        let told = |_: &_| Told::rows(1);
        let written = context.signals.observe_as(write.operation(), told, written);
        let row = written.await?;
        Ok(row.or_else(|| context.row_of(write)))
    }

    async fn write_rows(&mut self, batch: Batch<E>) -> Result<Vec<Arc<E>>, Error> {
        match self.write_batch(batch).await? {
            Done::Rows(rows) => Ok(rows),
            Done::Count(_) => Ok(Vec::new()),
        }
    }

    pub(super) async fn write_batch(&mut self, batch: Batch<E>) -> Result<Done<E>, Error> {
        if batch.is_empty() {
            return Ok(batch.nothing());
        }
        // A savepoint, so that a failed batch leaves nothing in the transaction.
        let context = &self.repository.0;
        let operation = batch.operation();
        let written = async {
            let mut savepoint = self.transaction.savepoint().await?;
            let done = savepoint.write_batch(context, batch).await?;
            savepoint.commit().await?;
            Ok(done)
        };
        context.signals.observe(operation, written).await
    }

    async fn write_row(&mut self, write: Write<E>) -> Result<Arc<E>, Error> {
        let row = self.write(write).await?;
        Ok(row.expect("every write but a delete has a row"))
    }
}
