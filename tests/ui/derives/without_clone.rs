//! A cached row can be cloned.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    gate: String,
}

async fn first(cache: &larder::Cache, pool: sqlx::PgPool) -> bool {
    let flights: FlightRepository<sqlx::Postgres> = Flight::repository(cache, pool);
    flights.find(1).await.is_ok_and(|flight| flight.is_some())
}

fn main() {}
