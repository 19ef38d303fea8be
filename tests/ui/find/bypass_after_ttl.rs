//! A read that leaves the cache out has no options about the cache.

use std::time::Duration;

use larder::Cached;
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
}

async fn find(flights: FlightRepository<Sqlite>) -> Result<(), larder::Error> {
    flights.find(1).bypass().timeout(Duration::from_secs(1)).await?;
    flights.find(1).bypass().ttl(Duration::from_secs(1)).await?;
    Ok(())
}

fn main() {}
