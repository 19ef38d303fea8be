//! Many rows with few statements.
//!
//! 1. A batch is cut into chunks that fit the dialect: one array per column where every column has an array type (Postgres,
//!    `UNNEST`), else rows of parameters up to the dialect's limit.
//! 2. What comes back is told apart by key and put into the order of the input.
//! 3. A row that is not there, or not in its version, fails the whole batch; the caller's transaction or savepoint undoes
//!    what was done before.
//!
//! Invariant: a statement reaches exactly the rows whose ids are given, byte for byte, as a single write does.
//! Invariant: every row of a batch is staged for the cache like a single write, by the same code.
//! Not here: the transaction around it (`transaction`).

use std::{collections::HashMap, sync::Arc};

use sqlx::SqlStr;

use crate::{
    announce::{Site, Staging},
    backend::Backend,
    column::{Array, Binder, Role},
    database::{self, Database, Fate, Write},
    entity::Entity,
    error::{Error, ErrorKind},
    key::Key,
    repository::Inner,
    statement::Text,
    write::StagedFailure,
};

/// How many rows travel as arrays in one statement: enough to make its own cost small, and few megabytes at once.
const ROWS_AS_ARRAYS: usize = 5_000;
/// How many rows travel as parameters in one statement. More gain nothing, and SQLite bounds the depth of a condition.
const ROWS_AS_PARAMETERS: usize = 500;

/// Many writes of one kind.
pub(crate) enum Batch<E: Entity> {
    Insert(Vec<E>),
    Update(Vec<E>),
    Delete(Vec<E::Id>),
    DeleteRows(Vec<E>),
}

/// The columns that the application gives for a new row.
const GIVEN_ON_INSERT: fn(Role) -> bool = |role| !role.is_generated();

/// What statements did to many rows.
pub(crate) struct Changed<E> {
    /// How many rows they matched.
    count: usize,
    /// The rows as the database holds them, in any order, where they were read back.
    rows: Vec<E>,
    /// The place of the first row that was not matched, where that is known.
    missing: Option<usize>,
}

impl<E> Default for Changed<E> {
    fn default() -> Self {
        Self {
            count: 0,
            rows: Vec::new(),
            missing: None,
        }
    }
}

/// What a batch did.
pub(crate) enum Done<E> {
    /// The rows as they were written, in the order of the input.
    Rows(Vec<Arc<E>>),
    /// How many rows there were to delete.
    Count(u64),
}

impl<E: Entity> Batch<E> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Self::Insert(rows) | Self::Update(rows) | Self::DeleteRows(rows) => rows.len(),
            Self::Delete(ids) => ids.len(),
        }
    }

    /// What a batch of nothing does.
    pub(crate) fn nothing(&self) -> Done<E> {
        match self {
            Self::Insert(_) | Self::Update(_) => Done::Rows(Vec::new()),
            Self::Delete(_) | Self::DeleteRows(_) => Done::Count(0),
        }
    }

    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Insert(_) => "insert",
            Self::Update(_) => "update",
            Self::Delete(_) | Self::DeleteRows(_) => "delete",
        }
    }

    /// The batch as single writes.
    fn writes(self) -> Vec<Write<E>> {
        match self {
            Self::Insert(rows) => rows.into_iter().map(Write::Insert).collect(),
            Self::Update(rows) => rows.into_iter().map(Write::Update).collect(),
            Self::Delete(ids) => ids.into_iter().map(Write::Delete).collect(),
            Self::DeleteRows(rows) => rows.into_iter().map(Write::DeleteRow).collect(),
        }
    }
}

