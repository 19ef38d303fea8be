//! What databases spell differently: names, parameters, exact comparison, the beginning and the deadline of a transaction.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// How a database spells its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

/// A statement.
pub(super) fn sql(text: String) -> SqlStr {
    // The text is made of quoted names out of the struct's attributes; no value of a user is in it.
    AssertSqlSafe(Arc::<str>::from(text)).into_sql_str()
}

impl Dialect {
    pub(crate) fn placeholder(self, number: usize) -> String {
        match self {
            Self::Postgres => format!("${number}"),
            Self::MySql => "?".to_owned(),
            Self::Sqlite => format!("?{number}"),
        }
    }

    /// A name as the dialect quotes it.
    pub(crate) fn quote(self, name: &str) -> String {
        // SQLite takes a name in double quotes that is no column for a text, and would answer with it.
        let quote = match self {
            Self::MySql | Self::Sqlite => '`',
            Self::Postgres => '"',
        };
        let doubled = name.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    }

    /// The name of a table as the dialect quotes it; a dot separates its schema from it.
    pub(crate) fn quote_table(self, table: &str) -> String {
        let parts: Vec<_> = table.split('.').map(|part| self.quote(part)).collect();
        parts.join(".")
    }

    /// Whether a write can return the row it wrote.
    pub(crate) const fn returns_rows(self) -> bool {
        !matches!(self, Self::MySql)
    }

    /// Whether an upsert of many rows can return them as it leaves them. SQLite could, but changes of its triggers, all of
    /// which come behind the statement, would be missing; there, reading the rows again is as cheap.
    pub(crate) const fn returns_rows_of_upserts(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// How many parameters a statement may have.
    pub(crate) const fn most_parameters(self) -> usize {
        match self {
            Self::Postgres | Self::MySql => 65_535,
            Self::Sqlite => 32_766,
        }
    }

    /// How many bytes the values of several rows may have in one statement: enough to make its own cost small, and less than
    /// any server takes that is not set up to take less than two mebibytes. A single row may have more.
    pub(crate) const fn most_bytes(self) -> usize {
        match self {
            // A message may have a gibibyte.
            Self::Postgres => 64 << 20,
            Self::MySql => 1_000_000,
            // Nothing is sent, and each value has a limit of its own.
            Self::Sqlite => usize::MAX,
        }
    }

    /// What asks a server how many bytes it takes in one message, where that is low enough to be met by a row.
    pub(crate) const fn largest_message(self) -> Option<SqlStr> {
        match self {
            Self::MySql => Some(SqlStr::from_static(
                "SELECT CAST(@@SESSION.max_allowed_packet AS SIGNED)",
            )),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// Whether a parameter of the statement can be used twice by its number.
    pub(super) const fn numbers_parameters(self) -> bool {
        !matches!(self, Self::MySql)
    }

    /// Whether values of a type have spellings that differ but that a collation may call equal.
    pub(crate) fn is_text(self, type_name: &str) -> bool {
        let name = type_name.trim_matches('"').to_ascii_uppercase();
        match self {
            Self::Postgres => matches!(
                name.as_str(),
                "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" | "CITEXT"
            ),
            Self::MySql => name.ends_with("CHAR") || name.ends_with("TEXT") || name == "ENUM",
            Self::Sqlite => name == "TEXT",
        }
    }

    /// The byte-for-byte comparison of a text column with a parameter.
    pub(super) fn exactly(self, column: &str, parameter: &str) -> String {
        match self {
            Self::Postgres => format!("{column}::text = {parameter}::text COLLATE \"C\""),
            Self::MySql => format!(
                "CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST({parameter} AS BINARY)"
            ),
            Self::Sqlite => format!("{column} = {parameter} COLLATE BINARY"),
        }
    }
}

/// A bound on how long a transaction may be idle, or its commit may run.
#[derive(Clone, Debug)]
pub(crate) struct DeadlineSql {
    /// Sets it on the connection.
    pub(crate) set: SqlStr,
    /// Takes it back, where it would outlive the transaction.
    pub(crate) reset: Option<SqlStr>,
}

/// Where a transaction of MySQL begins. It vanishes when the database rolls the transaction back by itself.
const BEGUN: &str = "SAVEPOINT larder_begun";

impl Dialect {
    /// What begins a transaction in place of `BEGIN`.
    pub(crate) const fn begin(self) -> Option<SqlStr> {
        match self {
            Self::MySql => Some(SqlStr::from_static("BEGIN; SAVEPOINT larder_begun")),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// What follows a beginning in the user's own words.
    pub(crate) const fn begun(self) -> Option<SqlStr> {
        match self {
            Self::MySql => Some(SqlStr::from_static(BEGUN)),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// Makes the database give up a commit before an intent of this life expires, should the process stop or be cut off
    /// between the two: a commit that comes later would find readers storing the old row. Fails if the transaction is no
    /// longer open.
    pub(crate) fn deadline(self, intent_ttl: Duration) -> Option<DeadlineSql> {
        // An intent that is as old as a third of its life is renewed before the commit.
        let within = intent_ttl * 3 / 5;
        match self {
            // What waits for the commit is done in a statement, because a commit has no time-out.
            Self::Postgres => Some(DeadlineSql {
                set: sql(format!(
                    "SET LOCAL idle_in_transaction_session_timeout = {0}; SET LOCAL statement_timeout = {0}; \
                     SET CONSTRAINTS ALL IMMEDIATE",
                    within.as_millis()
                )),
                reset: None,
            }),
            // Idle sessions only: there is no bound for the commit itself.
            Self::MySql => Some(DeadlineSql {
                set: sql(format!(
                    "RELEASE {BEGUN}; SET @larder_wait_timeout = @@SESSION.wait_timeout, SESSION wait_timeout = {}",
                    within.as_secs().max(1)
                )),
                reset: Some(SqlStr::from_static(
                    "SET SESSION wait_timeout = @larder_wait_timeout",
                )),
            }),
            // The database dies with the process, and nobody else commits for it.
            Self::Sqlite => None,
        }
    }
}
