//! Queued writes of many rows could not be all or none.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind")]
struct Flight {
    #[cached(id)]
    id: i64,
}

async fn update(flights: FlightRepository<sqlx::Sqlite>) {
    let _ = flights.update_many(&[Flight { id: 42 }]).await;
}

fn main() {}
