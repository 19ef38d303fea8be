//! Code that is generic over the database needs no bound but `Backend`.
use std::sync::Arc;

use larder::{Backend, Cache, Cached, Error};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
pub struct Flight {
    #[cached(id)]
    pub id: i64,
    pub gate: Option<String>,
}

async fn move_to<DB: Backend>(
    flights: &FlightRepository<DB>,
    id: i64,
    gate: &str,
) -> Result<Option<Arc<Flight>>, Error> {
    let Some(flight) = flights.find(id).await? else {
        return Ok(None);
    };
    let flight = Flight { gate: Some(gate.to_owned()), ..Flight::clone(&flight) };
    flights.update(&flight).await.map(Some)
}

async fn everything<DB: Backend>(cache: &Cache, pool: sqlx::Pool<DB>) -> Result<(), Error> {
    let flights = Flight::try_repository(cache, pool)?.clone();
    let flight = flights.insert(&Flight { id: 1, gate: None }).await?;
    assert_eq!(flights.save(&flight).await?, flight);
    flights.find_outcome(1).await?;
    flights.find_uncached(&1).await?;
    flights.exists(1).await?;
    flights.refresh(1).await?;
    flights.invalidate(1).await?;
    flights.delete(1).await?;
    flights.check_schema().await?;
    println!("{flights:?} {:?} {:?}", flights.stats(), flights.pool());
    let _: &larder::Repository<Flight, DB> = flights.inner();
    Ok(())
}

fn is_send<T: Send>(_: fn(&'static Cache, sqlx::SqlitePool) -> T) {}

fn main() {
    let _ = move_to::<sqlx::Postgres>;
    is_send(|cache, pool| everything(cache, pool));
}
