//! The two tables of write-behind in the database of the rows: the position of each queue, and the dead letters.
//!
//! They are in the same database as the rows because they change with them, in one transaction. Elsewhere, a crash
//! between two commits would skip or repeat writes.
//!
//! 1. A migration creates them ([`offsets_sql`], [`dead_letters_sql`]), or [`install`] does.
//! 2. Statements on them are written once for all databases, with `?` for a parameter (`ask`).
//!
//! Invariant: the tables hold integers, texts and bytes, none of them `NULL`, so that all databases read them alike.
//! Invariant: names of queues are compared byte for byte.
//! Not here: what the statements are (`offsets`, `letters`).

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr};

use crate::{
    database::{self, WriteOutcome, backend::Backend, database_id, dialect::Dialect},
    detached,
    error::{Error, ErrorKind},
};

/// Returns the statement that creates the table of positions (`larder_offsets`), for a migration.
///
/// The table has a row for each incarnation of each partition of a queue. While a queue is in use, only larder may
/// write to the table.
///
/// ```
/// # use larder_runtime::schema::offsets_sql;
/// println!("{};", offsets_sql::<sqlx::Sqlite>());
/// ```
#[must_use]
pub const fn offsets_sql<DB: Backend>() -> &'static str {
    match DB::DIALECT {
        Dialect::Postgres | Dialect::Sqlite => {
            "CREATE TABLE IF NOT EXISTS larder_offsets (
    queue VARCHAR(190) NOT NULL,
    partition_no BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    nonce VARCHAR(16) NOT NULL,
    position BIGINT NOT NULL,
    closed BIGINT NOT NULL,
    lost BIGINT NOT NULL,
    lost_counted_to BIGINT NOT NULL,
    PRIMARY KEY (queue, partition_no, epoch)
)"
        }
        // In InnoDB's older row formats, an index holds at most 767 bytes of a column, which are 190 characters.
        Dialect::MySql => {
            "CREATE TABLE IF NOT EXISTS larder_offsets (
    queue VARCHAR(190) NOT NULL,
    partition_no BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    nonce VARCHAR(16) NOT NULL,
    position BIGINT NOT NULL,
    closed BIGINT NOT NULL,
    lost BIGINT NOT NULL,
    lost_counted_to BIGINT NOT NULL,
    PRIMARY KEY (queue, partition_no, epoch)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        }
    }
}

/// Returns the statement that creates the table of dead letters (`larder_dead_letters`), for a migration.
///
/// The table has a row for each write that the database rejected permanently, with the error.
///
/// ```
/// # use larder_runtime::schema::dead_letters_sql;
/// println!("{};", dead_letters_sql::<sqlx::Sqlite>());
/// ```
#[must_use]
pub const fn dead_letters_sql<DB: Backend>() -> &'static str {
    match DB::DIALECT {
        Dialect::Postgres => {
            "CREATE TABLE IF NOT EXISTS larder_dead_letters (
    queue VARCHAR(190) NOT NULL,
    partition_no BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    number BIGINT NOT NULL,
    row_key TEXT NOT NULL,
    operation VARCHAR(8) NOT NULL,
    codec BIGINT NOT NULL,
    schema_hash BIGINT NOT NULL,
    payload BYTEA NOT NULL,
    error TEXT NOT NULL,
    failed_at BIGINT NOT NULL,
    found VARCHAR(64) NOT NULL DEFAULT '',
    PRIMARY KEY (queue, partition_no, epoch, number)
)"
        }
        Dialect::MySql => {
            "CREATE TABLE IF NOT EXISTS larder_dead_letters (
    queue VARCHAR(190) NOT NULL,
    partition_no BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    number BIGINT NOT NULL,
    row_key TEXT NOT NULL,
    operation VARCHAR(8) NOT NULL,
    codec BIGINT NOT NULL,
    schema_hash BIGINT NOT NULL,
    payload LONGBLOB NOT NULL,
    error TEXT NOT NULL,
    failed_at BIGINT NOT NULL,
    found VARCHAR(64) NOT NULL DEFAULT '',
    PRIMARY KEY (queue, partition_no, epoch, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        }
        Dialect::Sqlite => {
            "CREATE TABLE IF NOT EXISTS larder_dead_letters (
    queue VARCHAR(190) NOT NULL,
    partition_no BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    number BIGINT NOT NULL,
    row_key TEXT NOT NULL,
    operation VARCHAR(8) NOT NULL,
    codec BIGINT NOT NULL,
    schema_hash BIGINT NOT NULL,
    payload BLOB NOT NULL,
    error TEXT NOT NULL,
    failed_at BIGINT NOT NULL,
    found VARCHAR(64) NOT NULL DEFAULT '',
    PRIMARY KEY (queue, partition_no, epoch, number)
)"
        }
    }
}

