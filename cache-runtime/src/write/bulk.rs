//! Batches: many writes of one kind, all or none.
//!
//! 1. The rows go to the database in chunks (`chunks`).
//! 2. The returned rows are matched by key and put into the order of the input.
//! 3. A row that does not exist, or has another version, fails the whole batch. The caller's transaction or savepoint
//!    then undoes the earlier chunks.
//! 4. A delete by a lookup does not know its rows: the database returns their ids.
//!
//! Invariant: every row of a batch is staged for the cache like a single write, by the same code.
//! Not here: the transaction around it (`transaction`).

use std::{collections::HashMap, sync::Arc};

use crate::{
    context::Context,
    database::{
        self, Write, WriteOutcome, backend::Backend, entity::Entity, stale_plan::Repetitions,
    },
    error::{Error, ErrorKind},
    observe::{Operation, Tell, Told},
    protocol::key::Key,
    read::lookup::LookupOf,
    write::{
        StagedFailure, announce::PendingWrites, target::WriteTarget, transaction::Transaction,
    },
};

/// Many writes of one kind.
#[derive(Clone)]
pub(crate) enum Batch<E: Entity> {
    Insert(Vec<E>),
    Update(Vec<E>),
    /// Rows that are locked, after a change and as they were before it.
    Modify {
        rows: Vec<E>,
        old: Vec<Arc<E>>,
    },
    Delete(Vec<E::Id>),
    DeleteRows(Vec<E>),
    /// The rows that a lookup finds, with the key of its list if there is one.
    DeleteFound(Option<Key>, LookupOf),
}

impl<E> Tell for Done<E> {
    fn told(&self) -> Told {
        match self {
            Self::Rows(rows) => rows.told(),
            Self::Count(count) => count.told(),
        }
    }
}

/// The result of a batch.
pub(crate) enum Done<E> {
    /// The rows as they were written, in the order of the input.
    Rows(Vec<Arc<E>>),
    /// How many rows were deleted.
    Count(u64),
}

