//! The database side of one repository: all statements on its table are sent from here.
//!
//! It binds, runs and decodes, and reports whether a failed write has certainly changed nothing. It does not use the
//! cache.

pub mod backend;
mod catalogue;
pub(crate) mod chunks;
pub mod column;
pub(crate) mod database_id;
pub(crate) mod dialect;
pub(crate) mod endpoint;
pub(crate) mod entity;
pub mod expiry;
pub mod fields;
pub mod fit;
pub mod lookup;
pub(crate) mod open_transaction;
#[cfg(feature = "postgres")]
mod postgres_array;
pub(crate) mod queries;
pub(crate) mod round_trip;
pub mod schema;
pub mod source;
#[cfg(feature = "sqlite")]
mod sqlite_value;
pub(crate) mod stale_plan;
pub(crate) mod statement;
pub mod tables;
pub(crate) mod together;
pub mod writes;

use std::{borrow::Cow, sync::Arc};

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr, error::BoxDynError, pool::PoolConnection};

use crate::{
    database::{
        backend::{Backend, Executed},
        column::{Binder, ColumnList, ColumnSpec, Role, Values},
        dialect::Dialect,
        entity::Entity,
        lookup::Moves,
        source::{Binding, TypePanic},
        statement::{Statements, Text},
    },
    detached,
    error::{Error, ErrorKind},
    observe::Operation,
};

/// The rows of one entity in one database.
pub(crate) struct Database<E: Entity, DB: Backend> {
    pub(crate) pool: Pool<DB>,
    pub(crate) columns: Vec<ColumnSpec<DB>>,
    pub(crate) binding: Binding<E, DB>,
    pub(crate) statements: Statements,
    /// What an update does to the place of a row in each lookup.
    pub(crate) moves: Vec<Moves>,
    /// Whether rows are returned without the columns that are `omit`.
    omits: bool,
}

/// One write.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub enum Write<E: Entity> {
    Insert(E),
    Update(E),
    Save(E),
    Delete(E::Id),
    /// Deletes the row only if it still has this version.
    DeleteRow(E),
    /// Writes the columns in which the first row differs from the second, which is in the database.
    Modify(E, Arc<E>),
}

/// The result of a write.
pub(crate) struct Written<E> {
    /// How many rows it matched.
    pub(crate) rows: u64,
    /// The row as the database has it, if it was read back.
    pub(crate) row: Option<E>,
}

impl<E: Entity> Write<E> {
    /// Returns the row that is to be written, if any.
    pub(crate) fn row(&self) -> Option<&E> {
        match self {
            Self::Insert(entity)
            | Self::Update(entity)
            | Self::Save(entity)
            | Self::Modify(entity, _) => Some(entity),
            Self::Delete(_) | Self::DeleteRow(_) => None,
        }
    }

    /// Returns the row that was to be written, if any.
    pub(crate) fn into_row(self) -> Option<E> {
        match self {
            Self::Insert(entity)
            | Self::Update(entity)
            | Self::Save(entity)
            | Self::Modify(entity, _) => Some(entity),
            Self::Delete(_) | Self::DeleteRow(_) => None,
        }
    }

    /// Returns the id of the row, as the caller knows it.
    pub(crate) fn id(&self) -> Cow<'_, E::Id> {
        match self {
            Self::Insert(entity)
            | Self::Update(entity)
            | Self::Save(entity)
            | Self::Modify(entity, _)
            | Self::DeleteRow(entity) => Cow::Owned(entity.id()),
            Self::Delete(id) => Cow::Borrowed(id),
        }
    }

    /// Returns the verb for messages.
    pub(crate) fn verb(&self) -> &'static str {
        self.operation().name()
    }

    /// Returns which operation of a repository it is.
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Insert(_) => Operation::Insert,
            Self::Update(_) => Operation::Update,
            Self::Save(_) => Operation::Save,
            Self::Delete(_) | Self::DeleteRow(_) => Operation::Delete,
            Self::Modify(..) => Operation::Modify,
        }
    }
}

impl<E: Entity, DB: Backend> Database<E, DB> {
    /// Returns the rows that a pool connects to. `wants_rows`: read back every written row. `omits`: return rows without the
    /// columns that are `omit`.
    pub(crate) fn new(
        pool: Pool<DB>,
        binding: Binding<E, DB>,
        wants_rows: bool,
        omits: bool,
    ) -> Self {
        let columns = ColumnList::of(binding.describe);
        Self {
            moves: Moves::in_lookups(E::SPEC.lookups, &columns),
            statements: Statements::new(E::SPEC.table, &columns, wants_rows),
            pool,
            columns,
            binding,
            omits: omits && E::SPEC.omits,
        }
    }