impl<E: Entity, DB: Backend> Inner<E, DB> {
    /// Runs a batch inside a transaction and stages what it does to the cache. After an error the transaction must be undone.
    pub(crate) async fn write_batch_staged(
        self: &Arc<Self>,
        connection: &mut DB::Connection,
        staging: &mut Staging,
        batch: Batch<E>,
    ) -> Result<Done<E>, StagedFailure> {
        let verb = batch.verb();
        let failed = |error| StagedFailure {
            dooms: database::dooms_transaction(&error),
            error: database::describe(
                verb,
                &format!("rows of {}", E::SPEC.name),
                error,
                Fate::Nothing,
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
                database.update_rows(connection, rows).await
            }
            Batch::Delete(ids) => {
                let wanted = ids.len() as u64;
                let count = database.delete_ids(connection, ids).await.map_err(failed)?;
                self.stage(staging, batch, &HashMap::new())?;
                if count < wanted {
                    // A row that was not there is not locked: somebody else may have inserted it since.
                    staging.unpublish();
                }
                return Ok(Done::Count(count));
            }
            Batch::DeleteRows(rows) => {
                self.distinct_keys(&batch)?;
                let count = database
                    .delete_rows(connection, rows)
                    .await
                    .map_err(failed)?;
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
        if changed.count < batch.len() {
            if let Batch::Insert(_) = &batch {
                return Err(self.inserted_fewer(changed.count, batch.len()).into());
            }
            let refused = self.first_refused(connection, batch, changed.missing, &rows);
            return Err(refused.await.into());
        }
        Ok(Done::Rows(self.stage(staging, batch, &rows)?))
    }

    /// Stages every write of a batch. The rows that were written, where they are rows, in the order of the input.
    fn stage(
        self: &Arc<Self>,
        staging: &mut Staging,
        batch: Batch<E>,
        rows: &HashMap<Key, Arc<E>>,
    ) -> Result<Vec<Arc<E>>, Error> {
        let mut staged = Vec::new();
        for (key, row) in rows {
            // Most are noted again below; a row that a trigger has given another id is not.
            staging.touch(Arc::clone(self) as Arc<dyn Site>, key.clone(), None);
            debug_assert!(self.key(&row.id()).is_ok_and(|own| own == *key));
        }
        for write in batch.writes() {
            let key = self.key(&write.id())?;
            let row = rows.get(&key);
            self.stage_write(staging, &write, key, row);
            staged.extend(match row {
                Some(row) => Some(Arc::clone(row)),
                None => write.into_row().map(Arc::new),
            });
        }
        Ok(staged)
    }

    /// Stages inserts whose ids the database has chosen; they come back in the order of the input.
    fn stage_generated(
        self: &Arc<Self>,
        staging: &mut Staging,
        batch: Batch<E>,
        rows: Vec<E>,
    ) -> Result<Done<E>, StagedFailure> {
        if rows.len() < batch.len() {
            return Err(self.inserted_fewer(rows.len(), batch.len()).into());
        }
        let mut staged = Vec::with_capacity(rows.len());
        for (write, row) in batch.writes().into_iter().zip(rows) {
            let row = Arc::new(row);
            self.stage_write(staging, &write, self.key(&row.id())?, Some(&row));
            staged.push(row);
        }
        Ok(Done::Rows(staged))
    }

    fn inserted_fewer(&self, rows: usize, of: usize) -> Error {
        Error::new(
            ErrorKind::Database,
            format!(
                "failed to insert rows of {}: the database accepted {of} and inserted {rows}; a trigger may have suppressed \
                 the others",
                E::SPEC.name
            ),
        )
    }

    /// The error of the first row of a batch that was not written.
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

    /// The error of the first row that a delete has left, because it has another version, or else of one that was not there.
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

    /// Refuses a batch that names a row twice: which of the two counts would be up to the database.
    fn distinct_keys(&self, batch: &Batch<E>) -> Result<(), Error> {
        let (Batch::Update(rows) | Batch::DeleteRows(rows)) = batch else {
            return Ok(());
        };
        let mut seen = std::collections::HashSet::with_capacity(rows.len());
        for row in rows {
            let key = self.key(&row.id())?;
            let what = self.what(&key);
            if !seen.insert(key) {
                return Err(Error::new(
                    ErrorKind::Duplicate,
                    format!("failed to {} rows: {what} is given twice", batch.verb()),
                ));
            }
        }
        Ok(())
    }
}

impl<E: Entity, DB: Backend> Database<E, DB> {
    /// Inserts rows.
    pub(crate) async fn insert_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Changed<E>, sqlx::Error> {
        let reads_back = self.statements.reads_back;
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut changed = Changed::default();
        if self.has_arrays(GIVEN_ON_INSERT) {
            for rows in rows.chunks(ROWS_AS_ARRAYS) {
                let sql = text.insert_arrays(GIVEN_ON_INSERT, reads_back);
                let arguments = self.arrays_of_rows(rows, GIVEN_ON_INSERT)?;
                self.insert_chunk(connection, sql, arguments, rows, &mut changed)
                    .await?;
            }
            return Ok(changed);
        }
        let columns = self.count(GIVEN_ON_INSERT);
        for rows in rows.chunks(rows_per_statement::<DB>(columns)) {
            let sql = text.insert_rows(GIVEN_ON_INSERT, rows.len(), reads_back);
            let mut arguments = DB::Arguments::default();
            for row in rows {
                (self.binding.bind)(row, &mut Binder::new(&mut arguments, GIVEN_ON_INSERT))
                    .map_err(sqlx::Error::Encode)?;
            }
            self.insert_chunk(connection, sql, arguments, rows, &mut changed)
                .await?;
        }
        Ok(changed)
    }

    async fn insert_chunk(
        &self,
        connection: &mut DB::Connection,
        sql: SqlStr,
        arguments: DB::Arguments,
        rows: &[E],
        changed: &mut Changed<E>,
    ) -> Result<(), sqlx::Error> {
        let returns = self.statements.reads_back && DB::DIALECT.returns_rows();
        if returns {
            return self
                .run_returning(connection, sql, arguments, changed)
                .await;
        }
        let done = DB::execute(connection, sql, arguments).await?;
        changed.count += usize::try_from(done.rows).unwrap_or(usize::MAX);
        if self.statements.reads_back {
            changed
                .rows
                .extend(self.select_rows(connection, rows).await?);
        }
        Ok(())
    }

    async fn run_returning(
        &self,
        connection: &mut DB::Connection,
        sql: SqlStr,
        arguments: DB::Arguments,
        changed: &mut Changed<E>,
    ) -> Result<(), sqlx::Error> {
        for row in DB::fetch_all(connection, sql, arguments).await? {
            changed.count += 1;
            changed.rows.push((self.binding.from_row)(&row)?);
        }
        Ok(())
    }

    /// Inserts rows whose ids the database chooses, and returns them in their order.
    async fn insert_generated(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Vec<E>, sqlx::Error> {
        let mut written = Vec::with_capacity(rows.len());
        if self.has_arrays(GIVEN_ON_INSERT) {
            // Postgres inserts what an ordered SELECT yields one by one, and returns each as it was inserted.
            let text = Text::new(E::SPEC.table, &self.columns);
            let mut changed = Changed::default();
            for rows in rows.chunks(ROWS_AS_ARRAYS) {
                let sql = text.insert_arrays(GIVEN_ON_INSERT, true);
                let arguments = self.arrays_of_rows(rows, GIVEN_ON_INSERT)?;
                self.run_returning(connection, sql, arguments, &mut changed)
                    .await?;
            }
            return Ok(changed.rows);
        }
        // Elsewhere, which row got which id is told for one row at a time only.
        for row in rows {
            written.extend(self.insert(connection, row).await?.row);
        }
        Ok(written)
    }

    /// Changes rows. Those that are not there, or not in their version, are not among the changed ones.
    pub(crate) async fn update_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Changed<E>, sqlx::Error> {
        let mut changed = Changed::default();
        if self.has_arrays(Role::is_saved) {
            let text = Text::new(E::SPEC.table, &self.columns);
            for rows in rows.chunks(ROWS_AS_ARRAYS) {
                let arguments = self.arrays_of_rows(rows, Role::is_saved)?;
                self.run_returning(connection, text.update_arrays(), arguments, &mut changed)
                    .await?;
            }
            return Ok(changed);
        }
        for (at, row) in rows.iter().enumerate() {
            let updated = self.update(connection, row).await?;
            if updated.rows == 0 {
                changed.missing = Some(at);
                break;
            }
            changed.count += 1;
            changed.rows.extend(updated.row);
        }
        Ok(changed)
    }

    /// Deletes rows by their ids. How many there were.
    pub(crate) async fn delete_ids(
        &self,
        connection: &mut DB::Connection,
        ids: &[E::Id],
    ) -> Result<u64, sqlx::Error> {
        self.delete_each(
            connection,
            ids,
            false,
            |id, arguments| self.bind_id(id, arguments).map_err(sqlx::Error::Encode),
            |id, binder| (self.binding.bind_id)(id, binder),
        )
        .await
    }

    /// Deletes rows in the versions they have here. How many there were.
    pub(crate) async fn delete_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<u64, sqlx::Error> {
        self.delete_each(
            connection,
            rows,
            E::SPEC.versioned,
            |row, arguments| self.bind_row(row, arguments),
            |row, binder| (self.binding.bind)(row, binder),
        )
        .await
    }

    async fn delete_each<T>(
        &self,
        connection: &mut DB::Connection,
        items: &[T],
        compares_version: bool,
        bind: impl Fn(&T, &mut DB::Arguments) -> Result<(), sqlx::Error>,
        add: impl Fn(&T, &mut Binder<'_, DB>) -> Result<(), sqlx::error::BoxDynError>,
    ) -> Result<u64, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let told_by = Text::<DB>::told_by(compares_version);
        let mut deleted = 0;
        if self.has_arrays(told_by) {
            for items in items.chunks(ROWS_AS_ARRAYS) {
                let arguments = self.arrays(items, told_by, &add)?;
                let sql = text.delete_arrays(compares_version);
                deleted += DB::execute(connection, sql, arguments).await?.rows;
            }
            return Ok(deleted);
        }
        let columns = text.parameters_per_row(compares_version);
        for items in items.chunks(rows_per_statement::<DB>(columns)) {
            let mut arguments = DB::Arguments::default();
            for item in items {
                bind(item, &mut arguments)?;
            }
            let sql = text.delete_rows(items.len(), compares_version);
            deleted += DB::execute(connection, sql, arguments).await?.rows;
        }
        Ok(deleted)
    }

    /// Reads rows back by their ids, in any order.
    async fn select_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Vec<E>, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut arguments = DB::Arguments::default();
        for row in rows {
            self.bind_id(&row.id(), &mut arguments)
                .map_err(sqlx::Error::Encode)?;
        }
        let found = DB::fetch_all(connection, text.select_rows(rows.len()), arguments).await?;
        found.iter().map(self.binding.from_row).collect()
    }

    fn arrays_of_rows(
        &self,
        rows: &[E],
        wanted: fn(Role) -> bool,
    ) -> Result<DB::Arguments, sqlx::Error> {
        self.arrays(rows, wanted, |row, binder| (self.binding.bind)(row, binder))
    }

    /// One array per wanted column.
    fn arrays<T>(
        &self,
        items: &[T],
        wanted: fn(Role) -> bool,
        add: impl Fn(&T, &mut Binder<'_, DB>) -> Result<(), sqlx::error::BoxDynError>,
    ) -> Result<DB::Arguments, sqlx::Error> {
        let columns = self.columns.iter().filter(|column| wanted(column.role));
        let mut arrays = vec![Array::default(); columns.clone().count()];
        for item in items {
            add(item, &mut Binder::arrays(&mut arrays, wanted)).map_err(sqlx::Error::Encode)?;
        }
        let mut arguments = DB::Arguments::default();
        for (array, column) in arrays.into_iter().zip(columns) {
            DB::add_array(&mut arguments, array, &column.type_info).map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }

    /// Whether all wanted columns can be sent as arrays.
    fn has_arrays(&self, wanted: fn(Role) -> bool) -> bool {
        let mut columns = self.columns.iter().filter(|column| wanted(column.role));
        self.count(wanted) > 0 && columns.all(|column| DB::has_arrays_of(&column.type_info))
    }

    fn count(&self, wanted: fn(Role) -> bool) -> usize {
        let columns = self.columns.iter().filter(|column| wanted(column.role));
        columns.count()
    }
}

fn rows_per_statement<DB: Backend>(parameters_per_row: usize) -> usize {
    (DB::DIALECT.most_parameters() / parameters_per_row.max(1)).clamp(1, ROWS_AS_PARAMETERS)
}
