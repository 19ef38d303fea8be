//! The lookups and relations of a repository: lookups by their place in the list of the entity. Generated methods call them
//! with a tuple of values of the right types; they are not for other callers.

use std::sync::Arc;

use crate::{
    database::{
        backend::Backend,
        entity::Entity,
        writes::{DeletesById, DirectWrites},
    },
    error::Error,
    observe::{Operation, Told},
    read::{
        list::{self, FindAll, Page},
        lookup::{self, LookupOf, Values},
    },
    repository::Repository,
    write::{
        bulk::{Batch, Done},
        modify::ChangeResult,
    },
};

#[doc(hidden)]
impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Returns the row that a unique lookup finds.
    pub async fn find_by<V: Values>(
        &self,
        lookup: usize,
        values: V,
    ) -> Result<Option<Arc<E>>, Error> {
        let found = self.0.find_by(lookup, values);
        self.0.signals.observe(Operation::FindBy, found).await
    }

    /// Returns whether a lookup finds a row.
    pub async fn exists_by<V: Values>(&self, lookup: usize, values: V) -> Result<bool, Error> {
        if E::SPEC.lookups[lookup].is_unique {
            return Ok(self.find_by(lookup, values).await?.is_some());
        }
        let first = FindAll::new(&self.0, lookup, values).limit(1).await?;
        Ok(!first.rows.is_empty())
    }

    /// Returns the rows that a unique lookup finds for many values.
    pub async fn find_many_by<V: Values>(
        &self,
        lookup: usize,
        values: Vec<V>,
    ) -> Result<Vec<Option<Arc<E>>>, Error> {
        let mut reader = &self.0;
        let found = lookup::find_many_by(&mut reader, lookup, values);
        self.0.signals.observe(Operation::FindManyBy, found).await
    }

    /// Returns the rows of a list, as a value that is awaited.
    pub fn find_all_by<V: Values>(&self, lookup: usize, values: V) -> FindAll<'_, E, DB> {
        FindAll::new(&self.0, lookup, values)
    }

    /// Returns the rows of many lists.
    pub async fn find_all_many<V: Values>(
        &self,
        lookup: usize,
        values: Vec<V>,
    ) -> Result<Vec<Page<E>>, Error> {
        let mut reader = &self.0;
        let found = list::find_all_many(&mut reader, lookup, values);
        self.0.signals.observe(Operation::FindAllBy, found).await
    }

    /// Counts the rows of a list.
    pub async fn count_by<V: Values>(&self, lookup: usize, values: V) -> Result<u64, Error> {
        let counted = self.0.count_by(lookup, values);
        let told = |_: &_| Told::default();
        self.0
            .signals
            .observe_as(Operation::CountBy, told, counted)
            .await
    }

    /// Changes the rows of a list, in a transaction of its own. Returns all of them in the order of their ids.
    pub fn modify_by<V: Values, W: DirectWrites, R: ChangeResult<Value = ()>>(
        &self,
        lookup: usize,
        values: V,
        change: impl FnMut(&mut E) -> R + Send,
    ) -> W::Operation<impl Future<Output = Result<Vec<Arc<E>>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move {
            let found = LookupOf::new(lookup, values);
            let modified = self.0.modify_found(&found, change);
            self.0.signals.observe(Operation::ModifyBy, modified).await
        })
    }

    /// Deletes the rows of a list, in a transaction of its own. Returns how many were deleted.
    pub fn delete_by<V: Values, W: DirectWrites, D: DeletesById>(
        &self,
        lookup: usize,
        values: V,
    ) -> W::Operation<D::Operation<impl Future<Output = Result<u64, Error>>>>
    where
        E: Entity<Writes = W, Deletes = D>,
    {
        W::Operation::from(D::Operation::from(async move {
            let key = self.0.key_of_list(lookup, &values)?;
            let batch = Batch::DeleteFound(key, LookupOf::new(lookup, values));
            match self.write_batch(batch).await? {
                Done::Count(count) => Ok(count),
                Done::Rows(_) => Ok(0),
            }
        }))
    }

    /// Returns the rows that others refer to by their ids, in the order of `ids`. Called by the methods of relations.
    pub async fn find_each(&self, ids: Vec<Option<E::Id>>) -> Result<Vec<Option<Arc<E>>>, Error> {
        let present: Vec<_> = ids.iter().flatten().cloned().collect();
        let mut found = self.find_many(&present).await?.into_iter();
        let rows = ids.into_iter().map(|id| id.and_then(|_| found.next()?));
        Ok(rows.collect())
    }

    /// Drops what a lookup has found from the cache.
    pub async fn invalidate_by<V: Values>(&self, lookup: usize, values: V) -> Result<(), Error> {
        let invalidated = self.0.invalidate_by(lookup, &values);
        let signals = &self.0.signals;
        signals.observe(Operation::InvalidateBy, invalidated).await
    }
}