    /// Returns whether the database generates the id. Then the key of a new row is known only after its insert.
    pub(crate) fn generates_id(&self) -> bool {
        self.statements.generates_id
    }

    /// Returns whether the database fills in a column that rows are found by. Then the keys of a lookup are known only after
    /// the statement.
    fn generates_lookups(&self) -> bool {
        let mut named = E::SPEC.lookups.iter().flat_map(|lookup| lookup.columns);
        named.any(|name| {
            let mut columns = self.columns.iter();
            columns.any(|column| column.name == *name && column.role == Role::Generated)
        })
    }

    /// Fails if the database would generate the id without returning it.
    pub(crate) fn check_generated_id(&self) -> Result<(), Error> {
        let untold = self.columns.iter().find(|column| {
            column.role == Role::GeneratedId
                && !DB::DIALECT.returns_rows()
                && !column.type_name().to_ascii_uppercase().contains("INT")
        });
        match untold {
            None => Ok(()),
            Some(column) => Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "column {} of {} cannot be `generated`: {} returns generated ids only if they are AUTO_INCREMENT integers; \
                     generate the id in the application",
                    column.name,
                    E::SPEC.name,
                    DB::NAME
                ),
            )),
        }
    }

    /// Returns whether a write takes more than one statement, or its key is not known before the statement.
    pub(crate) fn needs_transaction(&self, write: &Write<E>) -> bool {
        match write {
            Write::Insert(_) => self.inserts_in_transaction(),
            Write::Update(_) | Write::Save(_) | Write::Modify(..) => self.updates_in_transaction(),
            Write::Delete(_) | Write::DeleteRow(_) => false,
        }
    }

    fn inserts_in_transaction(&self) -> bool {
        self.statements.generates_id || self.updates_in_transaction()
    }

    fn updates_in_transaction(&self) -> bool {
        let reads_back = self.statements.reads_back && !DB::DIALECT.returns_rows();
        reads_back || self.generates_lookups()
    }

    /// Takes a connection out of the pool.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        DB::acquire(&self.pool).await
    }

    /// Returns the row that the database has returned, without the columns that are `omit`.
    pub(crate) fn row(&self, row: &DB::Row) -> Result<E, sqlx::Error> {
        let mut row = self.complete_row(row)?;
        if self.omits {
            (self.binding.clear_omitted)(&mut row);
        }
        Ok(row)
    }

    /// Returns the row that the database has returned, with all columns.
    pub(crate) fn complete_row(&self, row: &DB::Row) -> Result<E, sqlx::Error> {
        (self.binding.from_row)(row)
    }

    /// Returns a row without the columns that are `omit`.
    pub(crate) fn without_omitted(&self, row: Arc<E>) -> Arc<E> {
        if !self.omits {
            return row;
        }
        let mut row = Arc::unwrap_or_clone(row);
        (self.binding.clear_omitted)(&mut row);
        Arc::new(row)
    }

    /// Reads one row on a connection or inside a transaction on it.
    pub(crate) async fn select(
        &self,
        connection: &mut DB::Connection,
        id: &E::Id,
    ) -> Result<Option<E>, sqlx::Error> {
        let sql = self.statements.select.clone();
        self.select_by(connection, sql, id, Self::row).await
    }

    /// As [`Database::select`], with the columns that are `omit`.
    pub(crate) async fn select_complete(
        &self,
        connection: &mut DB::Connection,
        id: &E::Id,
    ) -> Result<Option<E>, sqlx::Error> {
        let sql = self.statements.select.clone();
        self.select_by(connection, sql, id, Self::complete_row)
            .await
    }

    /// Reads the current row, in a transaction that has written it or failed to.
    pub(crate) async fn select_current(
        &self,
        connection: &mut DB::Connection,
        id: &E::Id,
    ) -> Result<Option<E>, sqlx::Error> {
        let sql = self.statements.select_current.clone();
        self.select_by(connection, sql, id, Self::row).await
    }

    /// Reads a row with all columns, and locks it until the transaction ends. SQLite has no locks of rows.
    pub(crate) async fn select_locked(
        &self,
        connection: &mut DB::Connection,
        id: &E::Id,
    ) -> Result<Option<E>, sqlx::Error> {
        let sql = self.statements.select_locked.clone();
        self.select_by(connection, sql, id, Self::complete_row)
            .await
    }

    /// Returns whether there is a row whose id is equal to this one for the database, in another spelling or not.
    pub(crate) async fn has_equal_id(
        &self,
        connection: &mut DB::Connection,
        id: &E::Id,
    ) -> Result<bool, sqlx::Error> {
        let mut arguments = DB::Arguments::default();
        (self.binding.bind_id)(id, &mut Binder::new(&mut arguments, Role::is_id))
            .map_err(sqlx::Error::Encode)?;
        let row = DB::fetch(connection, self.statements.select_equal.clone(), arguments).await?;
        Ok(row.is_some())
    }

    /// Returns whether two rows have the same version.
    pub(crate) fn have_same_version(&self, one: &E, other: &E) -> Result<bool, sqlx::Error> {
        let version = |row: &E| {
            let mut version = Values::default();
            (self.binding.bind)(
                row,
                &mut Binder::values(&mut version, |role| role == Role::Version),
            )
            .map_err(sqlx::Error::Encode)?;
            Ok::<_, sqlx::Error>(version)
        };
        Ok(version(one)? == version(other)?)
    }

    async fn select_by(
        &self,
        connection: &mut DB::Connection,
        sql: SqlStr,
        id: &E::Id,
        row_of: fn(&Self, &DB::Row) -> Result<E, sqlx::Error>,
    ) -> Result<Option<E>, sqlx::Error> {
        let mut arguments = DB::Arguments::default();
        self.bind_id(id, &mut arguments)
            .map_err(sqlx::Error::Encode)?;
        let row = DB::fetch(connection, sql, arguments).await?;
        row.map(|row| row_of(self, &row)).transpose()
    }

    /// Runs one write on a connection or inside a transaction on it.
    pub(crate) async fn apply(
        &self,
        connection: &mut DB::Connection,
        write: &Write<E>,
    ) -> Result<Written<E>, sqlx::Error> {
        match write {
            Write::Insert(entity) => self.insert(connection, entity).await,
            Write::Update(entity) => self.update(connection, entity).await,
            Write::Modify(entity, old) => self.update_changed(connection, entity, old).await,
            Write::Save(entity) if DB::DIALECT.returns_rows() && !E::SPEC.omits => {
                self.upsert(connection, entity).await
            }
            Write::Save(entity) => self.update_or_insert(connection, entity).await,
            Write::Delete(id) => {
                let mut arguments = DB::Arguments::default();
                self.bind_id(id, &mut arguments)
                    .map_err(sqlx::Error::Encode)?;
                self.delete(connection, self.statements.delete.clone(), arguments)
                    .await
            }
            Write::DeleteRow(entity) => {
                let mut arguments = DB::Arguments::default();
                self.bind_row(entity, &mut arguments)?;
                self.delete(connection, self.statements.delete_row.clone(), arguments)
                    .await
            }
        }
    }

    async fn delete(
        &self,
        connection: &mut DB::Connection,
        sql: SqlStr,
        arguments: DB::Arguments,
    ) -> Result<Written<E>, sqlx::Error> {
        let done = DB::execute(connection, sql, arguments).await?;
        Ok(Written {
            rows: done.rows,
            row: None,
        })
    }

    pub(crate) async fn insert(
        &self,
        connection: &mut DB::Connection,
        entity: &E,
    ) -> Result<Written<E>, sqlx::Error> {
        let arguments = self.arguments(entity, |role| !role.is_generated())?;
        let (written, done) = self
            .run(connection, self.statements.insert.clone(), arguments)
            .await?;
        let (Some(done), true) = (done, self.statements.reads_back) else {
            return Ok(written);
        };
        if self.statements.generates_id && done.generated_id.is_none_or(|id| id == 0) {
            return Err(sqlx::Error::RowNotFound);
        }
        Ok(Written {
            rows: done.rows,
            row: self.select_inserted(connection, entity, done).await?,
        })
    }

    /// Reads back the row that an insert has written, where the dialect has no RETURNING. The database may have generated
    /// its id, on MySQL also for a row with the id 0.
    async fn select_inserted(
        &self,
        connection: &mut DB::Connection,
        entity: &E,
        done: Executed,
    ) -> Result<Option<E>, sqlx::Error> {
        let generated = done.generated_id.filter(|id| *id != 0);
        let Some(id) = generated.filter(|_| self.statements.generates_id) else {
            return self.select_current(connection, &entity.id()).await;
        };
        let mut arguments = DB::Arguments::default();
        DB::add_generated_id(&mut arguments, id).map_err(sqlx::Error::Encode)?;
        let row = DB::fetch(
            connection,
            self.statements.select_generated.clone(),
            arguments,
        )
        .await?;
        row.as_ref().map(|row| self.row(row)).transpose()
    }

    pub(crate) async fn update(
        &self,
        connection: &mut DB::Connection,
        entity: &E,
    ) -> Result<Written<E>, sqlx::Error> {
        let left = self.left_out(entity)?;
        let (sql, mut arguments) = if left.is_empty() {
            let arguments = self.arguments(entity, Role::is_updated)?;
            (self.statements.update.clone(), arguments)
        } else {
            let text = Text::new(E::SPEC.table, &self.columns);
            let arguments = self.arguments_at(entity, text.updated(&left))?;
            (text.update(&left, self.statements.reads_back), arguments)
        };
        self.bind_row(entity, &mut arguments)?;
        let mut binder = Binder::new(&mut arguments, |role| role == Role::Immutable);
        (self.binding.bind)(entity, &mut binder).map_err(sqlx::Error::Encode)?;
        self.run_update(connection, entity, sql, arguments).await
    }

    /// Returns the places of the columns that an update of a row leaves as they are: those that are `omit` and `None`, because
    /// the row may come from the cache.
    pub(crate) fn left_out(&self, row: &E) -> Result<Vec<usize>, sqlx::Error> {
        if !E::SPEC.omits {
            return Ok(Vec::new());
        }
        let values = self.values(row)?;
        let columns = self.columns.iter().enumerate();
        let left = columns
            .filter(|(place, column)| column.role == Role::Omitted && values.get(*place).is_none());
        Ok(left.map(|(place, _)| place).collect())
    }

    /// Writes the columns in which a row differs from another one.
    pub(crate) async fn update_changed(
        &self,
        connection: &mut DB::Connection,
        entity: &E,
        old: &E,
    ) -> Result<Written<E>, sqlx::Error> {
        let changed = self.changed_columns(entity, old)?;
        let mut arguments = self.arguments_at(entity, changed.iter().copied())?;
        self.bind_row(entity, &mut arguments)?;
        let text = Text::new(E::SPEC.table, &self.columns);
        let sql = text.update_columns(&changed, self.statements.reads_back);
        self.run_update(connection, entity, sql, arguments).await
    }

    /// Returns the places of the columns that an update writes and in which two rows differ.
    fn changed_columns(&self, one: &E, other: &E) -> Result<Vec<usize>, sqlx::Error> {
        self.differing_columns(Role::is_updated, one, other)
    }

    /// Returns the first immutable column in which two rows differ.
    pub(crate) fn changed_immutable(
        &self,
        one: &E,
        other: &E,
    ) -> Result<Option<&'static str>, sqlx::Error> {
        if !self.has_immutable() {
            return Ok(None);
        }
        let changed = self.differing_columns(|role| role == Role::Immutable, one, other)?;
        Ok(changed.first().map(|place| self.columns[*place].name))
    }

    /// Returns whether there are columns that updates compare and do not write.
    pub(crate) fn has_immutable(&self) -> bool {
        !self.immutable().is_empty()
    }

    /// Returns the columns that updates compare and do not write.
    pub(crate) fn immutable(&self) -> Vec<&'static str> {
        let columns = self.columns.iter();
        let immutable = columns.filter(|column| column.role == Role::Immutable);
        immutable.map(|column| column.name).collect()
    }

    /// Returns the places of the wanted columns in which two rows differ.
    fn differing_columns(
        &self,
        wanted: fn(Role) -> bool,
        one: &E,
        other: &E,
    ) -> Result<Vec<usize>, sqlx::Error> {
        let (one, other) = (self.values(one)?, self.values(other)?);
        let columns = self.columns.iter().enumerate();
        let differing = columns
            .filter(|(place, column)| wanted(column.role) && one.get(*place) != other.get(*place));
        Ok(differing.map(|(place, _)| place).collect())
    }

    /// Returns the columns in which two rows differ.
    pub(crate) fn different_columns(
        &self,
        one: &E,
        other: &E,
    ) -> Result<Vec<&'static str>, sqlx::Error> {
        let places = self.differing_columns(|_| true, one, other)?;
        let names = places.into_iter().map(|place| self.columns[place].name);
        Ok(names.collect())
    }

    /// Returns whether a modification changes no column. Values that cannot be compared count as changed.
    pub(crate) fn is_unchanged(&self, write: &Write<E>) -> bool {
        match write {
            Write::Modify(row, old) => self
                .changed_columns(row, old)
                .is_ok_and(|changed| changed.is_empty()),
            _ => false,
        }
    }

    /// Returns all values of a row as they would be bound.
    pub(crate) fn values(&self, row: &E) -> Result<Values, sqlx::Error> {
        let mut values = Values::default();
        (self.binding.bind)(row, &mut Binder::values(&mut values, |_| true))
            .map_err(sqlx::Error::Encode)?;
        Ok(values)
    }

    async fn run_update(
        &self,
        connection: &mut DB::Connection,
        entity: &E,
        sql: SqlStr,
        arguments: DB::Arguments,
    ) -> Result<Written<E>, sqlx::Error> {
        let (written, done) = self.run(connection, sql, arguments).await?;
        match done {
            Some(Executed { rows, .. }) if rows > 0 && self.statements.reads_back => Ok(Written {
                rows,
                row: self.select_current(connection, &entity.id()).await?,
            }),
            _ => Ok(written),
        }
    }

    async fn upsert(
        &self,
        connection: &mut DB::Connection,
        entity: &E,
    ) -> Result<Written<E>, sqlx::Error> {
        let arguments = self.arguments(entity, Role::is_saved)?;
        let left = self.left_out(entity)?;
        let sql = match left.is_empty() {
            true => self.statements.upsert.clone(),
            false => {
                let text = Text::new(E::SPEC.table, &self.columns);
                text.upsert(&left, self.statements.reads_back)
            }
        };
        let (written, _) = self.run(connection, sql, arguments).await?;
        Ok(written)
    }

    /// Saves a row where the dialect's own upsert could change a row with another id, or would be refused for a `None` that
    /// leaves a column as it is. Updates the row, inserts it if it does not exist, and updates it again if another writer has
    /// inserted it in between.
    async fn update_or_insert(
        &self,
        connection: &mut DB::Connection,
        entity: &E,
    ) -> Result<Written<E>, sqlx::Error> {
        let updated = self.update(connection, entity).await?;
        if updated.rows > 0 {
            return Ok(updated);
        }
        if E::SPEC.omits {
            // NOT NULL columns are checked before keys: the insert of a row that exists would be refused for its `None`.
            let id = entity.id();
            if self.select_current(connection, &id).await?.is_some() {
                return self.update(connection, entity).await;
            }
        }
        if DB::DIALECT.returns_rows() {
            return self.upsert(connection, entity).await;
        }
        let arguments = self.arguments(entity, Role::is_saved)?;
        match DB::execute(connection, self.statements.upsert.clone(), arguments).await {
            Ok(done) => Ok(Written {
                rows: done.rows,
                row: match self.statements.reads_back {
                    true => self.select_inserted(connection, entity, done).await?,
                    false => None,
                },
            }),
            Err(refused) if is_duplicate(&refused) => {
                let updated = self.update(connection, entity).await?;
                let may_differ = E::SPEC.versioned || self.has_immutable();
                let differs = updated.rows == 0
                    && may_differ
                    && self
                        .select_current(connection, &entity.id())
                        .await?
                        .is_some();
                // It still does not exist: another unique key, or another spelling of the id, rejected the insert.
                if updated.rows > 0 || differs {
                    Ok(updated)
                } else {
                    Err(refused)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Runs a write. Returns the row if the dialect returns it and it is wanted, and otherwise what the driver
    /// reported.
    async fn run(
        &self,
        connection: &mut DB::Connection,
        sql: SqlStr,
        arguments: DB::Arguments,
    ) -> Result<(Written<E>, Option<Executed>), sqlx::Error> {
        if self.statements.reads_back && DB::DIALECT.returns_rows() {
            // Fetch all rows, not only the first: the statement ends only after its last row was fetched.
            let rows = DB::fetch_all(connection, sql, arguments).await?;
            let written = Written {
                rows: rows.len() as u64,
                row: rows.first().map(|row| self.row(row)).transpose()?,
            };
            return Ok((written, None));
        }
        let done = DB::execute(connection, sql, arguments).await?;
        Ok((
            Written {
                rows: done.rows,
                row: None,
            },
            Some(done),
        ))
    }

    fn arguments(
        &self,
        entity: &E,
        wanted: fn(Role) -> bool,
    ) -> Result<DB::Arguments, sqlx::Error> {
        let mut arguments = DB::Arguments::default();
        (self.binding.bind)(entity, &mut Binder::new(&mut arguments, wanted))
            .map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }

    /// Returns the values of the columns with these places.
    fn arguments_at(
        &self,
        entity: &E,
        places: impl Iterator<Item = usize>,
    ) -> Result<DB::Arguments, sqlx::Error> {
        let mut arguments = DB::Arguments::default();
        for place in places {
            let mut binder = Binder::nth(&mut arguments, place);
            (self.binding.bind)(entity, &mut binder).map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }

    /// Appends what identifies a row in its version: the id, and the version if there is one.
    pub(crate) fn bind_row(
        &self,
        entity: &E,
        arguments: &mut DB::Arguments,
    ) -> Result<(), sqlx::Error> {
        let bound = self.bind_id(&entity.id(), arguments).and_then(|()| {
            (self.binding.bind)(
                entity,
                &mut Binder::new(arguments, |role| role == Role::Version),
            )
        });
        bound.map_err(sqlx::Error::Encode)
    }

    pub(crate) fn bind_id(
        &self,
        id: &E::Id,
        arguments: &mut DB::Arguments,
    ) -> Result<(), BoxDynError> {
        (self.binding.bind_id)(id, &mut Binder::new(arguments, Role::is_id))?;
        if self.statements.repeats_text_ids {
            (self.binding.bind_id)(id, &mut Binder::text_only(arguments))?;
        }
        Ok(())
    }
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(refusal) if refusal.is_unique_violation())
}

/// The effect of a statement that returned an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// It changed nothing.
    Nothing,
    /// It was executed, but its result could not be read.
    Applied,
    /// It may have been executed, or may still be.
    Unknown,
}

impl WriteOutcome {
    /// Returns the effect of a statement that commits by itself, or of a commit.
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(refusal) if breaks_off(&**refusal) => Self::Unknown,
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::Decode(_) => Self::Applied,
            // Rejected by the database, or never sent.
            sqlx::Error::Database(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::RowNotFound => Self::Nothing,
            _ => Self::Unknown,
        }
    }
}

/// Returns whether a failed statement may have rolled back its whole transaction, so that later statements would commit
/// by themselves. Postgres keeps the transaction open and rejects later statements.
pub(crate) fn aborts_transaction(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(refusal) = error else {
        return false;
    };
    #[cfg(feature = "mysql")]
    if let Some(refusal) = refusal.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // A record changed under a snapshot, a lock wait (depending on the configuration), too many locks, a deadlock,
        // too many transactions. All other errors roll back only their own statement.
        return matches!(refusal.number(), 1020 | 1205 | 1206 | 1213 | 1637);
    }
    #[cfg(feature = "sqlite")]
    if refusal
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()
        .is_some()
    {
        use sqlx::error::ErrorKind::{
            CheckViolation, ForeignKeyViolation, NotNullViolation, UniqueViolation,
        };
        let is_violation = matches!(
            refusal.kind(),
            CheckViolation | ForeignKeyViolation | NotNullViolation | UniqueViolation
        );
        // After a mistake in a statement or a value that does not fit, SQLite rolls back only that statement. A full
        // disk, a trigger with RAISE(ROLLBACK) and others end the transaction.
        let is_own = matches!(refusal.code().as_deref(), Some("1" | "18" | "20" | "25"));
        return !is_violation && !is_own;
    }
    let _ = refusal;
    false
}

