//! An entity with a version is deleted by its rows, and every option about announcements can be named.
use larder::{Cached, Entity, Error, Transaction, policy};
use serde::{Deserialize, Serialize};

// Larder takes an alias and a new type for the integers that they are.
type Revision = i32;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
struct Change(i64);

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "flights",
    strategy = "write_through",
    coherence = "intent",
    on_outage = "consistent",
    intent(ttl = "3s")
)]
struct Flight {
    #[cached(id)]
    id: i64,
    gate: Option<String>,
    #[cached(version)]
    version: Revision,
}

// Nothing but its id and its version.
#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "counters", strategy = "write_through", after_triggers, on_outage = "available")]
struct Counter {
    #[cached(id)]
    name: String,
    #[cached(version)]
    changes: Change,
}

// Without a version, rows are deleted by their ids.
#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats")]
struct Seat {
    #[cached(id)]
    flight: i64,
    #[cached(id)]
    number: String,
}

async fn write(
    flights: &FlightRepository<sqlx::Postgres>,
    seats: &SeatRepository<sqlx::Postgres>,
) -> Result<(), Error> {
    let flight = flights.insert(&Flight { id: 1, gate: None, version: 0 }).await?;
    let many = flights.update_many(&[Flight::clone(&flight)]).await?;
    let flight = Flight::clone(&many[0]);
    if let Err(error) = flights.update(&flight).await {
        let _: Option<std::sync::Arc<Flight>> = error.current::<Flight>();
    }
    flights.delete(&flight).await?;
    flights.insert_many(std::slice::from_ref(&flight)).await?;
    flights.delete_many(&[flight]).await?;
    let _: u64 = seats.delete_many(&[(1, "12A".to_owned())]).await?;
    Ok(())
}

async fn transact(
    flights: &FlightRepository<sqlx::Sqlite>,
    seats: &SeatRepository<sqlx::Sqlite>,
) -> Result<(), Error> {
    let mut transaction = Transaction::begin(flights.pool()).await?;
    let mut inside = flights.within(&mut transaction);
    if let Some(flight) = inside.find(1).await? {
        inside.delete_row(&flight).await?;
    }
    let mut savepoint = transaction.savepoint().await?;
    seats.within(&mut savepoint).delete((1, "12A".to_owned())).await?;
    savepoint.commit().await?;
    transaction.commit().await
}

// The future of a write can be sent to another thread.
fn spawn(flights: FlightRepository<sqlx::Sqlite>) {
    tokio::spawn(async move {
        let rows = [Flight { id: 1, gate: None, version: 0 }];
        let _ = flights.insert_many(&rows).await;
    });
}

fn main() {
    let flights = Flight::SPEC;
    assert!(flights.versioned);
    assert_eq!(flights.policy.strategy, policy::Strategy::WriteThrough);
    assert_eq!(flights.policy.on_outage, policy::OnOutage::Consistent);
    assert_eq!(flights.policy.intent_ttl.as_secs(), 3);
    assert!(!flights.policy.after_triggers);
    let counters = Counter::SPEC;
    assert!(counters.versioned && counters.policy.after_triggers);
    assert!(!Seat::SPEC.versioned);
    let _ = (write, transact, spawn);
}
