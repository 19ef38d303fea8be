//! What the code calls is no mistake when the strategy that has it was misspelled.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behnd")]
struct Flight {
    #[cached(id)]
    id: i64,
}

async fn flush(flights: FlightRepository<sqlx::Sqlite>) {
    let _ = flights.modify(42, |flight| flight.id = 42).await;
    let _ = flights.flush().await;
}

fn main() {}