/// Begins a transaction again if SQLite has ended it by itself, for example by a trigger with `RAISE(ROLLBACK)`.
/// Returns whether it had.
///
/// sqlx does not notice SQLite's rollback: its own ROLLBACK would fail, and the pooled connection would keep a wrong
/// transaction depth. So this opens an empty transaction, with the same number of savepoints, for sqlx to roll back.
pub(crate) async fn restart_if_rolled_back<DB: Backend>(
    connection: &mut DB::Connection,
    savepoints: usize,
) -> bool {
    if DB::DIALECT != Dialect::Sqlite {
        return false;
    }
    let begin = SqlStr::from_static("BEGIN");
    // SQLite rejects a BEGIN inside a transaction.
    if DB::run(connection, begin).await.is_err() {
        return false;
    }
    for depth in 1..=savepoints {
        // As sqlx names them.
        let savepoint = AssertSqlSafe(format!("SAVEPOINT _sqlx_savepoint_{depth}"));
        if let Err(error) = DB::run(connection, savepoint.into_sql_str()).await {
            tracing::debug!(%error, "failed to restore a savepoint after SQLite rolled back; the connection will be closed");
        }
    }
    true
}

/// Returns whether a statement failed because of a deadlock that has rolled back its transaction.
pub(crate) fn is_deadlock(error: &sqlx::Error) -> bool {
    #[cfg(feature = "mysql")]
    if let sqlx::Error::Database(refusal) = error
        && let Some(refusal) = refusal.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
    {
        return refusal.number() == 1213;
    }
    let _ = error;
    false
}

