//! The repository of the runtime refuses what the strategy does not have, in `cargo check` and once each.

use larder::{Cached, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_through")]
struct Flight {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", strategy = "write_behind")]
struct Seat {
    #[cached(id)]
    id: i64,
}

async fn queued(flights: FlightRepository<Sqlite>) {
    flights.inner().flush().await.unwrap();
    flights.inner().modify(1, |flight| flight.id = 1).await.unwrap();
    let _letters = flights.inner().dead_letters();
}

async fn direct(seats: SeatRepository<Sqlite>, mut transaction: Transaction<'_, Sqlite>) {
    seats.inner().insert_many(&[]).await.unwrap();
    seats.inner().within(&mut transaction).find(1).await.unwrap();
}

fn main() {}