/// The maximum length of the name of a queue, in characters.
const MAX_NAME: usize = 190;

/// Fails if the name of an entity's queue does not fit the tables.
pub(crate) fn check_name(entity: &str, queue: &str) -> Result<(), Error> {
    let length = queue.chars().count();
    if length <= MAX_NAME {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Configuration,
        format!(
            "failed to create the queue of {entity}: its name {queue} has {length} characters, and the tables of write-behind \
             allow {MAX_NAME}; choose a shorter `namespace`"
        ),
    ))
}

/// Creates the tables that do not exist. Any number of processes may call it at the same time.
///
/// # Errors
///
/// Errors of the database, for example if its user may not create tables.
pub async fn install<DB: Backend>(pool: &Pool<DB>) -> Result<(), Error> {
    database_id::install(pool).await?;
    let texts = vec![offsets_sql::<DB>(), dead_letters_sql::<DB>()];
    database::create(pool, texts)
        .await
        .map_err(|error| describe::<DB>("create", "the tables of write-behind", error))
}

/// A value for a statement on these tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Integer(u64),
    Bytes(&'a [u8]),
}

/// Returns a statement with the placeholders of the database, and its arguments. The text has a `?` for each value, and
/// none elsewhere.
pub(crate) fn ask<DB: Backend>(
    text: &str,
    values: &[Value<'_>],
) -> Result<(SqlStr, DB::Arguments), sqlx::Error> {
    let mut arguments = DB::Arguments::default();
    let mut pieces = text.split('?');
    let mut spelled = pieces.next().unwrap_or_default().to_owned();
    for (at, (value, piece)) in values.iter().zip(pieces).enumerate() {
        spelled += &DB::DIALECT.placeholder(at + 1);
        spelled += piece;
        let added = match value {
            Value::Text(text) => DB::add_text(&mut arguments, Some(text)),
            Value::Integer(integer) => DB::add_integer(&mut arguments, saturated(*integer)),
            Value::Bytes(bytes) => DB::add_bytes(&mut arguments, bytes),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    // Made of the constants of this module's siblings; values are bound.
    Ok((AssertSqlSafe(spelled).into_sql_str(), arguments))
}

/// Runs a statement that returns no rows on a connection of the pool. Returns how many rows it matched.
pub(crate) async fn execute<DB: Backend>(
    pool: &Pool<DB>,
    text: &str,
    values: &[Value<'_>],
) -> Result<u64, sqlx::Error> {
    let (sql, arguments) = ask::<DB>(text, values)?;
    let pool = pool.clone();
    detached::query(async move {
        let mut connection = DB::acquire(&pool).await?;
        Ok(DB::execute(&mut connection, sql, arguments).await?.rows)
    })
    .await
}

/// As [`execute`], inside a transaction.
pub(crate) async fn execute_within<DB: Backend>(
    connection: &mut DB::Connection,
    text: &str,
    values: &[Value<'_>],
) -> Result<u64, sqlx::Error> {
    let (sql, arguments) = ask::<DB>(text, values)?;
    Ok(DB::execute(connection, sql, arguments).await?.rows)
}

/// Runs a statement on a connection of the pool and returns its rows.
pub(crate) async fn fetch<DB: Backend>(
    pool: &Pool<DB>,
    text: &str,
    values: &[Value<'_>],
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let (sql, arguments) = ask::<DB>(text, values)?;
    let pool = pool.clone();
    detached::query(async move {
        let mut connection = DB::acquire(&pool).await?;
        DB::fetch_all(&mut connection, sql, arguments).await
    })
    .await
}

/// Reads a number that larder has written.
pub(crate) fn number<DB: Backend>(row: &DB::Row, index: usize) -> Result<u64, sqlx::Error> {
    let integer = DB::integer(row, index)?;
    u64::try_from(integer).map_err(|negative| sqlx::Error::ColumnDecode {
        index: index.to_string(),
        source: negative.into(),
    })
}

/// Reads a text that larder has written.
pub(crate) fn text<DB: Backend>(row: &DB::Row, index: usize) -> Result<String, sqlx::Error> {
    DB::text(row, index).map(Option::unwrap_or_default)
}

/// Returns the number as a database can store it. No number of larder gets as large as the maximum.
fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the error of larder for an error of a statement on these tables.
pub(crate) fn describe<DB: Backend>(verb: &str, what: &str, error: sqlx::Error) -> Error {
    if is_missing_table(&error) {
        return Error::with_source(
            ErrorKind::Configuration,
            format!(
                "failed to {verb} {what}: this {} database does not have the tables of write-behind; call `install()` once, or \
                 put `larder::schema::offsets_sql` and `larder::schema::dead_letters_sql` into a migration",
                DB::NAME
            ),
            error,
        );
    }
    if is_missing_column(&error) {
        return Error::with_source(
            ErrorKind::Configuration,
            format!(
                "failed to {verb} {what}: the table larder_dead_letters was created by an earlier version of larder; run \
                 `{ADD_FOUND}`"
            ),
            error,
        );
    }
    // Such a statement contains no write of the application, and may be sent again.
    database::describe(verb, what, error, WriteOutcome::Nothing)
}

/// The statement that adds this column to a table of dead letters that was created without it.
const ADD_FOUND: &str =
    "ALTER TABLE larder_dead_letters ADD COLUMN found VARCHAR(64) NOT NULL DEFAULT ''";

/// Returns whether a statement failed because the table of dead letters does not have the column `found`.
pub(crate) fn is_missing_column(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(refusal) = error else {
        return false;
    };
    let code = refusal.code().unwrap_or_default();
    let message = refusal.message();
    // SQLite has one code for all mistakes in a statement. A table of the application may lack a column of this name
    // too.
    (matches!(code.as_ref(), "42703" | "42S22") && message.contains("found"))
        || (code == "1"
            && (message == "table larder_dead_letters has no column named found"
                || message == "no such column: found"))
}

/// Returns whether a statement failed because a table does not exist.
fn is_missing_table(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(refusal) = error else {
        return false;
    };
    let code = refusal.code().unwrap_or_default();
    // SQLite has one code for all mistakes in a statement.
    matches!(code.as_ref(), "42P01" | "42S02")
        || (code == "1" && refusal.message().starts_with("no such table: larder_"))
}

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_spelled_as_the_database_does() {
        let values = [Value::Integer(1), Value::Text("a")];
        let (sql, _) = ask::<sqlx::Postgres>("UPDATE t SET a = ? WHERE b = ?", &values).unwrap();
        assert_eq!(sql.as_str(), "UPDATE t SET a = $1 WHERE b = $2");
        let (sql, _) = ask::<sqlx::Sqlite>("SELECT ?, ? FROM t", &values).unwrap();
        assert_eq!(sql.as_str(), "SELECT ?, ? FROM t");
    }
}
