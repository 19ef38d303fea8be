//! Where the steps of a lookup read: through the cache, or past it on the connection of a transaction.
//!
//! Not here: the steps (`lookup`, `list`).

use std::sync::Arc;

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity, lookup::IdList},
    error::Error,
    protocol::key::Key,
    read::{list::Page, lookup::LookupOf},
};

/// The ids that a lookup found, or `None` if no row has the values.
pub(crate) type Ids<E> = Option<Arc<IdList<<E as Entity>::Id>>>;

/// Reads the ids and the rows of lookups.
pub(crate) trait Reader<E: Entity, DB: Backend>: Send {
    fn context(&self) -> &Arc<Context<E, DB>>;

    /// Reads the ids of lookups, each of which is given once.
    fn ids(
        &mut self,
        wanted: &[(Key, LookupOf)],
    ) -> impl Future<Output = Result<Vec<Ids<E>>, Error>> + Send;

    /// Reads the ids of a lookup again, because one of their rows does not have the values.
    fn ids_again(
        &mut self,
        key: &Key,
        content: &LookupOf,
    ) -> impl Future<Output = Result<Ids<E>, Error>> + Send;

    /// Reads rows. Returns one for each id, in their order.
    fn rows(
        &mut self,
        ids: &[E::Id],
    ) -> impl Future<Output = Result<Vec<Option<Arc<E>>>, Error>> + Send;

    /// Reads the ids of a page from the database.
    fn page(
        &mut self,
        key: &Key,
        content: &LookupOf,
        limit: usize,
        after: Option<&E>,
    ) -> impl Future<Output = Result<IdList<E::Id>, Error>> + Send;

    /// Reads the first rows of one list, as many as its index caches.
    fn first_page(
        &mut self,
        key: Key,
        content: LookupOf,
    ) -> impl Future<Output = Result<Page<E>, Error>> + Send;
}

impl<E: Entity, DB: Backend> Reader<E, DB> for &Arc<Context<E, DB>> {
    fn context(&self) -> &Arc<Context<E, DB>> {
        self
    }

    async fn ids(&mut self, wanted: &[(Key, LookupOf)]) -> Result<Vec<Ids<E>>, Error> {
        // All of one call are of one lookup.
        let Some((_, first)) = wanted.first() else {
            return Ok(Vec::new());
        };
        let fingerprint = self.lookup_fingerprint(first.lookup);
        let lists = self.read_many(wanted.to_vec(), fingerprint).await?;
        Ok(lists.into_iter().map(|list| list.row).collect())
    }

    async fn ids_again(&mut self, key: &Key, content: &LookupOf) -> Result<Ids<E>, Error> {
        self.counters.changed_lookups.add_one();
        let reloaded = self
            .reload_content(key.clone(), content.clone(), None)
            .await?;
        Ok(reloaded.row)
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
        self.load_page(key, content, limit, after).await
    }

    async fn first_page(&mut self, key: Key, content: LookupOf) -> Result<Page<E>, Error> {
        let limit = E::SPEC.lookups[content.lookup].most();
        self.find_all(key, content, limit, None).await
    }
}
