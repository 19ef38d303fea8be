//! A conflict would be found after the write was acknowledged. What else the code calls is no second mistake.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind")]
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
