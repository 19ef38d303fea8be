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
    announce::Staging,
    backend::Backend,
    column::{Array, Binder, Role},
    database::{self, Database, Fate, Write, Written},
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

/// What a batch did.
pub(crate) enum Done<E> {
    /// The rows as they were written, in the order of the input.
    Rows(Vec<Arc<E>>),
    /// How many rows there were to delete.
    Count(u64),
}

impl<E: Entity> Batch<E> {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Insert(rows) | Self::Update(rows) | Self::DeleteRows(rows) => rows.is_empty(),
            Self::Delete(ids) => ids.is_empty(),
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
        let written = match &batch {
            Batch::Insert(rows) if database.generates_id() => {
                let written = database
                    .insert_rows(connection, rows)
                    .await
                    .map_err(failed)?;
                return self.stage_generated(staging, batch, written);
            }
            Batch::Insert(rows) => database.insert_rows(connection, rows).await,
            Batch::Update(rows) => {
                self.distinct_keys(&batch)?;
                database.update_rows(connection, rows).await
            }
            Batch::Delete(ids) => {
                let count = database.delete_ids(connection, ids).await.map_err(failed)?;
                self.stage(staging, batch, &HashMap::new())?;
                return Ok(Done::Count(count));
            }
            Batch::DeleteRows(rows) => {
                self.distinct_keys(&batch)?;
                let count = database
                    .delete_rows(connection, rows)
                    .await
                    .map_err(failed)?;
                if count < rows.len() as u64 {
                    // What is still there is not in its version; of the others some were not there.
                    return Err(self.first_refused(connection, batch, None).await.into());
                }
                self.stage(staging, batch, &HashMap::new())?;
                return Ok(Done::Count(count));
            }
        };
        let written = written.map_err(failed)?;
        let wanted = match &batch {
            Batch::Insert(rows) | Batch::Update(rows) => rows.len(),
            Batch::Delete(_) | Batch::DeleteRows(_) => 0,
        };
        let is_short = written.len() < wanted;
        let mut rows = HashMap::new();
        for row in written.into_iter().filter_map(|written| written.row) {
            rows.insert(self.key(&row.id())?, Arc::new(row));
        }
        if is_short {
            return Err(self
                .first_refused(connection, batch, Some(&rows))
                .await
                .into());
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
        written: Vec<Written<E>>,
    ) -> Result<Done<E>, StagedFailure> {
        let mut staged = Vec::with_capacity(written.len());
        for (write, written) in batch.writes().into_iter().zip(written) {
            let row = written.row.map(Arc::new).ok_or_else(|| self.untold_id())?;
            self.stage_write(staging, &write, self.key(&row.id())?, Some(&row));
            staged.push(row);
        }
        Ok(Done::Rows(staged))
    }

    /// The error of the first row of a batch that was not written.
    async fn first_refused(
        &self,
        connection: &mut DB::Connection,
        batch: Batch<E>,
        written: Option<&HashMap<Key, Arc<E>>>,
    ) -> Error {
        for write in batch.writes() {
            let key = match self.key(&write.id()) {
                Ok(key) => key,
                Err(error) => return error,
            };
            let is_refused = match written {
                Some(written) => !written.contains_key(&key),
                // Deleted are those that were there; who is left was refused. If nobody is, the last one was not there.
                None => matches!(
                    self.database.select(connection, &write.id()).await,
                    Ok(Some(_))
                ),
            };
            if is_refused {
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
    /// Inserts rows. What was written of each, in their order.
    pub(crate) async fn insert_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Vec<Written<E>>, sqlx::Error> {
        let wanted: fn(Role) -> bool = |role| !role.is_generated();
        let reads_back = self.statements.reads_back;
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut written = Vec::with_capacity(rows.len());
        if self.has_arrays(wanted) {
            for rows in rows.chunks(ROWS_AS_ARRAYS) {
                let sql = text.insert_arrays(wanted, reads_back);
                let arguments = self.arrays_of_rows(rows, wanted)?;
                self.insert_chunk(connection, sql, arguments, rows, &mut written)
                    .await?;
            }
            return Ok(written);
        }
        let columns = self.count(wanted);
        if self.statements.generates_id || columns == 0 {
            // Which row got which id is told for one row at a time only.
            for row in rows {
                written.push(self.insert(connection, row).await?);
            }
            return Ok(written);
        }
        for rows in rows.chunks(rows_per_statement::<DB>(columns)) {
            let sql = text.insert_rows(wanted, rows.len(), reads_back);
            let mut arguments = DB::Arguments::default();
            for row in rows {
                (self.binding.bind)(row, &mut Binder::new(&mut arguments, wanted))
                    .map_err(sqlx::Error::Encode)?;
            }
            self.insert_chunk(connection, sql, arguments, rows, &mut written)
                .await?;
        }
        Ok(written)
    }

    async fn insert_chunk(
        &self,
        connection: &mut DB::Connection,
        sql: SqlStr,
        arguments: DB::Arguments,
        rows: &[E],
        written: &mut Vec<Written<E>>,
    ) -> Result<(), sqlx::Error> {
        if !self.statements.reads_back {
            DB::execute(connection, sql, arguments).await?;
            written.extend(rows.iter().map(|_| Written { rows: 1, row: None }));
            return Ok(());
        }
        if DB::DIALECT.returns_rows() {
            for row in DB::fetch_all(connection, sql, arguments).await? {
                written.push(Written {
                    rows: 1,
                    row: Some((self.binding.from_row)(&row)?),
                });
            }
            return Ok(());
        }
        DB::execute(connection, sql, arguments).await?;
        for row in self.select_rows(connection, rows).await? {
            written.push(Written {
                rows: 1,
                row: Some(row),
            });
        }
        Ok(())
    }

    /// Changes rows. What was written, in any order; rows that are not there, or not in their version, are missing.
    pub(crate) async fn update_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Vec<Written<E>>, sqlx::Error> {
        let mut written = Vec::with_capacity(rows.len());
        if self.has_arrays(Role::is_saved) {
            let text = Text::new(E::SPEC.table, &self.columns);
            for rows in rows.chunks(ROWS_AS_ARRAYS) {
                let arguments = self.arrays_of_rows(rows, Role::is_saved)?;
                for row in DB::fetch_all(connection, text.update_arrays(), arguments).await? {
                    written.push(Written {
                        rows: 1,
                        row: Some((self.binding.from_row)(&row)?),
                    });
                }
            }
            return Ok(written);
        }
        for row in rows {
            let updated = self.update(connection, row).await?;
            if updated.rows > 0 {
                written.push(Written {
                    rows: 1,
                    row: Some(updated.row.unwrap_or_else(|| row.clone())),
                });
            }
        }
        Ok(written)
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
