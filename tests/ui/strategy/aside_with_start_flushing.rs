//! Without a queue there is nothing to flush.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
}

async fn start(flights: FlightRepository<sqlx::Sqlite>) {
    let _ = flights.start_flushing().await;
}

fn main() {}
