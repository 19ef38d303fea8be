//! Decides whether an error of the database is about a row: the database rejects the same row at every try.
//!
//! Such a row becomes a dead letter, and the flush continues with the others. Every other error is about the database: a
//! connection, a deadlock, a lock, a full disk, a missing table, column or permission. Then the queue waits, in its order,
//! until the cause has gone. A wrong migration, which makes the database reject every row, must not turn a whole queue into
//! dead letters. So an error counts as one about a row only if it is known to be one.
//!
//! Not here: what a flush does after an error (`apply`).

use sqlx::error::DatabaseError;

/// The columns that a program writes to a table.
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    expect(dead_code, reason = "MySQL does not tell which column was missing")
)]
pub(crate) struct WrittenColumns<'a> {
    /// The table, with or without its schema.
    pub(crate) table: &'a str,
    /// The names of the columns.
    pub(crate) columns: Vec<&'a str>,
}

/// Returns whether an error is about a row.
pub(crate) fn is_about_a_row(error: &sqlx::Error, given: &WrittenColumns<'_>) -> bool {
    match error {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(database_error) => refuses_a_row(&**database_error, given),
        _ => false,
    }
}

fn refuses_a_row(
    database_error: &(dyn DatabaseError + 'static),
    given: &WrittenColumns<'_>,
) -> bool {
    #[cfg(feature = "postgres")]
    if let Some(database_error) =
        database_error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
    {
        let lacks_column = database_error.code() == "23502"
            && given.omits(
                database_error.table().unwrap_or_default(),
                database_error.column().unwrap_or_default(),
            );
        return postgres(database_error.code()) && !lacks_column;
    }
    #[cfg(feature = "mysql")]
    if let Some(database_error) =
        database_error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
    {
        return mysql(
            database_error.number(),
            database_error.code().unwrap_or_default(),
        );
    }
    #[cfg(feature = "sqlite")]
    if let Some(database_error) = database_error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        let code = DatabaseError::code(database_error).unwrap_or_default();
        let lacks_column =
            code == "1299" && lacks_column_of_sqlite(database_error.message(), given);
        return code.parse().is_ok_and(sqlite) && !lacks_column;
    }
    let _ = (database_error, given);
    false
}

/// Returns whether another transaction interfered, so that the same statements may succeed at once: a deadlock, a conflict
/// between snapshots, or a timeout while waiting for a lock.
pub(crate) fn is_transient(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database_error) = error else {
        return false;
    };
    #[cfg(feature = "mysql")]
    if let Some(database_error) =
        database_error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
    {
        return matches!(database_error.number(), 1020 | 1205 | 1213);
    }
    #[cfg(feature = "sqlite")]
    if let Some(database_error) = database_error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        let code = DatabaseError::code(database_error).unwrap_or_default();
        // SQLITE_BUSY and SQLITE_LOCKED, with any extended code in the upper bytes.
        return code
            .parse::<u32>()
            .is_ok_and(|code| matches!(code & 0xFF, 5 | 6));
    }
    let code = database_error.code().unwrap_or_default();
    matches!(code.as_ref(), "40001" | "40P01" | "55P03")
}

impl WrittenColumns<'_> {
    /// Returns whether this is a column of the table that the program does not write. Then every row has `NULL` in it.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn omits(&self, table: &str, column: &str) -> bool {
        let own = self.table.rsplit('.').next().unwrap_or_default();
        let mut columns = self.columns.iter();
        own.eq_ignore_ascii_case(table) && !columns.any(|given| given.eq_ignore_ascii_case(column))
    }
}

/// SQLSTATE classes of the standard and of Postgres:
///
/// - 21: two rows of one statement have the same id, because the database treats their ids as equal
/// - 22: data that does not fit
/// - 23: a constraint
/// - 27: a trigger changed the row
/// - 44: the `CHECK OPTION` of a view
/// - 45: a class that users choose for errors of their own
/// - 54: a value that is too large
/// - P0001 and P0004: errors that a trigger raises
#[cfg(feature = "postgres")]
fn postgres(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    matches!(class, "21" | "22" | "23" | "27" | "44" | "45" | "54")
        || matches!(code, "P0001" | "P0004")
}

