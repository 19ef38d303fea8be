//! What does the program say to the database itself? The tables, the rows of airports, the edits past the cache of `--break`,
//! and the look at the positions in the end.
//!
//! All of sqlx's bounds are met here, once per database; the rest of the program knows `DB: Dialect` alone. Reads and
//! ordinary edits are not here: the repository makes them.

#[cfg(feature = "sqlite")]
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use indicatif::{ProgressBar, ProgressStyle};
use larder::Backend;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Database, Pool, pool::PoolOptions};

use crate::{airports::Airport, reports::Position};

/// How many rows one statement inserts.
// A row has fourteen values, and a statement to SQLite takes at most 32,766.
const CHUNK: usize = 1_000;
const CONNECTIONS: u32 = 16;

pub(crate) type ConnectOptions<DB> = <<DB as Database>::Connection as Connection>::Options;

/// A database that the program can fill.
pub(crate) trait Dialect: Backend {
    /// Makes the tables, in place of those that may be there.
    fn create(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Drops the tables.
    fn remove(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Inserts rows with one statement.
    fn insert(
        connection: &mut Self::Connection,
        airports: &[Airport],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Changes the columns that edits change.
    fn update(
        connection: &mut Self::Connection,
        airport: &Airport,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Deletes a row.
    fn delete(
        connection: &mut Self::Connection,
        id: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// All positions as the table has them.
    fn positions(
        pool: &Pool<Self>,
    ) -> impl Future<Output = Result<Vec<Position>, sqlx::Error>> + Send;

    /// Removes what larder has noted about the queues of this program; its tables stay.
    fn forget_queues(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// Inserts all airports in one transaction. Returns how many statements that took.
pub(crate) async fn load<DB: Dialect>(
    pool: &Pool<DB>,
    airports: &[Airport],
) -> Result<usize, sqlx::Error> {
    let style = ProgressStyle::with_template("load {bar:40} {pos}/{len}")
        .expect("the template is a constant");
    // Shown on a terminal only, and on stderr.
    let bar = ProgressBar::new(airports.len() as u64).with_style(style);
    let mut transaction = pool.begin().await?;
    let chunks = airports.chunks(CHUNK);
    let statements = chunks.len();
    for chunk in chunks {
        DB::insert(&mut transaction, chunk).await?;
        bar.inc(chunk.len() as u64);
    }
    transaction.commit().await?;
    bar.finish_and_clear();
    Ok(statements)
}

/// A pool that counts how often a connection is taken out of it, by hooks of sqlx's own.
pub(crate) fn counting_pool<DB: Dialect>(
    options: ConnectOptions<DB>,
) -> (Pool<DB>, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    let (idle, new) = (Arc::clone(&taken), Arc::clone(&taken));
    let pool = PoolOptions::new()
        .max_connections(CONNECTIONS)
        .before_acquire(move |_, _| {
            idle.fetch_add(1, Relaxed);
            Box::pin(async { Ok(true) })
        })
        // With no minimum of connections, one is opened only for a caller that takes it.
        .after_connect(move |_, _| {
            new.fetch_add(1, Relaxed);
            Box::pin(async { Ok(()) })
        })
        .connect_lazy_with(options);
    (pool, taken)
}

/// A database in a new file that nothing else will open. Syncing it is left out: it does not outlive the program.
#[cfg(feature = "sqlite")]
pub(crate) fn temporary_file(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Off)
}

macro_rules! dialect {
    ($feature:literal, $database:ident, $table_options:literal) => {
        #[cfg(feature = $feature)]
        impl Dialect for sqlx::$database {
            async fn create(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                Self::remove(pool).await?;
                sqlx::query(concat!(
                    "CREATE TABLE larder_departures_airports (
                        id BIGINT NOT NULL PRIMARY KEY,
                        iata VARCHAR(3),
                        icao VARCHAR(4),
                        name VARCHAR(200) NOT NULL,
                        country VARCHAR(2) NOT NULL,
                        time_zone VARCHAR(64) NOT NULL,
                        kind VARCHAR(32) NOT NULL,
                        scheduled BOOLEAN NOT NULL,
                        latitude DOUBLE PRECISION NOT NULL,
                        longitude DOUBLE PRECISION NOT NULL,
                        elevation_ft BIGINT,
                        runway_ft BIGINT,
                        status VARCHAR(16) NOT NULL,
                        revision BIGINT NOT NULL
                    )",
                    $table_options
                ))
                .execute(pool)
                .await?;
                sqlx::query(concat!(
                    "CREATE TABLE larder_departures_positions (
                        aircraft BIGINT NOT NULL PRIMARY KEY,
                        latitude DOUBLE PRECISION NOT NULL,
                        longitude DOUBLE PRECISION NOT NULL,
                        reports BIGINT NOT NULL
                    )",
                    $table_options
                ))
                .execute(pool)
                .await?;
                Ok(())
            }

            async fn remove(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                sqlx::query("DROP TABLE IF EXISTS larder_departures_airports")
                    .execute(pool)
                    .await?;
                sqlx::query("DROP TABLE IF EXISTS larder_departures_positions")
                    .execute(pool)
                    .await?;
                Ok(())
            }

            async fn insert(
                connection: &mut Self::Connection,
                airports: &[Airport],
            ) -> Result<(), sqlx::Error> {
                let mut insert = sqlx::QueryBuilder::<Self>::new(
                    "INSERT INTO larder_departures_airports (id, iata, icao, name, country, time_zone, kind, scheduled, \
                     latitude, longitude, elevation_ft, runway_ft, status, revision) ",
                );
                insert.push_values(airports, |mut row, airport| {
                    row.push_bind(airport.id)
                        .push_bind(airport.iata.as_deref())
                        .push_bind(airport.icao.as_deref())
                        .push_bind(airport.name.as_str())
                        .push_bind(airport.country.as_str())
                        .push_bind(airport.time_zone.as_str())
                        .push_bind(airport.kind.as_str())
                        .push_bind(airport.scheduled)
                        .push_bind(airport.latitude)
                        .push_bind(airport.longitude)
                        .push_bind(airport.elevation_ft)
                        .push_bind(airport.runway_ft)
                        .push_bind(airport.status.as_str())
                        .push_bind(airport.revision);
                });
                insert.build().execute(connection).await?;
                Ok(())
            }

            async fn update(
                connection: &mut Self::Connection,
                airport: &Airport,
            ) -> Result<(), sqlx::Error> {
                let mut update = sqlx::QueryBuilder::<Self>::new(
                    "UPDATE larder_departures_airports SET status = ",
                );
                update
                    .push_bind(airport.status.as_str())
                    .push(", revision = ")
                    .push_bind(airport.revision)
                    .push(" WHERE id = ")
                    .push_bind(airport.id);
                update.build().execute(connection).await?;
                Ok(())
            }

            async fn delete(
                connection: &mut Self::Connection,
                id: i64,
            ) -> Result<(), sqlx::Error> {
                let mut delete = sqlx::QueryBuilder::<Self>::new(
                    "DELETE FROM larder_departures_airports WHERE id = ",
                );
                delete.push_bind(id).build().execute(connection).await?;
                Ok(())
            }

            async fn positions(pool: &Pool<Self>) -> Result<Vec<Position>, sqlx::Error> {
                sqlx::query_as("SELECT aircraft, latitude, longitude, reports FROM larder_departures_positions")
                    .fetch_all(pool)
                    .await
            }

            async fn forget_queues(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                sqlx::query("DELETE FROM larder_offsets WHERE queue LIKE 'departures-%:Position/%'")
                    .execute(pool)
                    .await?;
                Ok(())
            }
        }
    };
}

dialect!("postgres", Postgres, "");
dialect!("mysql", MySql, " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
dialect!("sqlite", Sqlite, "");
