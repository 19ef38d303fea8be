//! The lookups of a repository inside a transaction, by their place in the list of the entity. Generated methods call them with
//! a tuple of values of the right types; they are not for other callers.
//!
//! They take the steps of the lookups outside (`read::lookup`, `read::list`), but read on the connection of the transaction,
//! and fill nothing.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use crate::{
    context::Context,
    database::{
        backend::Backend,
        entity::Entity,
        lookup::IdList,
        writes::{DeletesById, DirectWrites},
    },
    error::Error,
    protocol::key::Key,
    read::{
        list::{self, Page},
        lookup::{self, LookupOf, Values},
        reader::{Ids, Reader},
    },
    repository::within::Within,
    write::{
        bulk::{Batch, Done},
        modify::ChangeResult,
    },
};

#[doc(hidden)]
impl<'c, E: Entity, DB: Backend> Within<'_, 'c, E, DB> {
    /// Returns the row that a unique lookup finds.
    pub async fn find_by<V: Values>(
        &mut self,
        lookup: usize,
        values: V,
    ) -> Result<Option<Arc<E>>, Error> {
        let mut rows = self.find_many_by(lookup, vec![values]).await?;
        Ok(rows.pop().flatten())
    }

    /// Returns whether a lookup finds a row.
    pub async fn exists_by<V: Values>(&mut self, lookup: usize, values: V) -> Result<bool, Error> {
        if E::SPEC.lookups[lookup].is_unique {
            return Ok(self.find_by(lookup, values).await?.is_some());
        }
        let first = self.find_all_by(lookup, values).limit(1).await?;
        Ok(!first.rows.is_empty())
    }

    /// Returns the rows that a unique lookup finds for many values.
    pub async fn find_many_by<V: Values>(
        &mut self,
        lookup: usize,
        values: Vec<V>,
    ) -> Result<Vec<Option<Arc<E>>>, Error> {
        lookup::find_many_by(&mut self.reborrow(), lookup, values).await
    }

    /// Returns the rows of a list, as a value that is awaited.
    pub fn find_all_by<V: Values>(
        &mut self,
        lookup: usize,
        values: V,
    ) -> FindAllWithin<'_, 'c, E, DB> {
        FindAllWithin {
            key: self.repository.0.lookup_key(lookup, &values),
            content: LookupOf::new(lookup, values),
            limit: E::SPEC.lookups[lookup].most(),
            after: None,
            within: self.reborrow(),
        }
    }

    /// Returns the rows of many lists.
    pub async fn find_all_many<V: Values>(
        &mut self,
        lookup: usize,
        values: Vec<V>,
    ) -> Result<Vec<Page<E>>, Error> {
        list::find_all_many(&mut self.reborrow(), lookup, values).await
    }

    /// Counts the rows of a list.
    pub async fn count_by<V: Values>(&mut self, lookup: usize, values: V) -> Result<u64, Error> {
        let context = &self.repository.0;
        let described = context.describe_row(&context.lookup_key(lookup, &values)?);
        let counted = self
            .transaction
            .query(context, &described, async |connection| {
                let database = &context.database;
                Ok(database.count_lookup(connection, lookup, &values).await?)
            });
        counted.await
    }

    /// Changes the rows of a list. Returns all of them in the order of their ids.
    pub fn modify_by<V: Values, W: DirectWrites, R: ChangeResult<Value = ()>>(
        &mut self,
        lookup: usize,
        values: V,
        mut change: impl FnMut(&mut E) -> R + Send,
    ) -> W::Operation<impl Future<Output = Result<Vec<Arc<E>>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move {
            let found = LookupOf::new(lookup, values);
            let context = &self.repository.0;
            let changed = self.transaction.change_found(context, &found, &mut change);
            let (found, batch) = changed.await?;
            Ok(found.after(self.write_batch(batch).await?))
        })
    }

    /// Deletes the rows of a list. Returns how many were deleted.
    pub fn delete_by<V: Values, W: DirectWrites, D: DeletesById>(
        &mut self,
        lookup: usize,
        values: V,
    ) -> W::Operation<D::Operation<impl Future<Output = Result<u64, Error>>>>
    where
        E: Entity<Writes = W, Deletes = D>,
    {
        W::Operation::from(D::Operation::from(async move {
            let key = self.repository.0.key_of_list(lookup, &values)?;
            let batch = Batch::DeleteFound(key, LookupOf::new(lookup, values));
            match self.write_batch(batch).await? {
                Done::Count(count) => Ok(count),
                Done::Rows(_) => Ok(0),
            }
        }))
    }

    fn reborrow(&mut self) -> Within<'_, 'c, E, DB> {
        Within {
            repository: self.repository,
            transaction: self.transaction,
        }
    }
}