/// SQLSTATE classes of the standard, and numbers of MySQL and MariaDB that have no class:
///
/// - 1264, 1265, 1292, 1366, 1406, 1690: a value that does not fit
/// - 1118, 1153: a row or packet that is too large
/// - 1369: the `CHECK OPTION` of a view
/// - 1526: no partition for a value
/// - 1644: an error that a trigger raises
/// - 3819, and 4025 of MariaDB: a `CHECK`
///
/// A column without a default (1364) is not among them: it is missing in every row.
#[cfg(feature = "mysql")]
fn mysql(number: u16, code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    let has_number = matches!(
        number,
        1118 | 1153 | 1264 | 1265 | 1292 | 1366 | 1369 | 1406 | 1526 | 1644 | 1690 | 3819 | 4025
    );
    number != 1364 && (has_number || matches!(class, "22" | "23" | "44" | "45"))
}

/// A text or blob that is too large (18), a constraint or a trigger's `RAISE` (19), a type that does not fit (20).
#[cfg(feature = "sqlite")]
fn sqlite(extended: i32) -> bool {
    matches!(extended & 0xff, 18..=20)
}

/// As [`WrittenColumns::omits`], for the message of SQLite: `NOT NULL constraint failed: table.column`.
#[cfg(feature = "sqlite")]
fn lacks_column_of_sqlite(message: &str, given: &WrittenColumns<'_>) -> bool {
    let named = message.rsplit(": ").next().unwrap_or_default();
    named
        .split_once('.')
        .is_some_and(|(table, column)| given.omits(table, column))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: [&str; 2] = ["id", "name"];

    fn given() -> WrittenColumns<'static> {
        WrittenColumns {
            table: "app.items",
            columns: GIVEN.to_vec(),
        }
    }

    #[test]
    fn a_value_that_cannot_be_encoded_is_about_its_row() {
        let given = given();
        assert!(is_about_a_row(&sqlx::Error::Encode("no".into()), &given));
        assert!(!is_about_a_row(&sqlx::Error::PoolTimedOut, &given));
        assert!(!is_about_a_row(&sqlx::Error::RowNotFound, &given));
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn codes_of_postgres_about_a_row_are_recognized() {
        for code in [
            "21000", "22001", "22P02", "23505", "23514", "44000", "54000", "P0001", "45000",
        ] {
            assert!(postgres(code), "{code}");
        }
        for code in [
            "08006", "25006", "25P03", "40001", "40P01", "42501", "42703", "42804", "42P01",
            "53100", "55P03", "57014", "57P01", "P0002", "XX000", "",
        ] {
            assert!(!postgres(code), "{code}");
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn codes_of_mysql_about_a_row_are_recognized() {
        for (number, code) in [
            (1062, "23000"),
            (1048, "23000"),
            (1406, "22001"),
            (1366, "HY000"),
            (3819, "HY000"),
            (1644, "MY001"),
        ] {
            assert!(mysql(number, code), "{number}");
        }
        for (number, code) in [
            (1146, "42S02"),
            (1054, "42S22"),
            (1142, "42000"),
            (1205, "HY000"),
            (1213, "40001"),
            (1290, "HY000"),
            (1364, "HY000"),
            (1114, "HY000"),
        ] {
            assert!(!mysql(number, code), "{number}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn codes_of_sqlite_about_a_row_are_recognized() {
        for code in [18, 19, 20, 275, 1299, 1555, 1811, 2067] {
            assert!(sqlite(code), "{code}");
        }
        for code in [1, 5, 6, 8, 10, 13, 261, 517] {
            assert!(!sqlite(code), "{code}");
        }
    }

    /// A column that a migration has added is `NULL` in every row.
    #[cfg(feature = "sqlite")]
    #[test]
    fn a_column_that_the_struct_lacks_is_not_about_a_row() {
        let given = given();
        let says = |column: &str| format!("NOT NULL constraint failed: {column}");
        assert!(lacks_column_of_sqlite(&says("items.added"), &given));
        assert!(!lacks_column_of_sqlite(&says("items.Name"), &given));
        assert!(!lacks_column_of_sqlite(&says("audit.added"), &given));
    }
}
