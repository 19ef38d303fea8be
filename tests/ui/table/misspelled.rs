//! A misspelled key is reported once, with the key that was meant.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(tabel = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
}

async fn first(cache: &larder::Cache, pool: sqlx::PgPool) -> bool {
    let flights: FlightRepository<sqlx::Postgres> = Flight::repository(cache, pool);
    flights.find(1).await.is_ok_and(|flight| flight.is_some())
}

fn main() {}
