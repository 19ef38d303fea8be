//! The rows that everything is measured on: ten columns, about 320 bytes as JSON.

use chrono::{DateTime, Utc};
use hitbox_fn::CacheableResponse;
use larder::Cached;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::Failure;

/// How many rows the table has, where nothing else is said.
pub(crate) const ROWS: u64 = 10_000;
/// The schema that the benchmarks drop and create.
const SCHEMA: &str = "larder_benches";

/// The state of a flight, a text column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub(crate) enum Status {
    Scheduled,
    Boarding,
    Departed,
    Cancelled,
}

impl Status {
    /// As the column holds it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Boarding => "boarding",
            Self::Departed => "departed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Entities of the same columns: over the table in all strategies, and over a view whose rows take long to read.
macro_rules! flights {
    ($($(#[$attribute:meta])* $name:ident;)*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
            $(#[$attribute])*
            pub(crate) struct $name {
                #[cached(id)]
                pub(crate) id: i64,
                pub(crate) number: String,
                pub(crate) airline: String,
                pub(crate) origin: String,
                pub(crate) destination: String,
                pub(crate) status: Status,
                pub(crate) departs_at: DateTime<Utc>,
                pub(crate) gate: Option<String>,
                pub(crate) seats_left: i64,
                pub(crate) remarks: String,
            }
        )*
    };
}

flights! {
    /// A flight.
    #[derive(CacheableResponse)]
    #[cached(table = "larder_benches.flights", ttl = "1h")]
    Flight;

    /// A flight that is cached for so short a time that it has to be loaded.
    #[cached(table = "larder_benches.flights", name = "Cold", ttl = "1ms", jitter = 0)]
    ColdFlight;

    /// A flight with tags.
    #[cached(
        table = "larder_benches.flights",
        ttl = "1h",
        tags("flights", "origin:{origin}")
    )]
    TaggedFlight;

    /// A flight whose row is stored when it is written.
    #[cached(table = "larder_benches.flights", strategy = "write_through", ttl = "1h")]
    ThroughFlight;

    /// A flight whose writes are executed one by one.
    #[cached(table = "larder_benches.flights", ttl = "1h", gather_writes = false)]
    SingleFlight;

    /// A flight whose load takes 50 ms; its readers wait for each other as long as a connection may take to be made.
    #[cached(table = "larder_benches.slow_flights", ttl = "1h", lease(wait = "1s"))]
    SlowFlight;

    /// A flight in a queue that nobody flushes, as large as it may become, and that a crash may shorten.
    #[cached(
        table = "larder_benches.flights",
        ttl = "1h",
        strategy = "write_behind",
        durability = "memory",
        max_pending = 1000000000
    )]
    MemoryFlight;

    /// The same in a queue that is on disk.
    #[cached(
        table = "larder_benches.flights",
        ttl = "1h",
        strategy = "write_behind",
        durability = "fsync",
        max_pending = 1000000000
    )]
    FsyncFlight;

    /// The same in a queue of this process that is in a journal.
    #[cached(
        table = "larder_benches.flights",
        ttl = "1h",
        strategy = "write_behind",
        journal = "larder-benches.journal",
        max_pending = 1000000000
    )]
    JournaledFlight;

    /// A flight in one queue, flushed a thousand at a time.
    #[cached(
        table = "larder_benches.flights",
        ttl = "1h",
        strategy = "write_behind",
        durability = "memory",
        partitions = 1,
        batch = 1000
    )]
    OneQueueFlight;

    /// A flight in queues with the default options.
    #[cached(
        table = "larder_benches.flights",
        ttl = "1h",
        strategy = "write_behind",
        durability = "memory"
    )]
    QueuedFlight;
}

/// The same row as another entity.
macro_rules! from_flight {
    ($($name:ident),*) => {
        $(
            impl From<Flight> for $name {
                fn from(row: Flight) -> Self {
                    Self {
                        id: row.id,
                        number: row.number,
                        airline: row.airline,
                        origin: row.origin,
                        destination: row.destination,
                        status: row.status,
                        departs_at: row.departs_at,
                        gate: row.gate,
                        seats_left: row.seats_left,
                        remarks: row.remarks,
                    }
                }
            }
        )*
    };
}

from_flight!(
    SingleFlight,
    ThroughFlight,
    MemoryFlight,
    FsyncFlight,
    JournaledFlight,
    OneQueueFlight,
    QueuedFlight
);

/// Makes the tables anew.
pub(crate) async fn create_tables(pool: &PgPool) -> Result<(), Failure> {
    create_tables_of(pool, ROWS).await
}

/// Makes the tables anew, with so many flights.
pub(crate) async fn create_tables_of(pool: &PgPool, rows: u64) -> Result<(), Failure> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "SET client_min_messages = warning;
         DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;
         CREATE SCHEMA {SCHEMA};
         CREATE TABLE {SCHEMA}.flights (
             id bigint PRIMARY KEY,
             number text NOT NULL,
             airline text NOT NULL,
             origin text NOT NULL,
             destination text NOT NULL,
             status text NOT NULL,
             departs_at timestamptz NOT NULL,
             gate text,
             seats_left bigint NOT NULL,
             remarks text NOT NULL
         );
         INSERT INTO {SCHEMA}.flights
         SELECT id,
                'LA' || id % 9000 + 1000,
                (ARRAY['Larder Air', 'Northern Wings', 'Pantry Express'])[id % 3 + 1],
                (ARRAY['ZRH', 'KEF', 'OSL', 'LIS'])[id % 4 + 1],
                (ARRAY['HND', 'GRU', 'CPT', 'YUL', 'SIN'])[id % 5 + 1],
                (ARRAY['scheduled', 'boarding', 'departed', 'cancelled'])[id % 4 + 1],
                timestamptz '2030-01-01 06:00:00.123456+00' + id * interval '97 seconds',
                CASE WHEN id % 5 > 0 THEN 'B' || id % 60 END,
                id % 180,
                'Catering is loaded at stand ' || id % 40
                    || '; crew of six, change of aircraft confirmed, hand luggage restricted to one piece.'
         FROM generate_series(1, {rows}) AS id;
         ANALYZE {SCHEMA}.flights;

         CREATE SEQUENCE {SCHEMA}.slow_loads;
         -- Counts on the server, where no client can miscount, and takes the time of a slow query.
         CREATE FUNCTION {SCHEMA}.load_slowly(bigint) RETURNS boolean VOLATILE LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM nextval('{SCHEMA}.slow_loads');
                 PERFORM pg_sleep(0.05);
                 RETURN true;
             END
         $$;
         CREATE VIEW {SCHEMA}.slow_flights AS
         SELECT flights.*
         FROM {SCHEMA}.flights CROSS JOIN LATERAL {SCHEMA}.load_slowly(flights.id);"
    )))
    .execute(pool)
    .await?;
    Ok(())
}

/// How many rows have been read from the slow view since the tables were made.
pub(crate) async fn slow_loads(pool: &PgPool) -> Result<i64, Failure> {
    let loads = sqlx::query_scalar(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM larder_benches.slow_loads",
    )
    .fetch_one(pool)
    .await?;
    Ok(loads)
}

/// All rows, in the order of their ids.
pub(crate) async fn all_flights(pool: &PgPool) -> Result<Vec<Flight>, Failure> {
    Ok(
        sqlx::query_as("SELECT * FROM larder_benches.flights ORDER BY id")
            .fetch_all(pool)
            .await?,
    )
}
