//! The statements of a batch: many rows in chunks that fit the database.
//!
//! 1. If every column has an array type (Postgres, `UNNEST`), a chunk is one array per column, and one prepared
//!    statement works for any number of rows.
//! 2. Otherwise a chunk is rows of parameters, up to the dialect's limit.
//! 3. In both cases a chunk ends before its values are too large for one message to the database.
//!
//! Invariant: a statement matches exactly the rows with the given ids, byte for byte, like a single write.
//! Not here: rows that were not matched, and the keys (`bulk`).

use std::{borrow::Borrow, collections::BTreeMap, sync::Arc};

use sqlx::SqlStr;

use crate::database::{
    Database,
    backend::Backend,
    column::{Array, Binder, Role},
    entity::Entity,
    statement::{DEFERRED, Purpose, TRIGGERS, Text},
};

/// The maximum number of rows as arrays in one statement: enough to make its own cost small, and only a few megabytes.
const ROWS_AS_ARRAYS: usize = 5_000;
/// The maximum number of rows as parameters in one statement. More rows gain nothing, and SQLite limits the depth of a
/// condition.
const ROWS_AS_PARAMETERS: usize = 500;

/// The maximum number of ids in the list of one statement. A power of two, as [`IDS_IN_CONDITION`].
const IDS_IN_LIST: usize = 4_096;
/// The maximum number of composite ids in the condition of one statement.
const IDS_IN_CONDITION: usize = 256;

/// An upper bound of the bytes that a message with one row needs in addition to its values.
const MESSAGE_OVERHEAD: usize = 4_096;

/// The columns of a new row that the application sets.
pub(super) const GIVEN_ON_INSERT: fn(Role) -> bool = |role| !role.is_generated();

/// The result of statements on many rows.
pub(crate) struct Changed<E> {
    /// How many rows they matched.
    pub(crate) count: usize,
    /// The rows as the database has them, in any order, if they were read back.
    pub(crate) rows: Vec<E>,
    /// The index of the first row that was not matched, if it is known.
    pub(crate) missing: Option<usize>,
}

/// The result of statements that return no rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// How many rows they matched.
    pub(crate) rows: u64,
    /// How many statements there were.
    pub(crate) statements: u64,
}

impl Sent {
    fn add(&mut self, rows: u64) {
        self.rows += rows;
        self.statements += 1;
    }
}

/// The result of an upsert or a read of many rows.
pub(crate) struct Returned<DB: Backend> {
    /// How many rows were matched, with how many statements.
    pub(crate) sent: Sent,
    /// The rows as the database has them, in any order, if they were requested. Rows that triggers may still change are
    /// missing.
    pub(crate) rows: Vec<DB::Row>,
    /// Whether rows were requested and must be read after the last write of the transaction.
    pub(crate) is_unread: bool,
}

