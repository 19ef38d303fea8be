//! Invalidation on request: of one row, or of all rows of an entity.
//!
//! Not here: the invalidation of a write (`announce`), and invalidations that the store did not receive (`repair`).

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    protocol::key::Key,
    repair::Repair,
    store::Store,
    write::announce::WriteTarget,
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Drops the entry of a key.
    pub(crate) async fn invalidate(&self, key: &Key) -> Result<(), Error> {
        self.counters.invalidations.add_one();
        self.cache.repairs.note_write(key);
        self.cache.store.invalidate(key).await.map_err(|error| {
            self.counters.store_errors.add_one();
            self.cache.repairs.remember(key, Repair::Drop);
            Error::with_source(
                ErrorKind::CacheUnavailable,
                format!(
                    "failed to invalidate key {key}: the store cannot be reached or rejected the command; this process \
                     reads the key from the database until it can be dropped"
                ),
                error,
            )
        })
    }

    /// Drops the entries of all rows of the entity.
    pub(crate) async fn invalidate_all(&self) -> Result<(), Error> {
        self.counters.invalidations.add_one();
        let dropped = self
            .cache
            .repairs
            .drop_all(WriteTarget::prefixes(self))
            .await;
        dropped.map_err(|error| {
            self.counters.store_errors.add_one();
            self.cache.repairs.remember_all(None);
            let message = format!(
                "failed to invalidate all rows of {}: the store cannot be reached or rejected the command; this process \
                 bypasses the cache until they are dropped",
                E::SPEC.name
            );
            Error::with_source(ErrorKind::CacheUnavailable, message, error)
        })
    }
}
