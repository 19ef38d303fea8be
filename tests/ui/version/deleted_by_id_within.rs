//! In a transaction too, a row with a version is deleted in its version.

use larder::{Cached, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    version: i64,
}

async fn delete(flights: FlightRepository<Sqlite>, mut transaction: Transaction<'_, Sqlite>) {
    let mut within = flights.within(&mut transaction);
    within.delete(1).await.unwrap();
    within.delete_many(&[1, 2]).await.unwrap();
    flights.inner().delete(1).await.unwrap();
}

fn main() {}
