//! An id of a wrong type is one error, whatever is done with the result.

use larder::{Cached, Repository, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", strategy = "write_behind")]
struct Seat {
    #[cached(id)]
    flight: i64,
    #[cached(id)]
    number: String,
    taken: bool,
}

async fn find(flights: FlightRepository<Sqlite>) -> Option<i64> {
    let flight = flights.find("LH 400").await.ok()??;
    Some(flight.id)
}

async fn delete(flights: FlightRepository<Sqlite>) {
    flights.delete(1_u32).await.unwrap();
}

async fn modify(seats: SeatRepository<Sqlite>) {
    seats.modify(("12A".to_owned(), 1_i64), |seat| seat.taken = true).await.unwrap();
}

async fn refresh(flights: &Repository<Flight, Sqlite>) {
    let refreshed = flights.refresh(Some(1_i64));
    refreshed.await.unwrap().unwrap();
}

async fn exists(flights: FlightRepository<Sqlite>, mut transaction: Transaction<'_, Sqlite>) -> bool {
    flights.within(&mut transaction).exists(String::new()).await.unwrap()
}

fn main() {}
