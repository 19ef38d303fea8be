//! A column has a type that a database can store. All columns that have none are reported.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    status: Status,
    gate: Option<char>,
    miles: u128,
    #[sqlx(rename = "stops_made")]
    stops: Vec<Status>,
}

#[derive(Clone, Serialize, Deserialize)]
enum Status {
    Open,
}

// It can be written, and not be read.
#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "gates")]
struct Gate {
    #[cached(id)]
    id: Written,
}

#[derive(Clone, Serialize, Deserialize, sqlx::Encode)]
struct Written(i64);

impl<DB: sqlx::Database> sqlx::Type<DB> for Written
where
    i64: sqlx::Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        <i64 as sqlx::Type<DB>>::type_info()
    }
}

async fn first(cache: &larder::Cache, pool: sqlx::PgPool) -> bool {
    let flights: FlightRepository<sqlx::Postgres> = Flight::repository(cache, pool);
    flights.find(1).await.is_ok_and(|flight| flight.is_some())
}

fn main() {}
