//! The repository: every public operation on the rows of one entity. It contains no logic of its own: each operation
//! calls `read`, `write`, `behind` or `schema`.

pub(crate) mod find;
mod lookups;
pub(crate) mod queries;
pub(crate) mod row_writes;
pub(crate) mod tags;
pub(crate) mod within;
pub(crate) mod within_lookups;
mod write_behind;

use std::{collections::HashMap, fmt, hash::Hash, pin::Pin, sync::Arc};

use sqlx::Pool;

#[cfg(feature = "internal-faults")]
use crate::protocol::state::Identity;
use crate::{
    cache::Cache,
    context::{Context, run_detached},
    database::{
        Write,
        backend::Backend,
        entity::Entity,
        schema::{self, SchemaReport},
        writes::{DeletesById, DirectWrites},
    },
    error::{Error, ErrorKind},
    observe::{
        Operation, Told,
        audit::{Audit, AuditOptions},
    },
    protocol::key::{AsId, Key},
    read::{content::RowOf, outcome::Outcome},
    repository::{find::Find, row_writes::RowWrites},
    stats::Stats,
    store::{Store, failpoint::Mechanism},
    write::{
        bulk::{Batch, Done},
        modify::{ChangeResult, Modified},
    },
};

/// The query of a [`Repository::fill_from`].
pub type QueryFuture<'c, E> =
    Pin<Box<dyn Future<Output = Result<Vec<E>, sqlx::Error>> + Send + 'c>>;

/// How often `modify_or_insert` starts again because the row appears and disappears.
const MAX_TRIES: u32 = 3;