impl<E: Entity> Batch<E> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// Returns the number of rows, if it is known.
    fn len(&self) -> Option<usize> {
        match self {
            Self::Insert(rows)
            | Self::Update(rows)
            | Self::DeleteRows(rows)
            | Self::Modify { rows, .. } => Some(rows.len()),
            Self::Delete(ids) => Some(ids.len()),
            Self::DeleteFound(..) => None,
        }
    }

    /// Returns the result of an empty batch.
    pub(crate) fn nothing(&self) -> Done<E> {
        match self {
            Self::Insert(_) | Self::Update(_) | Self::Modify { .. } => Done::Rows(Vec::new()),
            Self::Delete(_) | Self::DeleteRows(_) | Self::DeleteFound(..) => Done::Count(0),
        }
    }

    /// Returns which operation of a repository it is.
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Insert(_) => Operation::InsertMany,
            Self::Update(_) => Operation::UpdateMany,
            Self::Modify { .. } => Operation::ModifyBy,
            Self::Delete(_) | Self::DeleteRows(_) => Operation::DeleteMany,
            Self::DeleteFound(..) => Operation::DeleteBy,
        }
    }

    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Insert(_) => "insert",
            Self::Update(_) => "update",
            Self::Modify { .. } => "modify",
            Self::Delete(_) | Self::DeleteRows(_) | Self::DeleteFound(..) => "delete",
        }
    }

    /// Returns the batch as single writes, as far as they are known.
    fn writes(self) -> Vec<Write<E>> {
        match self {
            Self::Insert(rows) => rows.into_iter().map(Write::Insert).collect(),
            Self::Update(rows) => rows.into_iter().map(Write::Update).collect(),
            Self::Modify { rows, old } => {
                let pairs = rows.into_iter().zip(old);
                pairs.map(|(row, old)| Write::Modify(row, old)).collect()
            }
            Self::Delete(ids) => ids.into_iter().map(Write::Delete).collect(),
            Self::DeleteRows(rows) => rows.into_iter().map(Write::DeleteRow).collect(),
            Self::DeleteFound(..) => Vec::new(),
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Runs a batch in a transaction of its own.
    pub(crate) async fn write_batch(self: &Arc<Self>, batch: Batch<E>) -> Result<Done<E>, Error> {
        let mut repetitions = Repetitions::on(&self.database.pool);
        loop {
            let mut transaction = Transaction::begin(&self.database.pool).await?;
            match transaction.write_batch(self, batch.clone()).await {
                Ok(done) => {
                    transaction.commit().await?;
                    return Ok(done);
                }
                Err(error) if repetitions.allow_after(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs a batch of rows of several callers in a transaction of its own. It waits for each lock no longer than
    /// [`Dialect::begin_gathered`](database::dialect::Dialect::begin_gathered) says, whose session needs no reset on Postgres.
    pub(crate) async fn write_shared_batch(
        self: &Arc<Self>,
        batch: Batch<E>,
    ) -> Result<Done<E>, Error> {
        let pool = &self.database.pool;
        let mut transaction = match DB::DIALECT.begin_gathered(self.policy.intent_ttl) {
            (Some(statement), ..) => Transaction::begin_with(pool, statement).await?,
            (None, ..) => Transaction::begin(pool).await?,
        };
        let done = transaction.write_batch_uncounted(self, batch).await?;
        transaction.commit().await?;
        Ok(done)
    }

    /// Runs a batch inside a transaction and stages its effect on the cache. After an error the caller must roll back.
    pub(crate) async fn write_batch_staged(
        self: &Arc<Self>,
        connection: &mut DB::Connection,
        staging: &mut PendingWrites,
        batch: Batch<E>,
    ) -> Result<Done<E>, StagedFailure> {
        let verb = batch.verb();
        let failed = |error| StagedFailure {
            dooms: database::aborts_transaction(&error),
            error: database::describe(
                verb,
                &format!("rows of {}", E::SPEC.name),
                error,
                WriteOutcome::Nothing,
            ),
        };
        let database = &self.database;
        let changed = match &batch {
            Batch::Insert(rows) if database.generates_id() => {
                let rows = database.insert_generated(connection, rows).await;
                return self.stage_generated(staging, batch, rows.map_err(failed)?);
            }
            Batch::Insert(rows) => database.insert_rows(connection, rows).await,
            Batch::Update(rows) => {
                self.distinct_keys(&batch)?;
                database.update_rows(connection, rows, None).await
            }
            Batch::Modify { rows, old } => database.update_rows(connection, rows, Some(old)).await,
            Batch::Delete(ids) => {
                let wanted = ids.len() as u64;
                let deleted = database.delete_ids(connection, ids).await.map_err(failed)?;
                let count = deleted.rows;
                self.stage(staging, batch, &HashMap::new())?;
                if count < wanted {
                    // A row that does not exist is not locked: another writer may have inserted it since.
                    staging.cancel_updates();
                }
                return Ok(Done::Count(count));
            }
            Batch::DeleteFound(key, LookupOf { lookup, values }) => {
                let deleted = database.delete_found(connection, *lookup, &**values).await;
                let deleted = deleted.map_err(failed)?;
                let found = deleted.ids.len() as u64;
                // Its ids are not needed any more. Lists by other columns notice that the rows have left.
                if let Some(key) = key {
                    let target = Arc::clone(self) as Arc<dyn WriteTarget>;
                    staging.mark_changed(target, key.clone(), None);
                }
                self.stage(staging, Batch::Delete(deleted.ids), &HashMap::new())?;
                if deleted.rows < found {
                    // A trigger or a rule has suppressed some of them.
                    staging.cancel_updates();
                }
                return Ok(Done::Count(deleted.rows));
            }
            Batch::DeleteRows(rows) => {
                self.distinct_keys(&batch)?;
                let deleted = database
                    .delete_rows(connection, rows)
                    .await
                    .map_err(failed)?;
                let count = deleted.rows;
                if count < rows.len() as u64 {
                    return Err(self.first_left(connection, batch).await.into());
                }
                self.stage(staging, batch, &HashMap::new())?;
                return Ok(Done::Count(count));
            }
        };
        let changed = changed.map_err(failed)?;
        let mut rows = HashMap::new();
        for row in changed.rows {
            rows.insert(self.key(&row.id())?, Arc::new(row));
        }
        let wanted = batch.len().unwrap_or_default();
        if changed.count < wanted {
            if let Batch::Insert(_) = &batch {
                return Err(self.inserted_fewer(changed.count, wanted).into());
            }
            let refused = self.first_refused(connection, batch, changed.missing, &rows);
            return Err(refused.await.into());
        }
        Ok(Done::Rows(self.stage(staging, batch, &rows)?))
    }

    /// Stages every write of a batch. Returns the written rows, if any, in the order of the input.
    fn stage(
        self: &Arc<Self>,
        staging: &mut PendingWrites,
        batch: Batch<E>,
        rows: &HashMap<Key, Arc<E>>,
    ) -> Result<Vec<Arc<E>>, Error> {
        let mut staged = Vec::new();
        for (key, row) in rows {
            // The loop below stages most of them again, but not a row whose id a trigger has changed.
            staging.mark_changed(Arc::clone(self) as Arc<dyn WriteTarget>, key.clone(), None);
            debug_assert!(self.key(&row.id()).is_ok_and(|own| own == *key));
        }
        for write in batch.writes() {
            let key = self.key(&write.id())?;
            let row = rows.get(&key);
            let lookups = self.announced_lookups(&write)?;
            self.stage_write(staging, &write, key, lookups, row);
            staged.extend(match row {
                Some(row) => Some(Arc::clone(row)),
                None => self.row_of(write),
            });
        }
        Ok(staged)
    }

    /// Stages inserts whose ids the database has generated. The rows are in the order of the input.
    fn stage_generated(
        self: &Arc<Self>,
        staging: &mut PendingWrites,
        batch: Batch<E>,
        rows: Vec<E>,
    ) -> Result<Done<E>, StagedFailure> {
        let wanted = batch.len().unwrap_or_default();
        if rows.len() < wanted {
            return Err(self.inserted_fewer(rows.len(), wanted).into());
        }
        let mut staged = Vec::with_capacity(rows.len());
        for (write, row) in batch.writes().into_iter().zip(rows) {
            let row = Arc::new(row);
            let (key, lookups) = (self.key(&row.id())?, self.announced_lookups(&write)?);
            self.stage_write(staging, &write, key, lookups, Some(&row));
            staged.push(row);
        }
        Ok(Done::Rows(staged))
    }

    fn inserted_fewer(&self, rows: usize, of: usize) -> Error {
        Error::new(
            ErrorKind::Database,
            format!(
                "failed to insert rows of {}: the database accepted {of} rows and inserted {rows}; a trigger may have \
                 suppressed the others",
                E::SPEC.name
            ),
        )
    }

    /// Returns the error of the first row of a batch that was not written.
    async fn first_refused(
        &self,
        connection: &mut DB::Connection,
        batch: Batch<E>,
        missing: Option<usize>,
        written: &HashMap<Key, Arc<E>>,
    ) -> Error {
        for (at, write) in batch.writes().into_iter().enumerate() {
            let key = match self.key(&write.id()) {
                Ok(key) => key,
                Err(error) => return error,
            };
            if missing.map_or(!written.contains_key(&key), |missing| missing == at) {
                return self.refused(connection, &write, &key).await;
            }
        }
        Error::new(
            ErrorKind::NotFound,
            format!(
                "failed to update rows of {}: some of them do not exist",
                E::SPEC.name
            ),
        )
    }

    /// Returns the error of the first row that a delete did not delete because it has another version. If there is
    /// none, the error says that rows do not exist.
    async fn first_left(&self, connection: &mut DB::Connection, batch: Batch<E>) -> Error {
        for write in batch.writes() {
            let key = match self.key(&write.id()) {
                Ok(key) => key,
                Err(error) => return error,
            };
            let found = self.database.select_current(connection, &write.id()).await;
            if matches!(found, Ok(Some(_))) {
                return self.refused(connection, &write, &key).await;
            }
        }
        Error::new(
            ErrorKind::NotFound,
            format!(
                "failed to delete rows of {}: some of them do not exist",
                E::SPEC.name
            ),
        )
    }

    /// Rejects a batch that contains a row twice, because the database would choose which of the two wins.
    fn distinct_keys(&self, batch: &Batch<E>) -> Result<(), Error> {
        let (Batch::Update(rows) | Batch::DeleteRows(rows)) = batch else {
            return Ok(());
        };
        let mut seen = std::collections::HashSet::with_capacity(rows.len());
        for row in rows {
            let key = self.key(&row.id())?;
            let described = self.describe_row(&key);
            if !seen.insert(key) {
                return Err(Error::new(
                    ErrorKind::Duplicate,
                    format!(
                        "failed to {} rows: {described} is given twice",
                        batch.verb()
                    ),
                ));
            }
        }
        Ok(())
    }
}
