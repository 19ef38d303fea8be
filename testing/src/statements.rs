//! Which statements on rows reached a database, for tests that claim how many did.
//! A cache that asks the database twice still returns the right row; only counting shows it.
//! 1. For PostgreSQL and MariaDB a proxy reads the statements off the wire, see [`crate::wire`].
//! 2. SQLite has no wire: sqlx reports each statement as a `tracing` event on the worker thread of
//!    its connection, and the name of that thread says whose pool it belongs to.
//!
//! Invariant: only statements that read or write rows count: no transaction control, no settings,
//! no schema changes, no pings, no questions about the catalogue.
//! Invariant: on PostgreSQL and MariaDB a statement is counted before it reaches the server, whoever
//! sent it, in whichever process; on SQLite before its caller sees the end of the result, and only
//! in this process.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tracing::Event;
use tracing::field::{Field, Visit};

/// The statements one database has seen; clones share it.
#[derive(Debug, Clone, Default)]
pub struct StatementLog(Arc<Mutex<Vec<String>>>);

impl StatementLog {
    /// How many there were so far.
    pub fn count(&self) -> u64 {
        u64::try_from(self.lock().len()).expect("a count of statements fits")
    }

    /// How many named this table.
    pub fn count_on(&self, table: &str) -> u64 {
        let matches = self.lock().iter().filter(|sql| names(sql, table)).count();
        u64::try_from(matches).expect("a count of statements fits")
    }

    /// Their texts, oldest first.
    pub fn texts(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// Notes a statement, if it is one that counts.
    pub fn record(&self, sql: &str) {
        if touches_rows(sql) {
            self.lock().push(sql.to_owned());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a statement reads or writes rows of somebody's table.
fn touches_rows(sql: &str) -> bool {
    let word: String = after_comments(sql)
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect();
    let rows = [
        "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "MERGE",
    ];
    let catalogues = [
        "pg_catalog",
        "information_schema",
        "sqlite_master",
        "sqlite_schema",
        "pragma_",
        // What larder asks a database about itself.
        "larder_database",
    ];
    let sql = sql.to_ascii_lowercase();
    rows.iter().any(|row| word.eq_ignore_ascii_case(row))
        && !catalogues.iter().any(|catalogue| sql.contains(catalogue))
}

/// The statement without what may stand in front of its first word.
fn after_comments(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        let end = if rest.starts_with("/*") {
            rest.find("*/").map(|at| at + 2)
        } else if rest.starts_with("--") {
            rest.find('\n')
        } else {
            return rest;
        };
        rest = end.map_or("", |end| &rest[end..]);
    }
}

/// Whether the name occurs as a whole word.
fn names(sql: &str, table: &str) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == table)
}

/// Logs the statements of a SQLite pool whose connections run on threads of a certain name.
#[derive(Debug)]
pub struct SqliteObserver {
    thread: String,
}

impl SqliteObserver {
    /// Observes worker threads of exactly this name.
    ///
    /// # Panics
    ///
    /// When a global `tracing` subscriber is set that is not ours: it would get the events instead.
    /// Tests that look at events use `tracing::subscriber::with_default`, which is local to a thread.
    pub fn start(thread: String, log: StatementLog) -> Self {
        let observed = observed();
        observed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(thread.clone(), log);
        Self { thread }
    }
}

impl Drop for SqliteObserver {
    fn drop(&mut self) {
        observed()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.thread);
    }
}

/// The observed threads.
fn observed() -> &'static Mutex<HashMap<String, StatementLog>> {
    static OBSERVED: LazyLock<Mutex<HashMap<String, StatementLog>>> = LazyLock::new(Mutex::default);
    crate::log::listen();
    &OBSERVED
}

/// Files a statement that sqlx reports by the name of the thread.
pub(crate) fn heard(event: &Event<'_>) {
    let current = std::thread::current();
    let Some(thread) = current.name() else { return };
    let observed = observed().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(log) = observed.get(thread) {
        let mut text = Text::default();
        event.record(&mut text);
        log.record(text.sql());
    }
}

/// The text of a statement, which sqlx puts in one of two fields, depending on its length.
#[derive(Default)]
struct Text {
    summary: String,
    statement: String,
}

impl Text {
    fn sql(&self) -> &str {
        let statement = self.statement.trim();
        if statement.is_empty() {
            &self.summary
        } else {
            statement
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_on_rows_count() {
        let log = StatementLog::default();
        for sql in [
            "BEGIN",
            "COMMIT",
            "SAVEPOINT _sqlx_savepoint_1",
            "SET NAMES utf8mb4",
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE users (id BIGINT)",
            "SELECT typname FROM pg_catalog.pg_type",
            "",
            "-- nothing",
        ] {
            log.record(sql);
        }
        assert_eq!(log.texts(), [""; 0]);
        for sql in [
            "SELECT 1",
            "select id from users",
            "/* why */ -- how\n (SELECT id FROM users)",
            "INSERT INTO users VALUES (1)",
            "WITH x AS (SELECT 1) SELECT * FROM x",
        ] {
            log.record(sql);
        }
        assert_eq!(log.count(), 5);
    }

    #[test]
    fn table_is_matched_as_a_word() {
        let log = StatementLog::default();
        log.record("SELECT id FROM \"users\" WHERE id = 1");
        log.record("SELECT id FROM users_archive");
        assert_eq!(log.count_on("users"), 1);
    }
}
