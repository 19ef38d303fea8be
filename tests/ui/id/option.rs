//! An id is never `NULL`.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: Option<i64>,
}

async fn first(cache: &larder::Cache, pool: sqlx::PgPool) -> bool {
    let flights: FlightRepository<sqlx::Postgres> = Flight::repository(cache, pool);
    flights.find(1).await.is_ok_and(|flight| flight.is_some())
}

fn main() {}