/// Returns whether an error of the database means that it stopped, and not that it rejected the statement.
fn breaks_off(refusal: &(dyn sqlx::error::DatabaseError + 'static)) -> bool {
    #[cfg(feature = "mysql")]
    if let Some(refusal) = refusal.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // Shutdown in progress; connection killed.
        return matches!(refusal.number(), 1053 | 1927);
    }
    // Connection exceptions, completion unknown, shutdown.
    let code = refusal.code().unwrap_or_default();
    code.starts_with("08") || code == "40003" || code.starts_with("57P")
}

/// Returns the error of larder for an error of sqlx. Its message says what was attempted, and on what.
pub(crate) fn describe(verb: &str, what: &str, error: sqlx::Error, fate: WriteOutcome) -> Error {
    let (kind, why): (_, Cow<'static, str>) = match &error {
        refusal if is_duplicate(refusal) => (
            ErrorKind::Duplicate,
            "a unique constraint rejected the row".into(),
        ),
        sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_) => {
            let misfit = match &error {
                sqlx::Error::Decode(cause) if cause.is::<TypePanic>() => cause.to_string(),
                _ => "the row does not fit the struct; `check_schema` lists the differences"
                    .to_owned(),
            };
            let why = match fate {
                WriteOutcome::Applied => {
                    format!("the row was written and committed, but cannot be read back: {misfit}")
                }
                WriteOutcome::Nothing | WriteOutcome::Unknown => misfit,
            };
            (ErrorKind::Conversion, why.into())
        }
        sqlx::Error::Encode(cause) if cause.is::<TypePanic>() => {
            (ErrorKind::Conversion, cause.to_string().into())
        }
        sqlx::Error::Encode(_) | sqlx::Error::TypeNotFound { .. } => (
            ErrorKind::Conversion,
            "a value cannot be encoded for the database".into(),
        ),
        refusal if stale_plan::is_refused(refusal) => (ErrorKind::Database, stale_plan::WHY.into()),
        _ if fate == WriteOutcome::Unknown => (
            ErrorKind::OutcomeUnknown,
            "the connection was lost, so the write may or may not have been applied".into(),
        ),
        _ => (
            ErrorKind::Database,
            "the database failed or rejected the statement".into(),
        ),
    };
    Error::with_source(kind, format!("failed to {verb} {what}: {why}"), error)
}

/// Runs statements that create something if it does not exist. Any number of processes may do so at the same time.
pub(crate) async fn create<DB: Backend>(
    pool: &Pool<DB>,
    texts: Vec<&'static str>,
) -> Result<(), sqlx::Error> {
    let pool = pool.clone();
    detached::query(async move {
        let mut connection = DB::acquire(&pool).await?;
        for text in texts {
            let text = match DB::DIALECT {
                // If two processes create one table at the same time, `IF NOT EXISTS` does not keep the later one from
                // failing. The lock is held until both statements, which are one transaction, have ended. Its number is
                // larder's own.
                // sqlx logs the notice that the table exists already, at every start of every process.
                Dialect::Postgres => format!(
                    "SELECT pg_advisory_xact_lock(7809911855113007714); SET LOCAL client_min_messages = warning; {text}"
                ),
                Dialect::MySql | Dialect::Sqlite => text.to_owned(),
            };
            DB::run(&mut connection, AssertSqlSafe(text).into_sql_str()).await?;
        }
        Ok(())
    })
    .await
}