impl<E: Entity, DB: Backend> Reader<E, DB> for Within<'_, '_, E, DB> {
    fn context(&self) -> &Arc<Context<E, DB>> {
        &self.repository.0
    }

    async fn ids(&mut self, wanted: &[(Key, LookupOf)]) -> Result<Vec<Ids<E>>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.transaction.read(&self.repository.0, wanted).await?;
        let lists = wanted
            .iter()
            .map(|(key, _)| found.remove(key).map(Arc::new));
        Ok(lists.collect())
    }

    async fn ids_again(&mut self, key: &Key, content: &LookupOf) -> Result<Ids<E>, Error> {
        let wanted = [(key.clone(), content.clone())];
        let mut lists = self.ids(&wanted).await?;
        Ok(lists.pop().flatten())
    }

    async fn rows(&mut self, ids: &[E::Id]) -> Result<Vec<Option<Arc<E>>>, Error> {
        self.find_many(ids).await
    }

    async fn page(
        &mut self,
        key: &Key,
        content: &LookupOf,
        limit: usize,
        after: Option<&E>,
    ) -> Result<IdList<E::Id>, Error> {
        let context = &self.repository.0;
        let described = context.describe_row(key);
        let LookupOf { lookup, values } = content;
        let page = self
            .transaction
            .query(context, &described, async |connection| {
                let database = &context.database;
                let page = database.select_page(connection, *lookup, &**values, after, limit);
                Ok(page.await?)
            });
        page.await
    }

    async fn first_page(&mut self, key: Key, content: LookupOf) -> Result<Page<E>, Error> {
        let limit = E::SPEC.lookups[content.lookup].most();
        list::read_page(self, &key, &content, limit, None).await
    }
}

/// The rows of a list that are wanted inside a transaction. Await it.
///
/// Without a limit, these are as many rows as the index caches (`max`). The cache is neither read nor filled.
///
/// # Cancel safety
///
/// As [`Within::find`].
#[must_use = "nothing is read before it is awaited"]
pub struct FindAllWithin<'w, 'c, E: Entity, DB: Backend> {
    within: Within<'w, 'c, E, DB>,
    key: Result<Key, Error>,
    content: LookupOf,
    limit: usize,
    after: Option<E>,
}

impl<E: Entity, DB: Backend> fmt::Debug for FindAllWithin<'_, '_, E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FindAllWithin")
            .field("entity", &E::SPEC.name)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> FindAllWithin<'_, '_, E, DB> {
    /// Returns at most this many rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }

    /// Begins after a row, as [`FindAll::after`](crate::FindAll::after).
    pub fn after(mut self, row: &E) -> Self {
        self.after = Some(row.clone());
        self
    }
}

impl<'w, E: Entity, DB: Backend> IntoFuture for FindAllWithin<'w, '_, E, DB> {
    type Output = Result<Page<E>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'w>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                mut within,
                key,
                content,
                limit,
                after,
            } = self;
            list::read_page(&mut within, &key?, &content, limit, after.as_ref()).await
        })
    }
}
