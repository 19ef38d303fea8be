//! A column has a type that a database can store.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    status: Status,
}

#[derive(Clone, Serialize, Deserialize)]
enum Status {
    Open,
}

async fn first(cache: &larder::Cache, pool: sqlx::PgPool) -> bool {
    let flights: FlightRepository<sqlx::Postgres> = Flight::repository(cache, pool);
    flights.find(1).await.is_ok_and(|flight| flight.is_some())
}

fn main() {}
