//! An id of a wrong type is one error, also with options.

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

async fn find(flights: FlightRepository<Sqlite>) -> Option<i64> {
    let read = flights.find("LH 400").max_age(Duration::from_secs(1)).refresh();
    Some(read.await.ok()??.id)
}

fn main() {}
