//! Invalidation on request: of one row, or of all rows of an entity.
//!
//! Not here: the invalidation that comes with a write (`announce`), and what becomes of one that the store did not take
//! (`repair`).

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    protocol::key::Key,
    repair::Repair,
    store::Store,
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Drops what the cache holds of a key.
    pub(crate) async fn invalidate(&self, key: &Key) -> Result<(), Error> {
        self.counters.invalidations.add_one();
        self.cache.repairs.announced(key);
        self.cache.store.invalidate(key).await.map_err(|error| {
            self.counters.store_errors.add_one();
            self.cache.repairs.remember(key, Repair::Drop);
            Error::with_source(
                ErrorKind::Store,
                format!("failed to invalidate key {key}"),
                error,
            )
        })
    }

    /// Drops what the cache holds of every row of the entity.
    pub(crate) async fn invalidate_all(&self) -> Result<(), Error> {
        self.counters.invalidations.add_one();
        let prefix = self.keys.prefix().to_vec();
        let dropped = self.cache.repairs.drop_all([prefix]).await;
        dropped.map_err(|error| {
            self.counters.store_errors.add_one();
            self.cache.repairs.remember_everything(None);
            let message = format!("failed to invalidate all rows of {}", E::SPEC.name);
            Error::with_source(ErrorKind::Store, message, error)
        })
    }
}
