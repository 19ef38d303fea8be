//! A row with a version is deleted in its version, so the row is given and not its id.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    version: i64,
}

async fn delete(flights: FlightRepository<sqlx::Sqlite>) {
    let _ = flights.delete(42).await;
}

fn main() {}