impl<DB: Backend> Default for Returned<DB> {
    fn default() -> Self {
        Self {
            sent: Sent::default(),
            rows: Vec::new(),
            is_unread: false,
        }
    }
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

/// Fails if values of this size, which is more than a statement of several rows has, are too large for one message to
/// this server. If they were sent, the server would close the connection, possibly without an error message.
pub(crate) async fn check_size<DB: Backend>(
    connection: &mut DB::Connection,
    what: &str,
    bytes: usize,
) -> Result<(), sqlx::Error> {
    let Some(ask) = DB::DIALECT.largest_message() else {
        return Ok(());
    };
    if bytes <= DB::DIALECT.most_bytes() {
        return Ok(());
    }
    let answer = DB::fetch(connection, ask, DB::Arguments::default()).await?;
    let answer = answer.ok_or(sqlx::Error::RowNotFound)?;
    let most = usize::try_from(DB::integer(&answer, 0)?).unwrap_or(usize::MAX);
    if bytes.saturating_add(MESSAGE_OVERHEAD) <= most {
        return Ok(());
    }
    Err(sqlx::Error::Encode(
        format!("{what} has {bytes} bytes, and the server takes {most} at once; raise `max_allowed_packet`").into(),
    ))
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
            let mut rest = rows;
            while !rest.is_empty() {
                let sql = text.insert_arrays(GIVEN_ON_INSERT, reads_back);
                let (rows, arguments) = self.arrays_of_rows(&mut rest, GIVEN_ON_INSERT)?;
                self.insert_chunk(connection, sql, arguments, rows, &mut changed)
                    .await?;
            }
            return Ok(changed);
        }
        let most = rows_per_statement::<DB>(self.count(GIVEN_ON_INSERT));
        let mut rest = rows;
        while !rest.is_empty() {
            let rows = self
                .next_rows(connection, &mut rest, most, GIVEN_ON_INSERT)
                .await?;
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
            changed.rows.push(self.row(&row)?);
        }
        Ok(())
    }

    /// Inserts rows whose ids the database generates, and returns them in the order of the input.
    pub(crate) async fn insert_generated(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Vec<E>, sqlx::Error> {
        let mut written = Vec::with_capacity(rows.len());
        if self.has_arrays(GIVEN_ON_INSERT) {
            // Postgres inserts the rows of an ordered SELECT one by one, and returns them in that order.
            let text = Text::new(E::SPEC.table, &self.columns);
            let mut changed = Changed::default();
            let mut rest = rows;
            while !rest.is_empty() {
                let sql = text.insert_arrays(GIVEN_ON_INSERT, true);
                let (_, arguments) = self.arrays_of_rows(&mut rest, GIVEN_ON_INSERT)?;
                self.run_returning(connection, sql, arguments, &mut changed)
                    .await?;
            }
            return Ok(changed.rows);
        }
        // Other databases report which row got which id only for one row at a time.
        for row in rows {
            written.extend(self.insert(connection, row).await?.row);
        }
        Ok(written)
    }

    /// Updates rows. Rows that do not exist, or have another version, are not among the changed ones. `old`: the rows as they
    /// are in the database, with all columns, if that is known.
    pub(crate) async fn update_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
        old: Option<&[Arc<E>]>,
    ) -> Result<Changed<E>, sqlx::Error> {
        let mut changed = Changed::default();
        if self.has_arrays(Role::is_saved) {
            let text = Text::new(E::SPEC.table, &self.columns);
            for (left, rows) in self.by_columns_left(rows, old.is_some())? {
                let sql = text.update_arrays(&left, Purpose::Batch);
                let mut rest = &rows[..];
                while !rest.is_empty() {
                    let (_, arguments) = self.arrays_of_rows(&mut rest, Role::is_saved)?;
                    self.run_returning(connection, sql.clone(), arguments, &mut changed)
                        .await?;
                }
            }
            return Ok(changed);
        }
        for (at, row) in rows.iter().enumerate() {
            let updated = match old {
                Some(old) if E::SPEC.omits => self.update_changed(connection, row, &old[at]).await,
                _ => self.update(connection, row).await,
            }?;
            if updated.rows == 0 {
                changed.missing = Some(at);
                break;
            }
            changed.count += 1;
            changed.rows.extend(updated.row);
        }
        Ok(changed)
    }

    /// Returns rows by the columns that an update leaves as they are. `are_complete`: it leaves none.
    fn by_columns_left<'r>(
        &self,
        rows: &'r [E],
        are_complete: bool,
    ) -> Result<BTreeMap<Vec<usize>, Vec<&'r E>>, sqlx::Error> {
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for row in rows {
            let left = match are_complete {
                true => Vec::new(),
                false => self.left_out(row)?,
            };
            groups.entry(left).or_default().push(row);
        }
        Ok(groups)
    }

    /// Inserts rows, or updates those that exist. All rows must have different ids. Fewer rows than given are matched
    /// if the database has suppressed one, has its id in another spelling, or on MySQL, if another unique key has
    /// rejected it. With `reads` the rows are read back as the database then has them.
    pub(crate) async fn upsert_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[&E],
        reads: bool,
    ) -> Result<Returned<DB>, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut upserted = Returned::default();
        let has_arrays = self.has_arrays(Role::is_saved);
        let columns = self
            .count(Role::is_saved)
            .max(text.parameters_per_row(false));
        let most = rows_per_statement::<DB>(columns);
        let mut rest = rows;
        while !rest.is_empty() {
            let (rows, sql, arguments);
            if has_arrays {
                (rows, arguments) = self.arrays_of_rows(&mut rest, Role::is_saved)?;
                sql = text.upsert_arrays(reads);
            } else {
                rows = self
                    .next_rows(connection, &mut rest, most, Role::is_saved)
                    .await?;
                let mut bound = DB::Arguments::default();
                for row in rows {
                    let row = row.borrow();
                    (self.binding.bind)(row, &mut Binder::new(&mut bound, Role::is_saved))
                        .map_err(sqlx::Error::Encode)?;
                }
                arguments = bound;
                sql = text.upsert_rows(rows.len(), reads);
            }
            self.upsert_chunk(
                connection,
                &text,
                (sql, arguments),
                rows,
                reads,
                &mut upserted,
            )
            .await?;
        }
        Ok(upserted)
    }

    async fn upsert_chunk(
        &self,
        connection: &mut DB::Connection,
        text: &Text<'_, DB>,
        (sql, arguments): (SqlStr, DB::Arguments),
        rows: &[&E],
        reads: bool,
        upserted: &mut Returned<DB>,
    ) -> Result<(), sqlx::Error> {
        let sent = &mut upserted.sent;
        if reads && DB::DIALECT.returns_rows_of_upserts() {
            let returned = DB::fetch_all(connection, sql, arguments).await?;
            sent.add(returned.len() as u64);
            let follows = match returned.first() {
                Some(row) => DB::integer(row, self.columns.len())?,
                None => 0,
            };
            match follows {
                TRIGGERS => upserted.is_unread = true,
                DEFERRED => {}
                _ => upserted.rows.extend(returned),
            }
            return Ok(());
        }
        let done = DB::execute(connection, sql, arguments).await?;
        if DB::DIALECT.returns_rows() {
            sent.add(done.rows);
            upserted.is_unread |= reads;
            return Ok(());
        }
        // MySQL counts a changed row twice, and also counts an unchanged row. Its triggers change no other row of the
        // table.
        sent.add(0);
        if reads {
            let ids: Vec<_> = rows.iter().map(|row| row.id()).collect();
            let read = self.select_ids(connection, &ids).await?;
            sent.statements += read.sent.statements;
            sent.rows += read.sent.rows;
            upserted.rows.extend(read.rows);
        } else {
            sent.add(self.count_present(connection, text, rows).await?);
        }
        Ok(())
    }

    /// Returns how many of these rows exist now, by their ids.
    async fn count_present(
        &self,
        connection: &mut DB::Connection,
        text: &Text<'_, DB>,
        rows: &[&E],
    ) -> Result<u64, sqlx::Error> {
        let mut arguments = DB::Arguments::default();
        for row in rows {
            self.bind_id(&row.id(), &mut arguments)
                .map_err(sqlx::Error::Encode)?;
        }
        let counted = DB::fetch(connection, text.count_rows(rows.len()), arguments).await?;
        let counted = counted.ok_or(sqlx::Error::RowNotFound)?;
        Ok(u64::try_from(DB::integer(&counted, 0)?).unwrap_or(0))
    }

    /// Deletes rows by their ids. Returns how many were deleted.
    pub(crate) async fn delete_ids(
        &self,
        connection: &mut DB::Connection,
        ids: &[E::Id],
    ) -> Result<Sent, sqlx::Error> {
        self.delete_each(
            connection,
            ids,
            false,
            |id, arguments| self.bind_id(id, arguments).map_err(sqlx::Error::Encode),
            |id, binder| (self.binding.bind_id)(id, binder),
        )
        .await
    }

    /// Deletes rows that still have the given versions. Returns how many were deleted.
    pub(crate) async fn delete_rows(
        &self,
        connection: &mut DB::Connection,
        rows: &[E],
    ) -> Result<Sent, sqlx::Error> {
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
    ) -> Result<Sent, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let identified_by = Text::<DB>::identified_by(compares_version);
        let mut deleted = Sent::default();
        if self.has_arrays(identified_by) {
            let mut rest = items;
            while !rest.is_empty() {
                let (_, arguments) = self.arrays(&mut rest, identified_by, &add)?;
                let sql = text.delete_arrays(compares_version, Purpose::Batch);
                deleted.add(DB::execute(connection, sql, arguments).await?.rows);
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
            deleted.add(DB::execute(connection, sql, arguments).await?.rows);
        }
        Ok(deleted)
    }

    /// Reads the current rows by their ids, in any order, also in a transaction that has written them.
    pub(crate) async fn select_ids(
        &self,
        connection: &mut DB::Connection,
        ids: &[E::Id],
    ) -> Result<Returned<DB>, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let identified_by = Text::<DB>::identified_by(false);
        let has_arrays = self.has_arrays(identified_by);
        let most = rows_per_statement::<DB>(text.parameters_per_row(false));
        let mut selected = Returned::default();
        let mut rest = ids;
        while !rest.is_empty() {
            let (sql, arguments);
            if has_arrays {
                let bind =
                    |id: &E::Id, binder: &mut Binder<'_, DB>| (self.binding.bind_id)(id, binder);
                (_, arguments) = self.arrays(&mut rest, identified_by, bind)?;
                sql = text.select_arrays();
            } else {
                let (ids, behind) = rest.split_at(rest.len().min(most));
                rest = behind;
                let mut bound = DB::Arguments::default();
                for id in ids {
                    self.bind_id(id, &mut bound).map_err(sqlx::Error::Encode)?;
                }
                arguments = bound;
                sql = text.select_rows(ids.len());
            }
            let found = DB::fetch_all(connection, sql, arguments).await?;
            selected.sent.add(found.len() as u64);
            selected.rows.extend(found);
        }
        Ok(selected)
    }

    /// Reads rows by their ids, in any order, for a caller that has not written them. It may also return rows whose ids are
    /// equal for the database in another spelling.
    pub(crate) async fn select_many(
        &self,
        connection: &mut DB::Connection,
        ids: &[&E::Id],
    ) -> Result<Vec<E>, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut found = Vec::with_capacity(ids.len());
        let mut rest = ids;
        while !rest.is_empty() {
            let (sql, arguments);
            if self.has_arrays(Role::is_id) {
                let bind =
                    |id: &&E::Id, binder: &mut Binder<'_, DB>| (self.binding.bind_id)(id, binder);
                (_, arguments) = self.arrays(&mut rest, Role::is_id, bind)?;
                sql = text.select_any();
            } else {
                let most = match self.count(Role::is_id) {
                    1 => IDS_IN_LIST,
                    _ => IDS_IN_CONDITION,
                };
                let (ids, behind) = rest.split_at(rest.len().min(most));
                rest = behind;
                // Few sizes, so that few statements are prepared: the last id fills the places that are left.
                let size = ids.len().next_power_of_two();
                let last = ids.last().into_iter().cycle();
                let mut bound = DB::Arguments::default();
                for id in ids.iter().chain(last).take(size) {
                    (self.binding.bind_id)(id, &mut Binder::new(&mut bound, Role::is_id))
                        .map_err(sqlx::Error::Encode)?;
                }
                arguments = bound;
                sql = text.select_in(size);
            }
            for row in DB::fetch_all(connection, sql, arguments).await? {
                found.push(self.row(&row)?);
            }
        }
        Ok(found)
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
        found.iter().map(|row| self.row(row)).collect()
    }

    /// Takes the next rows that fit into one statement of parameters.
    async fn next_rows<'r, R: Borrow<E>>(
        &self,
        connection: &mut DB::Connection,
        rest: &mut &'r [R],
        most: usize,
        wanted: fn(Role) -> bool,
    ) -> Result<&'r [R], sqlx::Error> {
        let mut bytes = 0;
        let mut count = 0;
        for row in rest.iter().take(most) {
            let mut size = 0;
            (self.binding.bind)(row.borrow(), &mut Binder::size(&mut size, wanted))
                .map_err(sqlx::Error::Encode)?;
            if count > 0 && bytes + size > DB::DIALECT.most_bytes() {
                break;
            }
            bytes += size;
            count += 1;
        }
        check_size::<DB>(connection, "a row", bytes).await?;
        let (rows, behind) = rest.split_at(count);
        *rest = behind;
        Ok(rows)
    }

    /// Takes the next rows that fit into one statement of arrays. Returns their arrays.
    fn arrays_of_rows<'r, R: Borrow<E>>(
        &self,
        rest: &mut &'r [R],
        wanted: fn(Role) -> bool,
    ) -> Result<(&'r [R], DB::Arguments), sqlx::Error> {
        self.arrays(rest, wanted, |row, binder| {
            (self.binding.bind)(row.borrow(), binder)
        })
    }

    /// Takes the next items that fit into one statement, as one array per wanted column.
    pub(super) fn arrays<'i, T>(
        &self,
        rest: &mut &'i [T],
        wanted: fn(Role) -> bool,
        add: impl Fn(&T, &mut Binder<'_, DB>) -> Result<(), sqlx::error::BoxDynError>,
    ) -> Result<(&'i [T], DB::Arguments), sqlx::Error> {
        let columns = self.columns.iter().filter(|column| wanted(column.role));
        let mut arrays = vec![Array::default(); columns.clone().count()];
        let mut count = 0;
        for item in rest.iter().take(ROWS_AS_ARRAYS) {
            add(item, &mut Binder::arrays(&mut arrays, wanted)).map_err(sqlx::Error::Encode)?;
            count += 1;
            // The limit is far below the maximum of the database, so the last item may exceed it.
            let bytes: usize = arrays.iter().map(|array| array.bytes.len()).sum();
            if bytes >= DB::DIALECT.most_bytes() {
                break;
            }
        }
        let mut arguments = DB::Arguments::default();
        for (array, column) in arrays.into_iter().zip(columns) {
            DB::add_array(&mut arguments, array, &column.type_info).map_err(sqlx::Error::Encode)?;
        }
        let (items, behind) = rest.split_at(count);
        *rest = behind;
        Ok((items, arguments))
    }

    /// Returns whether all wanted columns can be sent as arrays.
    pub(super) fn has_arrays(&self, wanted: fn(Role) -> bool) -> bool {
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