/// The cached rows of one entity in one database. The derive wraps it in a type of the entity's own.
///
/// Cloning is cheap. Clones share their loads and their counters.
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
    /// Returns a repository of the rows that `pool` connects to, cached in `cache`. larder does not change the pool's
    /// options.
    ///
    /// # Panics
    ///
    /// If [`Repository::try_new`] would return an error: the entity and the cache cannot work together.
    #[must_use]
    #[track_caller]
    pub fn new(cache: &Cache, pool: Pool<DB>) -> Self {
        match Self::try_new(cache, pool) {
            Ok(repository) => repository,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Repository::new`], for programs that prefer an error to a panic at start-up.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] in these cases:
    ///
    /// - A column has no type in this database, or two fields have the same column.
    /// - The codec cannot encode the entity.
    /// - The id has a type whose values can be written in several ways.
    /// - The namespace is known to belong to another database, or the entity's name to another table.
    /// - Write-behind only: the journal cannot be opened, or the name of the queue is too long.
    pub fn try_new(cache: &Cache, pool: Pool<DB>) -> Result<Self, Error> {
        Ok(Self(Context::open(cache, pool)?))
    }

    /// Returns the row with this id, from the cache if possible, or `None` if it does not exist. The result is a future, whose
    /// methods are options of this call: see [`Find`].
    ///
    /// # Errors
    ///
    /// Errors of the database. An unreachable cache is not an error. As in every operation,
    /// [`ErrorKind::Configuration`] if the namespace belongs to another database, or the entity's name to another
    /// table.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing. A load that has begun continues for the callers who share it, and fills the
    /// cache.
    #[expect(
        clippy::type_complexity,
        reason = "it is a future, and has the options of the call"
    )]
    pub fn find<Id: AsId<E::Id>>(
        &self,
        id: Id,
    ) -> Id::Operation<Find<'_, E, DB, Id, impl Future<Output = Result<Option<Arc<E>>, Error>>>>
    {
        Id::Operation::from(Find::new(self, id, |repository, id| async move {
            let context = &repository.0;
            if context.signals.observes_read() {
                let read = context.signals.observe_read(context.read(id.as_id()));
                return Ok(Box::pin(read).await?.row);
            }
            Ok(context.read(id.as_id()).await?.row)
        }))
    }

    /// As [`Repository::find`], but also returns where the answer came from and how old it is.
    ///
    /// # Errors
    ///
    /// As [`Repository::find`].
    #[expect(
        clippy::type_complexity,
        reason = "it is a future, and has the options of the call"
    )]
    pub fn find_outcome<Id: AsId<E::Id>>(
        &self,
        id: Id,
    ) -> Id::Operation<Find<'_, E, DB, Id, impl Future<Output = Result<Outcome<E>, Error>>>> {
        Id::Operation::from(Find::new(self, id, |repository, id| async move {
            let context = &repository.0;
            if context.signals.observes_read() {
                let read = context.signals.observe_read(context.read(id.as_id()));
                return Box::pin(read).await;
            }
            context.read(id.as_id()).await
        }))
    }

    /// Returns the row with this id from the database. The cache is neither read nor filled.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    pub fn find_uncached<Id: AsId<E::Id>>(
        &self,
        id: Id,
    ) -> Id::Operation<impl Future<Output = Result<Option<Arc<E>>, Error>>> {
        Id::Operation::from(async move {
            let row = RowOf::of(id.as_id().into_owned());
            let read = self.0.read_uncached(row);
            let read = self.0.signals.observe(Operation::FindUncached, read);
            Ok(read.await?.row)
        })
    }

    /// Returns whether there is a row with this id. The answer comes from the cache if possible.
    ///
    /// # Errors
    ///
    /// As [`Repository::find`].
    pub fn exists<Id: AsId<E::Id>>(
        &self,
        id: Id,
    ) -> Id::Operation<impl Future<Output = Result<bool, Error>>> {
        Id::Operation::from(async move { Ok(self.find(id).await?.is_some()) })
    }

    /// Returns the rows with these ids, in the order of `ids`, from the cache as far as possible. An id without a row has
    /// `None`, and an id that is given twice has its row twice.
    ///
    /// The store is read in one round trip for 500 ids, and the rows that are missing there are read with one statement, which
    /// concurrent callers share. Each row is as current as with [`Repository::find`], but the rows are not a snapshot: a
    /// transaction that is committed meanwhile may be visible in one row and not in another.
    ///
    /// # Errors
    ///
    /// As [`Repository::find`], for the first row that cannot be read.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::find`].
    pub async fn find_many(&self, ids: &[E::Id]) -> Result<Vec<Option<Arc<E>>>, Error> {
        let found = self.0.find_many(ids);
        self.0.signals.observe(Operation::FindMany, found).await
    }

    /// Returns the rows that a query of your own finds, in its order, and caches them.
    ///
    /// The query runs first, on a connection of the pool, and says which rows there are. Then they are read as with
    /// [`Repository::find_many`]: what is cached comes from the cache, and the rest with one statement, under leases that were
    /// taken before it. So no row is cached that was changed after the query. A row that was deleted in between is left out.
    ///
    /// ```
    /// # use larder_runtime::{Error, Repository, sqlx, writes::DirectWrites, Entity};
    /// # use std::sync::Arc;
    /// # async fn example<E>(products: Repository<E, sqlx::Sqlite>) -> Result<Vec<Arc<E>>, Error>
    /// # where E: Entity + Unpin + for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> {
    /// let cheapest = "SELECT * FROM products ORDER BY price LIMIT 100";
    /// products.fill_from(move |connection| Box::pin(sqlx::query_as(cheapest).fetch_all(connection))).await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Repository::find_many`], and the error of the query, as its source.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::find`].
    pub async fn fill_from(
        &self,
        query: impl for<'c> FnOnce(&'c mut DB::Connection) -> QueryFuture<'c, E> + Send + 'static,
    ) -> Result<Vec<Arc<E>>, Error> {
        let described = format!("rows of {} with a query", E::SPEC.name);
        let filled = async {
            let found = self
                .0
                .load_once(described, |_, connection| query(connection));
            let ids: Vec<_> = found.await?.iter().map(Entity::id).collect();
            let rows = self.0.find_many(&ids).await?;
            Ok(rows.into_iter().flatten().collect())
        };
        self.0.signals.observe(Operation::FillFrom, filled).await
    }

    /// As [`Repository::find_many`], but returns the rows that exist by their ids.
    ///
    /// # Errors
    ///
    /// As [`Repository::find_many`].
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::find`].
    pub async fn find_map<Id: AsId<E::Id> + Clone + Eq + Hash>(
        &self,
        ids: &[Id],
    ) -> Result<HashMap<Id, Arc<E>>, Error> {
        let owned: Vec<_> = ids.iter().map(|id| id.as_id().into_owned()).collect();
        let rows = ids.iter().zip(self.find_many(&owned).await?);
        Ok(rows
            .filter_map(|(id, row)| Some((id.clone(), row?)))
            .collect())
    }

    /// Inserts a row and returns it, with the columns that the database fills in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Duplicate`] if the row exists or a unique constraint rejects it. Other errors of the database.
    ///
    /// # Cancel safety
    ///
    /// A write that has begun runs to its end even if the future is dropped. For a write-behind entity, a dropped
    /// future may or may not have queued the write.
    pub fn insert<W: RowWrites>(
        &self,
        entity: &E,
    ) -> W::Operation<impl Future<Output = Result<Arc<E>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.write_row::<W>(Write::Insert(entity.clone())).await })
    }

    /// Updates the row with the entity's id and returns it, with the columns that the database fills in. If the entity
    /// has a version, the row is updated only if its version equals the one in `entity`. The version is then
    /// incremented.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such row. [`ErrorKind::Conflict`] if it has another version. Other errors
    /// of the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub fn update<W: RowWrites>(
        &self,
        entity: &E,
    ) -> W::Operation<impl Future<Output = Result<Arc<E>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.write_row::<W>(Write::Update(entity.clone())).await })
    }

    /// Inserts the row and returns it. If there is a row with the entity's id, updates it as [`Repository::update`]
    /// does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] if there is a row with another version. [`ErrorKind::Duplicate`] if another unique
    /// constraint rejects the row. Other errors of the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub fn save<W: RowWrites>(
        &self,
        entity: &E,
    ) -> W::Operation<impl Future<Output = Result<Arc<E>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.write_row::<W>(Write::Save(entity.clone())).await })
    }

    /// Changes the row with this id. No other write of the row comes between the row that `change` gets and the one that is
    /// written.
    ///
    /// The row is read under a lock, in a transaction of its own, and only the columns that `change` changes are written. A
    /// row with a version is not locked: if another write comes first, `change` is called again with the current row. For a
    /// write-behind entity, the row is queued, and `change` is called again in the same case. So `change` should do nothing but
    /// change the row.
    ///
    /// `change` returns nothing, or a `Result`: its value is passed on ([`Modified::value`]), and its error stops the
    /// operation.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such row. [`ErrorKind::Refused`] if `change` returns an error, which is the
    /// source. [`ErrorKind::Conversion`] if `change` gives the row another id. Otherwise as [`Repository::update`], and for a
    /// write-behind entity as [`Repository::save`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, the row may or may not have been changed, and no transaction stays open.
    #[expect(
        clippy::type_complexity,
        reason = "each layer makes one mistake a single error of rustc"
    )]
    pub fn modify<Id: AsId<E::Id>, W: RowWrites, R: ChangeResult>(
        &self,
        id: Id,
        change: impl FnMut(&mut E) -> R + Send,
    ) -> W::Operation<Id::Operation<impl Future<Output = Result<Modified<E, R::Value>, Error>>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(Id::Operation::from(async move {
            let id = id.as_id();
            let modified = W::modify(self, &id, change);
            self.0.signals.observe(Operation::Modify, modified).await
        }))
    }

    /// Changes the row with the id of `row` as [`Repository::modify`] does, or inserts `row` as it is if there is none.
    ///
    /// # Errors
    ///
    /// As [`Repository::modify`] and [`Repository::insert`].
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::modify`].
    pub fn modify_or_insert<W: RowWrites, R: ChangeResult<Value = ()>>(
        &self,
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
                match self.insert(row).await {
                    // Another caller has inserted it in between, unless another unique constraint rejects it.
                    Err(error) if error.kind() == ErrorKind::Duplicate && tries < MAX_TRIES => {
                        tries += 1;
                    }
                    inserted => return inserted,
                }
            }
        })
    }

    /// Deletes the row with this id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such row. Other errors of the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    #[expect(
        clippy::type_complexity,
        reason = "each layer makes one mistake a single error of rustc"
    )]
    pub fn delete<Id: AsId<E::Id>, W: RowWrites, D: DeletesById>(
        &self,
        id: Id,
    ) -> W::Operation<D::Operation<Id::Operation<impl Future<Output = Result<(), Error>>>>>
    where
        E: Entity<Writes = W, Deletes = D>,
    {
        W::Operation::from(D::Operation::from(Id::Operation::from(async move {
            self.write_observed::<W>(Write::Delete(id.as_id().into_owned()))
                .await?;
            Ok(())
        })))
    }

    /// Deletes a row. If the entity has a version, the row is deleted only if its version equals the one in `entity`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such row. [`ErrorKind::Conflict`] if it has another version. Other errors
    /// of the database.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub fn delete_row<W: RowWrites>(
        &self,
        entity: &E,
    ) -> W::Operation<impl Future<Output = Result<(), Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move {
            self.write_observed::<W>(Write::DeleteRow(entity.clone()))
                .await?;
            Ok(())
        })
    }

    /// Inserts all rows or none, in one transaction with few statements. Returns them in the order of `entities`, with
    /// the columns that the database fills in.
    ///
    /// # Errors
    ///
    /// As [`Repository::insert`], for the first row that is rejected.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub fn insert_many<W: DirectWrites>(
        &self,
        entities: &[E],
    ) -> W::Operation<impl Future<Output = Result<Vec<Arc<E>>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.write_rows(Batch::Insert(entities.to_vec())).await })
    }

    /// Updates all rows or none, each as [`Repository::update`] does, in one transaction with few statements. Returns
    /// them in the order of `entities`.
    ///
    /// # Errors
    ///
    /// As [`Repository::update`], for the first row that is rejected. [`ErrorKind::Duplicate`] if `entities` contains a
    /// row twice.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub fn update_many<W: DirectWrites>(
        &self,
        entities: &[E],
    ) -> W::Operation<impl Future<Output = Result<Vec<Arc<E>>, Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move { self.write_rows(Batch::Update(entities.to_vec())).await })
    }

    /// Deletes rows, in one transaction with few statements, and returns how many were deleted.
    ///
    /// # Errors
    ///
    /// Errors of the database. An id without a row is not an error.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub fn delete_many<W: DirectWrites, D: DeletesById>(
        &self,
        ids: &[E::Id],
    ) -> W::Operation<D::Operation<impl Future<Output = Result<u64, Error>>>>
    where
        E: Entity<Writes = W, Deletes = D>,
    {
        W::Operation::from(D::Operation::from(async move {
            match self.write_batch(Batch::Delete(ids.to_vec())).await? {
                Done::Count(count) => Ok(count),
                Done::Rows(_) => Ok(0),
            }
        }))
    }

    /// Deletes all rows or none, each as [`Repository::delete_row`] does, in one transaction with few statements.
    ///
    /// # Errors
    ///
    /// As [`Repository::delete_row`], for the first row that is rejected. [`ErrorKind::Duplicate`] if `entities`
    /// contains a row twice.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::insert`].
    pub fn delete_rows<W: DirectWrites>(
        &self,
        entities: &[E],
    ) -> W::Operation<impl Future<Output = Result<(), Error>>>
    where
        E: Entity<Writes = W>,
    {
        W::Operation::from(async move {
            self.write_batch(Batch::DeleteRows(entities.to_vec()))
                .await?;
            Ok(())
        })
    }

    /// Drops the row with this id from the cache. A load that is under way is not cached either. Call it after a row
    /// was changed without the repository. If the row has got other values of a `unique` or an `index`, also call
    /// `invalidate_by_..` with the new values.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CacheUnavailable`] if the store cannot be reached. From then on this process reads the row from the
    /// database. It drops the row from the store as soon as the store is reachable. Until then other processes may
    /// serve the old row, at most until its time to live ends.
    pub fn invalidate<Id: AsId<E::Id>>(
        &self,
        id: Id,
    ) -> Id::Operation<impl Future<Output = Result<(), Error>>> {
        Id::Operation::from(async move {
            let id = id.as_id();
            let invalidated = self.0.invalidate_row(&id);
            self.0
                .signals
                .observe(Operation::Invalidate, invalidated)
                .await
        })
    }

    /// Drops every row of the entity from the cache. Loads that are under way are not cached either. Call it after rows
    /// were changed without the repository, for example by a migration. For an entity with `tags`, it is one round trip. Without, it
    /// scans all keys of the store once (`SCAN`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CacheUnavailable`] if the store cannot be reached. This process then bypasses the cache until all
    /// of its keys have been dropped, or, for an entity with `tags`, reads its rows from the database until the invalidation
    /// was delivered. Until then other processes may serve old rows, at most until their time to live ends.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, only some of the rows may have been dropped. Call it again.
    pub async fn invalidate_all(&self) -> Result<(), Error> {
        let invalidated = async {
            self.0.bind_now().await?;
            self.0.invalidate_all().await
        };
        self.0
            .signals
            .observe(Operation::InvalidateAll, invalidated)
            .await
    }

    /// Drops the cached row, loads it from the database, caches it and returns it.
    ///
    /// # Errors
    ///
    /// As [`Repository::find`].
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::find`].
    pub fn refresh<Id: AsId<E::Id>>(
        &self,
        id: Id,
    ) -> Id::Operation<impl Future<Output = Result<Option<Arc<E>>, Error>>> {
        Id::Operation::from(async move {
            let read = self.0.reload(id.as_id());
            Ok(self.0.signals.observe(Operation::Refresh, read).await?.row)
        })
    }

    /// Compares the table with the struct: columns, types, nullability, unique keys and text collations. The page
    /// `docs/types.md` of the repository lists which types fit.
    ///
    /// # Errors
    ///
    /// Errors of the database. Differences are not an error: the report lists them.
    pub async fn check_schema(&self) -> Result<SchemaReport, Error> {
        let inner = Arc::clone(&self.0);
        let checked = async move {
            let of_keys = !inner.cache.store.disables(Mechanism::CascadeRemarks);
            schema::check(
                E::SPEC,
                &inner.database.pool,
                &inner.database.columns,
                of_keys,
            )
            .await
        };
        run_detached::<E, _>("check the schema of", checked).await
    }

    /// Compares cached rows with the database, and returns how many were stale: rows that a reader would have been served although the
    /// database had others. It is meant for production: it changes nothing, keeps to a rate, and calls nothing stale because a write
    /// is just under way.
    ///
    /// ```
    /// # use larder_runtime::{AuditOptions, Entity, Error, Repository, sqlx};
    /// # async fn example<E: Entity>(products: Repository<E, sqlx::Sqlite>) -> Result<(), Error> {
    /// let audit = products.audit(AuditOptions::default().rows(100_000)).await?;
    /// println!("{} of {} entries are stale: {:?}", audit.stale, audit.checked, audit.examples);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::CacheUnavailable`] if the store cannot be reached. Errors of the database.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn audit(&self, options: AuditOptions) -> Result<Audit, Error> {
        self.0.audit(options).await
    }

    /// Returns the counters of this repository and its clones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.snapshot()
    }

    /// Does for this entity what [`Cache::pause_reads`](crate::Cache::pause_reads) does for all: its rows are read from the database.
    pub fn pause_reads(&self) {
        self.0.pauses.set_reads(true);
    }

    /// Ends what [`Repository::pause_reads`] began.
    pub fn resume_reads(&self) {
        self.0.pauses.set_reads(false);
    }

    /// Does for this entity what [`Cache::pause_fills`](crate::Cache::pause_fills) does for all: nothing is stored.
    pub fn pause_fills(&self) {
        self.0.pauses.set_fills(true);
    }

    /// Ends what [`Repository::pause_fills`] began.
    pub fn resume_fills(&self) {
        self.0.pauses.set_fills(false);
    }

    /// Returns the pool of the repository.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.0.database.pool
    }

    /// Returns the key of an id in the store.
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

    /// Returns the values that an entry must have for this repository to accept it, for tests that write entries
    /// themselves.
    #[cfg(feature = "internal-faults")]
    #[doc(hidden)]
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.identity()
    }

    /// Returns whether the codec reproduces this row, for benchmarks of that check.
    #[doc(hidden)]
    #[must_use]
    pub fn comes_back(&self, row: &E) -> bool {
        self.0.database.carry_loaded(self.0.codec, row).is_ok()
    }

    /// Reads a row as [`Repository::find`] does, but in no span and not measured, for benchmarks of these.
    #[doc(hidden)]
    pub fn find_unobserved(
        &self,
        id: E::Id,
    ) -> impl Future<Output = Result<Option<Arc<E>>, Error>> {
        let now = |repository: &Self, id: &E::Id| {
            let hit = repository.0.unobserved_hit(id)?;
            Some(Ok(hit.row))
        };
        Find::with_now(self, id, now, |repository, id: E::Id| async move {
            Ok(repository.0.read(id.as_id()).await?.row)
        })
    }

    /// Applies a batch of queued writes, for tests of a flush without a queue.
    #[cfg(feature = "internal-faults")]
    #[doc(hidden)]
    pub async fn apply_queued(
        &self,
        batch: &crate::behind::Batch<'_, E>,
        hooks: &crate::behind::apply::Hooks<'_>,
    ) -> Result<crate::behind::apply::Applied, crate::behind::apply::ApplyError> {
        let database = &self.0.database;
        let mut flushed = database.apply_queued(batch, hooks).await?;
        let changed = crate::behind::changed(database, &flushed.held, batch.writes);
        flushed.applied.changed.extend(changed.await);
        Ok(flushed.applied)
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
        let (operation, verb) = (batch.operation(), batch.verb());
        let written = async move {
            inner.bind_for_write().await?;
            run_detached::<E, _>(verb, async move { inner.write_batch(batch).await }).await
        };
        self.0.signals.observe(operation, written).await
    }

    async fn write_row<W: RowWrites>(&self, write: Write<E>) -> Result<Arc<E>, Error> {
        let row = self.write_observed::<W>(write).await?;
        Ok(row.expect("every write but a delete has a row"))
    }

    /// Runs a write to its end.
    fn write_observed<W: RowWrites>(
        &self,
        write: Write<E>,
    ) -> impl Future<Output = Result<Option<Arc<E>>, Error>> {
        let operation = write.operation();
        let told = |_: &_| Told::rows(1);
        self.0
            .signals
            .observe_as(operation, told, W::write(self, write))
    }
}
