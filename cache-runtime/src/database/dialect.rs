//! The differences in the SQL of the databases: names, parameters, exact comparison, the beginning and the deadline of
//! a transaction.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::protocol::token::Token;

/// The SQL dialect of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

/// How long the writes of several callers wait for each lock together, in milliseconds. Few writes hold one for as long.
pub(super) const LOCK_WAIT_MS: u32 = 20;

/// A statement.
pub(super) fn sql(text: String) -> SqlStr {
    // The text consists of quoted names from the struct's attributes, and contains no value.
    AssertSqlSafe(Arc::<str>::from(text)).into_sql_str()
}

/// Returns how long a commit may take that is announced with intents of this life. An intent that is older than a third of it is
/// renewed before the commit.
fn deadline_of(intent_ttl: Duration) -> Duration {
    intent_ttl * 3 / 5
}

impl Dialect {
    /// Returns the name of the system as OpenTelemetry has it (`db.system.name`).
    pub(crate) fn system_name(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::MySql => "mysql",
            Self::Sqlite => "sqlite",
        }
    }

    pub(crate) fn placeholder(self, number: usize) -> String {
        match self {
            Self::Postgres => format!("${number}"),
            // SQLite also has `?1`, but looks each of them up in a list of those before: a statement with n of them takes
            // n² steps to prepare.
            Self::MySql | Self::Sqlite => "?".to_owned(),
        }
    }

    /// Returns a quoted name.
    pub(crate) fn quote(self, name: &str) -> String {
        // SQLite treats a name in double quotes that is not a column as a text, and would return it.
        let quote = match self {
            Self::MySql | Self::Sqlite => '`',
            Self::Postgres => '"',
        };
        let doubled = name.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    }

    /// Returns the quoted name of a table. A dot separates the schema from the name. A query in parentheses is as it is.
    pub(crate) fn quote_table(self, table: &str) -> String {
        if table.starts_with('(') {
            return table.to_owned();
        }
        let parts: Vec<_> = table.split('.').map(|part| self.quote(part)).collect();
        parts.join(".")
    }

    /// Returns whether a write can return the row it wrote.
    pub(crate) const fn returns_rows(self) -> bool {
        !matches!(self, Self::MySql)
    }

    /// Returns whether a trigger or a rule can make the database skip a row without an error.
    pub(crate) const fn skips_rows(self) -> bool {
        !matches!(self, Self::MySql)
    }

    /// Returns whether an upsert of many rows can return the resulting rows. SQLite could, but without the changes of
    /// its triggers, which run after the statement. There, reading the rows again is as cheap.
    pub(crate) const fn returns_rows_of_upserts(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// Returns the maximum number of parameters of a statement.
    pub(crate) const fn most_parameters(self) -> usize {
        match self {
            Self::Postgres | Self::MySql => 65_535,
            Self::Sqlite => 32_766,
        }
    }

    /// Returns the maximum size of the values of several rows in one statement, in bytes. It is enough to make the cost
    /// of the statement small, and every server accepts it unless it is configured for less than 2 MiB. A single row
    /// may be larger.
    pub(crate) const fn most_bytes(self) -> usize {
        match self {
            // A message may have 1 GiB.
            Self::Postgres => 64 << 20,
            Self::MySql => 1_000_000,
            // Nothing is sent, and each value has a limit of its own.
            Self::Sqlite => usize::MAX,
        }
    }

    /// Returns the statement that asks a server for its maximum message size, if a row could exceed it.
    pub(crate) const fn largest_message(self) -> Option<SqlStr> {
        match self {
            Self::MySql => Some(SqlStr::from_static(
                "SELECT CAST(@@SESSION.max_allowed_packet AS SIGNED)",
            )),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// Returns whether a parameter of the statement can be used twice by its number.
    pub(super) const fn numbers_parameters(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// Returns whether two values of a type are equal only if they are written alike: a whole number, or a UUID. Texts may be equal
    /// in several spellings, and so may `1.0` and `1.00`.
    pub(crate) fn is_exact(type_name: &str) -> bool {
        const EXACT: [&str; 10] = [
            "INT",
            "INT2",
            "INT4",
            "INT8",
            "INTEGER",
            "BIGINT",
            "MEDIUMINT",
            "SMALLINT",
            "TINYINT",
            "UUID",
        ];
        let name = type_name.split([' ', '(']).next().unwrap_or_default();
        EXACT.iter().any(|exact| exact.eq_ignore_ascii_case(name))
    }

    /// Returns whether a type is text, so that a collation may treat different values as equal.
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

    /// Returns the byte-for-byte comparison of a text column with a parameter.
    pub(super) fn exactly(self, column: &str, parameter: &str) -> String {
        match self {
            Self::Postgres => format!("{column}::text = {parameter}::text COLLATE \"C\""),
            Self::MySql => format!(
                "CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST({parameter} AS BINARY)"
            ),
            Self::Sqlite => format!("{column} = {parameter} COLLATE BINARY"),
        }
    }

    /// Returns the condition that two values are the same, or both `NULL`. Texts are compared byte for byte.
    pub(super) fn is_same(self, column: &str, value: &str, is_text: bool) -> String {
        match (self, is_text) {
            (Self::Postgres, true) => format!(
                "{column}::text COLLATE \"C\" IS NOT DISTINCT FROM {value}::text COLLATE \"C\""
            ),
            (Self::Postgres, false) => format!("{column} IS NOT DISTINCT FROM {value}"),
            (Self::MySql, true) => format!(
                "CAST(CONVERT({column} USING utf8mb4) AS BINARY) <=> CAST({value} AS BINARY)"
            ),
            (Self::MySql, false) => format!("{column} <=> {value}"),
            (Self::Sqlite, true) => format!("{column} IS {value} COLLATE BINARY"),
            (Self::Sqlite, false) => format!("{column} IS {value}"),
        }
    }
}

/// The statements that limit how long a transaction may be idle, or its commit may run.
#[derive(Clone, Debug)]
pub(crate) struct DeadlineSql {
    /// Sets it on the connection.
    pub(crate) set: SqlStr,
    /// Resets it, if it would outlive the transaction.
    pub(crate) reset: Option<SqlStr>,
}

/// A savepoint at the beginning of a MySQL transaction. It disappears if the database rolls the transaction back by
/// itself.
const BEGUN: &str = "SAVEPOINT larder_begun";

impl Dialect {
    /// Returns whether writes that meet are executed together unless the entity says otherwise: where one statement does it, which
    /// `cargo xtask bench gather-writes` measures. Elsewhere each is a statement still, and nothing was measured.
    pub(crate) const fn gathers_writes(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// Returns the statements that begin a transaction for the writes of several callers, those that follow, and those that reset
    /// the session afterwards. The transaction waits for each lock no longer than the database can be told to, and the database ends
    /// it before an intent with this life expires ([`Dialect::deadline`]).
    pub(crate) fn begin_gathered(
        self,
        intent_ttl: Duration,
    ) -> (Option<SqlStr>, Option<SqlStr>, Option<SqlStr>) {
        match self {
            Self::Postgres => {
                let begin = format!("BEGIN; SET LOCAL lock_timeout = {LOCK_WAIT_MS}");
                (Some(sql(begin)), None, None)
            }
            // A lock is waited for no less than a second.
            Self::MySql => (
                None,
                Some(sql(format!(
                    "SET @larder_wait_timeout = @@SESSION.wait_timeout, \
                     @larder_lock_wait = @@SESSION.innodb_lock_wait_timeout, \
                     SESSION innodb_lock_wait_timeout = 1, SESSION wait_timeout = {}",
                    deadline_of(intent_ttl).as_secs().max(1)
                ))),
                Some(SqlStr::from_static(
                    "SET SESSION wait_timeout = @larder_wait_timeout, \
                     SESSION innodb_lock_wait_timeout = @larder_lock_wait",
                )),
            ),
            // Another one may have written since a transaction began to read.
            Self::Sqlite => (Some(SqlStr::from_static("BEGIN IMMEDIATE")), None, None),
        }
    }

    /// Returns the statements that begin a transaction, if not just `BEGIN`.
    pub(crate) const fn begin(self) -> Option<SqlStr> {
        match self {
            Self::MySql => Some(SqlStr::from_static("BEGIN; SAVEPOINT larder_begun")),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// Returns the statement to run after the user's own statement has begun a transaction.
    pub(crate) const fn begun(self) -> Option<SqlStr> {
        match self {
            Self::MySql => Some(SqlStr::from_static(BEGUN)),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    /// Returns the statements that make the database abort a commit before an intent with this life expires, in case
    /// the process stops or is cut off in between. Otherwise readers could cache the old row before a late commit. The
    /// statement fails if the transaction is no longer open.
    pub(crate) fn deadline(self, intent_ttl: Duration) -> Option<DeadlineSql> {
        let within = deadline_of(intent_ttl);
        match self {
            // Run deferred checks in a statement, because a commit has no time-out.
            Self::Postgres => Some(DeadlineSql {
                set: sql(format!(
                    "SET LOCAL idle_in_transaction_session_timeout = {0}; SET LOCAL statement_timeout = {0}; \
                     SET CONSTRAINTS ALL IMMEDIATE",
                    within.as_millis()
                )),
                reset: None,
            }),
            // This limits idle sessions only: there is no limit for the commit itself.
            Self::MySql => Some(DeadlineSql {
                set: sql(format!(
                    "RELEASE {BEGUN}; SET @larder_wait_timeout = @@SESSION.wait_timeout, SESSION wait_timeout = {}",
                    within.as_secs().max(1)
                )),
                reset: Some(SqlStr::from_static(
                    "SET SESSION wait_timeout = @larder_wait_timeout",
                )),
            }),
            // The database runs in this process, so no commit happens after a crash.
            Self::Sqlite => None,
        }
    }

    /// As [`Dialect::deadline`], for a transaction on a connection of the caller. On MySQL there is none: its session could not
    /// be reset if the commit is dropped half-way.
    pub(crate) fn deadline_elsewhere(self, intent_ttl: Duration) -> Option<DeadlineSql> {
        match self {
            Self::MySql => None,
            Self::Postgres | Self::Sqlite => self.deadline(intent_ttl),
        }
    }

    /// Returns the statements that mark a transaction with a savepoint, and take the mark away. The second fails in any other
    /// transaction, and in one that the database has rolled back.
    pub(crate) fn mark(self, token: Token) -> (SqlStr, SqlStr) {
        let name = format!("larder_{:032x}", u128::from_be_bytes(token.0));
        let set = match self {
            // Outside a transaction MySQL accepts a savepoint, and forgets it at once.
            Self::MySql => format!("SAVEPOINT {name}; ROLLBACK TO SAVEPOINT {name}"),
            Self::Postgres | Self::Sqlite => format!("SAVEPOINT {name}"),
        };
        (sql(set), sql(format!("RELEASE SAVEPOINT {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_and_uuids_have_one_spelling() {
        for exact in [
            "INT8",
            "bigint",
            "BIGINT UNSIGNED",
            "TINYINT(1)",
            "INTEGER",
            "UUID",
        ] {
            assert!(Dialect::is_exact(exact), "{exact}");
        }
        for other in [
            "TEXT",
            "INTERVAL",
            "POINT",
            "NUMERIC",
            "CHAR(36)",
            "TIMESTAMPTZ",
            "",
        ] {
            assert!(!Dialect::is_exact(other), "{other}");
        }
    }
}
