//! The id that larder gives a database, by which it is known wherever it moves: one row in a table of its own.
//!
//! Not here: what the id is compared with (`binding`).

use sqlx::Pool;

use crate::{
    database::{self, backend::Backend, dialect::Dialect},
    error::Error,
};

/// The statement that creates the table with the id of the database, for a migration.
///
/// It has one row, which [`database_id_sql`] puts there. By it larder tells a database from others that use the same
/// namespace, and from its former self: see `docs/namespaces.md`.
///
/// ```
/// # use larder_runtime::schema::{database_id_sql, database_sql};
/// println!("{};\n{};", database_sql::<sqlx::Sqlite>(), database_id_sql::<sqlx::Sqlite>());
/// ```
#[must_use]
pub const fn database_sql<DB: Backend>() -> &'static str {
    match DB::DIALECT {
        Dialect::Postgres | Dialect::Sqlite => {
            "CREATE TABLE IF NOT EXISTS larder_database (
    one BIGINT NOT NULL PRIMARY KEY,
    id VARCHAR(36) NOT NULL
)"
        }
        Dialect::MySql => {
            "CREATE TABLE IF NOT EXISTS larder_database (
    one BIGINT NOT NULL PRIMARY KEY,
    id VARCHAR(36) NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        }
    }
}

/// The statement that draws the id of the database, for a migration: a random one, unless there is one.
#[must_use]
pub const fn database_id_sql<DB: Backend>() -> &'static str {
    match DB::DIALECT {
        Dialect::Postgres => {
            "INSERT INTO larder_database (one, id) VALUES (1, md5(random()::text || clock_timestamp()::text \
             || pg_backend_pid()::text || txid_current()::text)) ON CONFLICT (one) DO NOTHING"
        }
        Dialect::MySql => "INSERT IGNORE INTO larder_database (one, id) VALUES (1, UUID())",
        Dialect::Sqlite => {
            "INSERT OR IGNORE INTO larder_database (one, id) VALUES (1, lower(hex(randomblob(16))))"
        }
    }
}

/// Gives the database an id, unless it has one. Any number of processes may do so at once; they agree on one.
///
/// `install` of a write-behind repository does it as well. Without an id, a database is known by its address and its server.
///
/// # Errors
///
/// Errors of the database, also where its user may not create tables.
///
/// # Cancel safety
///
/// Dropping the future may leave the table without the id; call it again.
pub async fn install<DB: Backend>(pool: &Pool<DB>) -> Result<(), Error> {
    let texts = vec![database_sql::<DB>(), database_id_sql::<DB>()];
    database::create(pool, texts).await.map_err(|error| {
        let what = "the table with the id of the database";
        database::describe("create", what, error, database::Fate::Nothing)
    })
}
