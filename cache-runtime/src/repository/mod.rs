//! The repository: every public operation on the rows of one entity. It holds no policy; each operation is a call into
//! `read`, `write` or `schema`.

pub(crate) mod within;
mod write_behind;

use std::{fmt, sync::Arc};

use sqlx::Pool;

#[cfg(doc)]
use crate::error::ErrorKind;
#[cfg(feature = "test-util")]
use crate::protocol::state::Identity;
use crate::{
    cache::Cache,
    context::{Context, to_its_end},
    database::{
        Write,
        backend::Backend,
        entity::{Entity, not_queued, queued},
        schema::{self, SchemaReport},
    },
    error::Error,
    protocol::key::{AsId, Key},
    read::outcome::Outcome,
    stats::Stats,
    write::{
        bulk::{Batch, Done},
        transaction::Transaction,
    },
};

/// The cached rows of one entity in one database. Generated code wraps it in a type of the entity's own.
///
/// Cheap to clone; clones share their loads and their counters.
pub struct Repository<E: Entity, DB: Backend>(pub(crate) Arc<Context<E, DB>>);

impl<E: Entity, DB: Backend> Clone for Repository<E, DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Entity, DB: Backend> fmt::Debug for Repository<E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("entity", &E::SPEC.name)
            .field("table", &E::SPEC.table)
            .field("database", &DB::NAME)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// A repository of the rows that `pool` reaches, cached in `cache`. The pool is used as it is.
    ///
    /// # Panics
    ///
    /// When [`Repository::try_new`] would return an error: the entity and the cache cannot work together.
    #[must_use]
    #[track_caller]
    pub fn new(cache: &Cache, pool: Pool<DB>) -> Self {
        match Self::try_new(cache, pool) {
            Ok(repository) => repository,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Repository::new`], for programs that would rather have an error than a panic at start-up.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] when a column has no type in this database, when two fields are one
    /// column, when the codec cannot carry the entity, when the id has a type whose values have several spellings, or when the
    /// namespace is known to belong to another database, or the entity's name to another table. Of a
    /// write-behind entity also when its journal cannot be opened, or the name of its queue is too long.
    pub fn try_new(cache: &Cache, pool: Pool<DB>) -> Result<Self, Error> {
        Ok(Self(Context::open(cache, pool)?))
    }

    /// The row with this id, from the cache if it can be.
    ///
    /// # Errors
    ///
    /// Errors of the database: a cache that is away is not an error. [`ErrorKind::Configuration`], as any operation, when the
    /// namespace belongs to another database, or the entity's name to another table.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: a load that has begun goes on for those who share it, and fills the cache.
    pub async fn find(&self, id: impl AsId<E::Id>) -> Result<Option<Arc<E>>, Error> {
        Ok(self.0.read(id.as_id()).await?.row)
    }

    /// As [`Repository::find`], and also where the answer came from and how old it is.
    ///
    /// # Errors
    ///
    /// As [`Repository::find`].
    pub async fn find_outcome(&self, id: impl AsId<E::Id>) -> Result<Outcome<E>, Error> {
        self.0.read(id.as_id()).await
    }

    /// The row with this id, read past the cache, which is neither asked nor filled.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    pub async fn find_uncached(&self, id: impl AsId<E::Id>) -> Result<Option<Arc<E>>, Error> {
        let id = id.as_id().into_owned();
        let key = self.0.key(&id)?;
        self.0.load_alone(key, id).await
    }

    /// Whether there is a row with this id, from the cache if it can be.
    ///
    /// # Errors
    ///
    /// As [`Repository::find`].
    pub async fn exists(&self, id: impl AsId<E::Id>) -> Result<bool, Error> {
        Ok(self.find(id).await?.is_some())
    }

    /// Inserts a row and returns it, with the columns that the database fills in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Duplicate`] when the row exists or a unique constraint refuses it; other errors of the database.
    ///
    /// # Cancel safety
    ///
    /// A write that has begun runs to its end, also when the future is dropped. Of a write-behind entity, it may or may not
    /// have been queued then.
    pub async fn insert(&self, entity: &E) -> Result<Arc<E>, Error> {
        self.write_row(Write::Insert(entity.clone())).await
    }

    /// Changes the row with the entity's id and returns it, with the columns that the database fills in. If the entity has
    /// a version, only in the version it has here, which is then counted up.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such row; [`ErrorKind::Conflict`] when it has another version; other errors of
    /// the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn update(&self, entity: &E) -> Result<Arc<E>, Error> {
        self.write_row(Write::Update(entity.clone())).await
    }

    /// Inserts the row, or changes it as [`Repository::update`] does if there is one with the entity's id, and returns it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] when there is one in another version; [`ErrorKind::Duplicate`] when another unique constraint refuses the row; other errors of the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn save(&self, entity: &E) -> Result<Arc<E>, Error> {
        self.write_row(Write::Save(entity.clone())).await
    }

    /// Changes the row with this id and queues it, unless somebody else has changed it meanwhile; then `change` is called
    /// again, with the row as it is. For write-behind entities.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such row; [`ErrorKind::Conversion`] when the change gives it another id; otherwise
    /// as [`Repository::save`].
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it ends may or may not have changed the row.
    pub async fn modify(
        &self,
        id: impl AsId<E::Id>,
        change: impl FnMut(&mut E) + Send,
    ) -> Result<Arc<E>, Error> {
        const { queued::<E>() };
        let inner = &self.0;
        inner.bind_for_queue("modify").await?;
        let written = inner.modify(&id.as_id(), change).await;
        inner.count(&written);
        written
    }

    /// Deletes the row with this id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such row; other errors of the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn delete(&self, id: impl AsId<E::Id>) -> Result<(), Error> {
        const {
            assert!(
                !E::SPEC.versioned,
                "an entity with a version is deleted with `delete_row`"
            );
        };
        self.write(Write::Delete(id.as_id().into_owned())).await?;
        Ok(())
    }

    /// Deletes a row, if the entity has a version only in the version it has here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no such row; [`ErrorKind::Conflict`] when it has another version; other errors of
    /// the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn delete_row(&self, entity: &E) -> Result<(), Error> {
        self.write(Write::DeleteRow(entity.clone())).await?;
        Ok(())
    }

    /// Inserts rows, in one transaction with few statements, and returns them in their order, with the columns that the
    /// database fills in. All or none.
    ///
    /// # Errors
    ///
    /// As [`Repository::insert`], for the first row that is refused.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn insert_many(&self, entities: &[E]) -> Result<Vec<Arc<E>>, Error> {
        const { not_queued::<E>() };
        self.write_rows(Batch::Insert(entities.to_vec())).await
    }

    /// Changes rows, in one transaction with few statements, and returns them in their order, as [`Repository::update`] does.
    /// All or none.
    ///
    /// # Errors
    ///
    /// As [`Repository::update`], for the first row that is refused; [`ErrorKind::Duplicate`] when a row is given twice.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn update_many(&self, entities: &[E]) -> Result<Vec<Arc<E>>, Error> {
        const { not_queued::<E>() };
        self.write_rows(Batch::Update(entities.to_vec())).await
    }

    /// Deletes rows, in one transaction with few statements, and returns how many there were.
    ///
    /// # Errors
    ///
    /// Errors of the database. An id without a row is no error.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn delete_many(&self, ids: &[E::Id]) -> Result<u64, Error> {
        const { not_queued::<E>() };
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

    /// Deletes rows as [`Repository::delete_row`] does, in one transaction with few statements. All or none.
    ///
    /// # Errors
    ///
    /// As [`Repository::delete_row`], for the first row that is refused; [`ErrorKind::Duplicate`] when a row is given twice.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub async fn delete_rows(&self, entities: &[E]) -> Result<(), Error> {
        const { not_queued::<E>() };
        self.write_batch(Batch::DeleteRows(entities.to_vec()))
            .await?;
        Ok(())
    }

    /// Drops what the cache knows of this id, loads in flight included. For rows that were changed past the repository.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be reached. This process reads the row from the database from then on,
    /// and drops it from the store as soon as that can be reached; until then others may serve the old row, at most until
    /// its time to live ends.
    pub async fn invalidate(&self, id: impl AsId<E::Id>) -> Result<(), Error> {
        let key = self.0.key(&id.as_id())?;
        self.0.bind_now().await?;
        self.0.invalidate(&key).await
    }

    /// Drops every row of the entity from the cache, loads in flight included. For rows that were changed past the
    /// repository, by a migration, say. It looks at every key of the store once (`SCAN`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be reached. This process then serves nothing from the cache until all its
    /// keys were dropped; other processes may serve old rows until then, at most until their time to live ends.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it ends may have dropped only some of the rows; call it again.
    pub async fn invalidate_all(&self) -> Result<(), Error> {
        self.0.bind_now().await?;
        self.0.invalidate_all().await
    }

    /// Loads the row anew, whatever the cache holds, and caches it.
    ///
    /// # Errors
    ///
    /// As [`Repository::find`].
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::find`].
    pub async fn refresh(&self, id: impl AsId<E::Id>) -> Result<Option<Arc<E>>, Error> {
        Ok(self.0.reload(id.as_id()).await?.row)
    }

    /// Compares the table with the struct: columns, types, nullability, primary key and text collations.
    ///
    /// # Errors
    ///
    /// Errors of the database. Differences are no error; they are in the report.
    pub async fn check_schema(&self) -> Result<SchemaReport, Error> {
        let inner = Arc::clone(&self.0);
        let checked = async move {
            schema::check(E::SPEC, &inner.database.pool, &inner.database.columns).await
        };
        to_its_end::<E, _>("check the schema of", checked).await
    }

    /// What this repository and its clones have counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.snapshot()
    }

    /// The pool of the repository.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.0.database.pool
    }

    /// The key of an id in the store.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conversion`] for an id that cannot be written as a key.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an id is given here as it is given to `find`"
    )]
    pub fn key(&self, id: impl AsId<E::Id>) -> Result<Key, Error> {
        self.0.key(&id.as_id())
    }

    /// What entries must carry for this repository to believe them, for tests that write entries themselves.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.identity()
    }

    /// Whether the codec gives this row back, for benchmarks of what that costs.
    #[doc(hidden)]
    #[must_use]
    pub fn comes_back(&self, row: &E) -> bool {
        self.0.database.carry_loaded(self.0.codec, row).is_ok()
    }

    /// Applies a batch of queued writes, for tests that look at a flush without a queue.
    #[cfg(feature = "test-util")]
    #[doc(hidden)]
    pub async fn apply_queued(
        &self,
        batch: &crate::behind::Batch<'_, E>,
        hooks: &crate::behind::apply::Hooks<'_>,
    ) -> Result<crate::behind::apply::Applied, crate::behind::apply::Unapplied> {
        let database = &self.0.database;
        let mut flushed = database.apply_queued(batch, hooks).await?;
        let changed = crate::behind::changed(database, &flushed.held, batch.writes);
        flushed.applied.changed.extend(changed.await);
        Ok(flushed.applied)
    }

    /// Runs a write to its end. The row as written, or nothing for a delete.
    async fn write(&self, write: Write<E>) -> Result<Option<Arc<E>>, Error> {
        let inner = Arc::clone(&self.0);
        if inner.queue.is_some() {
            inner.bind_for_queue(write.verb()).await?;
            return inner.write_behind(write).await;
        }
        inner.bind_for_write().await?;
        to_its_end::<E, _>(write.verb(), async move {
            let row = inner.write(&write).await?;
            Ok(row.or_else(|| write.into_row().map(Arc::new)))
        })
        .await
    }

    async fn write_rows(&self, batch: Batch<E>) -> Result<Vec<Arc<E>>, Error> {
        match self.write_batch(batch).await? {
            Done::Rows(rows) => Ok(rows),
            Done::Count(_) => Ok(Vec::new()),
        }
    }

    async fn write_batch(&self, batch: Batch<E>) -> Result<Done<E>, Error> {
        if batch.is_empty() {
            return Ok(batch.nothing());
        }
        let inner = Arc::clone(&self.0);
        inner.bind_for_write().await?;
        to_its_end::<E, _>(batch.verb(), async move {
            let mut transaction = Transaction::begin(&inner.database.pool).await?;
            let done = transaction.write_batch(&inner, batch).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn write_row(&self, write: Write<E>) -> Result<Arc<E>, Error> {
        let row = self.write(write).await?;
        Ok(row.expect("every write but a delete has a row"))
    }
}
