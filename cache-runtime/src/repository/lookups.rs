//! The lookups of a repository, by their place in the list of the entity. Generated methods call them with a tuple of values of
//! the right types; they are not for other callers.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    database::{backend::Backend, entity::Entity},
    error::Error,
    read::list::{FindAll, Page},
    repository::Repository,
};

/// The values of a lookup.
pub trait Values: Serialize + Send + Sync + 'static {}

impl<V: Serialize + Send + Sync + 'static> Values for V {}

#[doc(hidden)]
impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Returns the row that a unique lookup finds.
    pub async fn find_by<V: Values>(
        &self,
        lookup: usize,
        values: V,
    ) -> Result<Option<Arc<E>>, Error> {
        Ok(self.0.find_by(lookup, values).await?.row)
    }

    /// Returns whether a lookup finds a row.
    pub async fn exists_by<V: Values>(&self, lookup: usize, values: V) -> Result<bool, Error> {
        if E::SPEC.lookups[lookup].is_unique {
            return Ok(self.0.find_by(lookup, values).await?.row.is_some());
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
        self.0.find_many_by(lookup, values).await
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
        self.0.find_all_many(lookup, values).await
    }

    /// Counts the rows of a list.
    pub async fn count_by<V: Values>(&self, lookup: usize, values: V) -> Result<u64, Error> {
        self.0.count_by(lookup, values).await
    }

    /// Drops what a lookup has found from the cache.
    pub async fn invalidate_by<V: Values>(&self, lookup: usize, values: V) -> Result<(), Error> {
        self.0.invalidate_by(lookup, &values).await
    }
}
