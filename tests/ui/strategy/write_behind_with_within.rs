//! A queue is no part of a transaction of the database.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn within(flights: FlightRepository<sqlx::Sqlite>, mut transaction: larder::Transaction<'_, sqlx::Sqlite>) {
    let _ = flights.within(&mut transaction);
}

fn main() {}
