//! The id that larder gives a database, which identifies it wherever it moves: one row in a table of its own.
//!
//! Not here: what the id is compared with (`binding`).

use sqlx::Pool;

use crate::{
    database::{self, backend::Backend, dialect::Dialect},
    error::Error,
};

/// Returns the statement that creates the table with the id of the database (`larder_database`), for a migration.
///
/// The table has one row, which [`database_id_sql`] inserts. The id distinguishes a database from others that use the
/// same namespace, and from an earlier database at the same address: see `docs/namespaces.md`.
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

/// Returns the statement that inserts a random id of the database unless there is one, for a migration.
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

/// Gives the database an id, unless it has one. Any number of processes may call it at the same time. They agree on one
/// id.
///
/// `install` of a write-behind repository does the same. Without an id, larder identifies a database by its address and
/// its server.
///
/// # Errors
///
/// Errors of the database, for example if its user may not create tables.
///
/// # Cancel safety
///
/// If the future is dropped before it ends, the table may exist without the id. Call it again.
pub async fn install<DB: Backend>(pool: &Pool<DB>) -> Result<(), Error> {
    let texts = vec![database_sql::<DB>(), database_id_sql::<DB>()];
    database::create(pool, texts).await.map_err(|error| {
        let what = "the table with the id of the database";
        database::describe("create", what, error, database::WriteOutcome::Nothing)
    })
}
