//! The three databases: their tables, triggers and locks, and how a connection says whose it is.

use std::{path::PathBuf, str::FromStr};

use crate::options::{self, Kin};
use sqlx::{
    AssertSqlSafe, MySql, Postgres, Sqlite,
    mysql::MySqlConnectOptions,
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::site::{Address, PATIENCE, Site};

/// The tables' names, each with the names of its parents' table if it has one.
fn tables() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let strategies = options::Strategy::ALL.iter();
    strategies.flat_map(|&strategy| {
        let parents = options::table(strategy, Kin::Parent);
        [
            (options::table(strategy, Kin::None), None),
            (parents, None),
            (options::table(strategy, Kin::Child), Some(parents)),
        ]
    })
}

fn table_names() -> impl Iterator<Item = &'static str> {
    tables().map(|(table, _)| table)
}

/// The tables, and a record whose number is made by the database.
fn plain_tables(number: &str, text: &str) -> Vec<String> {
    let mut all = vec![format!(
        "CREATE TABLE record (seq {number}, tab {text} NOT NULL, id BIGINT NOT NULL, value BIGINT, worker {text} NOT NULL)"
    )];
    all.extend(tables().map(|(table, parents)| {
        let reference = parents.map_or(String::new(), |parents| {
            format!(
                ", parent BIGINT NOT NULL, \
                 FOREIGN KEY (parent) REFERENCES {parents} (id) ON DELETE CASCADE"
            )
        });
        format!(
            "CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, value BIGINT NOT NULL, shelf BIGINT NOT NULL{reference})"
        )
    }));
    all
}

/// A trigger per table and event, for the databases that have no functions for them.
fn plain_triggers(all: &mut Vec<String>, worker: &str) {
    for table in table_names() {
        for (event, row, value) in [
            ("INSERT", "NEW", "NEW.value"),
            ("UPDATE", "NEW", "NEW.value"),
            ("DELETE", "OLD", "NULL"),
        ] {
            all.push(format!(
                "CREATE TRIGGER {table}_{event} AFTER {event} ON {table} FOR EACH ROW BEGIN \
                 INSERT INTO record (tab, id, value, worker) VALUES ('{table}', {row}.id, {value}, {worker}); END"
            ));
        }
    }
}

impl Site for Postgres {
    const KIND: options::Database = options::Database::Postgres;
    const TERMINATE: Option<&'static str> = Some(
        "SELECT CAST(pg_terminate_backend(pid) AS TEXT) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name <> 'harness'",
    );
    const OTHERS: Option<&'static str> = Some(
        "SELECT CAST(count(*) AS TEXT) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name <> 'harness' AND backend_type = 'client backend'",
    );
    const BEGIN: &'static str = "BEGIN";

    fn tables() -> Vec<String> {
        let mut all = plain_tables("BIGSERIAL PRIMARY KEY", "TEXT");
        all.push(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF TG_OP = 'DELETE' THEN INSERT INTO record (tab, id, worker) \
             VALUES (TG_TABLE_NAME, OLD.id, current_setting('application_name')); RETURN OLD; \
             ELSE INSERT INTO record (tab, id, value, worker) \
             VALUES (TG_TABLE_NAME, NEW.id, NEW.value, current_setting('application_name')); END IF; \
             RETURN NULL; END $$"
                .to_owned(),
        );
        for (table, parents) in tables() {
            // The rows that a foreign key deletes are recorded before their parent only by a trigger that runs before their delete.
            // They are locked by then.
            let (before, after) = match parents {
                Some(_) => (Some("BEFORE DELETE"), "AFTER INSERT OR UPDATE"),
                None => (None, "AFTER INSERT OR UPDATE OR DELETE"),
            };
            all.extend(before.into_iter().chain([after]).enumerate().map(|(number, when)| {
                format!(
                    "CREATE TRIGGER note{number} {when} ON {table} FOR EACH ROW EXECUTE FUNCTION note()"
                )
            }));
        }
        all
    }

    fn lock(table: &str, id: i64) -> String {
        format!("SELECT id FROM {table} WHERE id = {id} FOR UPDATE")
    }

    fn options(address: &Address, worker: &str) -> PgConnectOptions {
        let options = PgConnectOptions::from_str(&address.url).expect("the URL was used before");
        let options = match address.port {
            Some(port) => options.host("127.0.0.1").port(port),
            None => options,
        };
        options.database(&address.name).application_name(worker)
    }

    fn introduction(_: &str) -> Option<String> {
        None
    }

    async fn raw(connection: &mut Self::Connection, sql: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map(drop)
    }
}

impl Site for MySql {
    const KIND: options::Database = options::Database::Mysql;
    const TERMINATE: Option<&'static str> = Some(
        "SELECT CONCAT('KILL CONNECTION ', id) FROM information_schema.processlist \
         WHERE db = DATABASE() AND id <> CONNECTION_ID()",
    );
    const OTHERS: Option<&'static str> = Some(
        "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.processlist \
         WHERE db = DATABASE() AND id <> CONNECTION_ID()",
    );
    const BEGIN: &'static str = "BEGIN";

    fn tables() -> Vec<String> {
        let mut all = plain_tables("BIGINT AUTO_INCREMENT PRIMARY KEY", "VARCHAR(100)");
        plain_triggers(&mut all, "@worker");
        // No trigger hears of the rows that a foreign key deletes. The lock puts them in the order of the commits.
        for (children, parents) in tables().filter_map(|(table, parents)| Some((table, parents?))) {
            all.push(format!(
                "CREATE TRIGGER {children}_cascade BEFORE DELETE ON {parents} FOR EACH ROW BEGIN \
                 INSERT INTO record (tab, id, value, worker) \
                 SELECT '{children}', id, NULL, @worker FROM {children} WHERE parent = OLD.id FOR UPDATE; END"
            ));
        }
        all
    }

    fn lock(table: &str, id: i64) -> String {
        format!("SELECT id FROM {table} WHERE id = {id} FOR UPDATE")
    }

    fn options(address: &Address, _: &str) -> MySqlConnectOptions {
        let options = MySqlConnectOptions::from_str(&address.url).expect("the URL was used before");
        let options = match address.port {
            Some(port) => options.host("127.0.0.1").port(port),
            None => options,
        };
        options.database(&address.name)
    }

    fn introduction(worker: &str) -> Option<String> {
        Some(format!("SET @worker = '{worker}'"))
    }

    async fn raw(connection: &mut Self::Connection, sql: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map(drop)
    }
}

impl Site for Sqlite {
    const KIND: options::Database = options::Database::Sqlite;
    const TERMINATE: Option<&'static str> = None;
    const OTHERS: Option<&'static str> = None;
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn tables() -> Vec<String> {
        let mut all = plain_tables("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT");
        // Sessions have no variables; but there is only one worker at a time.
        all.push("CREATE TABLE present (worker TEXT NOT NULL)".to_owned());
        all.push("INSERT INTO present VALUES ('nobody')".to_owned());
        plain_triggers(&mut all, "(SELECT worker FROM present)");
        all
    }

    fn lock(table: &str, id: i64) -> String {
        format!("SELECT id FROM {table} WHERE id = {id}")
    }

    fn options(address: &Address, _: &str) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(PathBuf::from(&address.url))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Off)
            .busy_timeout(PATIENCE)
    }

    fn introduction(_: &str) -> Option<String> {
        None
    }

    async fn raw(connection: &mut Self::Connection, sql: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map(drop)
    }
}
