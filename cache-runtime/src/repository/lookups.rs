//! The lookups and relations of a repository: lookups by their place in the list of the entity. Generated methods call them with a tuple of values of
//! the right types; they are not for other callers.

use std::sync::Arc;

use crate::{
    database::{backend::Backend, entity::Entity},
    error::Error,
    read::{
        list::{self, FindAll, Page},
        lookup::{self, Values},
    },
    repository::Repository,
};

#[doc(hidden)]
impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Returns the row that a unique lookup finds.
    pub async fn find_by<V: Values>(
        &self,
        lookup: usize,
        values: V,
    ) -> Result<Option<Arc<E>>, Error> {
        self.0.find_by(lookup, values).await
    }

    /// Returns whether a lookup finds a row.
    pub async fn exists_by<V: Values>(&self, lookup: usize, values: V) -> Result<bool, Error> {
        if E::SPEC.lookups[lookup].is_unique {
            return Ok(self.0.find_by(lookup, values).await?.is_some());
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
        lookup::find_many_by(&mut &self.0, lookup, values).await
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
        list::find_all_many(&mut &self.0, lookup, values).await
    }

    /// Counts the rows of a list.
    pub async fn count_by<V: Values>(&self, lookup: usize, values: V) -> Result<u64, Error> {
        self.0.count_by(lookup, values).await
    }

    /// Returns the rows that others refer to by their ids, in the order of `ids`. Called by the methods of relations.
    pub async fn find_each(&self, ids: Vec<Option<E::Id>>) -> Result<Vec<Option<Arc<E>>>, Error> {
        let present: Vec<_> = ids.iter().flatten().cloned().collect();
        let mut found = self.0.find_many(&present).await?.into_iter();
        let rows = ids.into_iter().map(|id| id.and_then(|_| found.next()?));
        Ok(rows.collect())
    }

    /// Drops what a lookup has found from the cache.
    pub async fn invalidate_by<V: Values>(&self, lookup: usize, values: V) -> Result<(), Error> {
        self.0.invalidate_by(lookup, &values).await
    }
}
