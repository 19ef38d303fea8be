//! A composite id is a tuple in the order of the fields.
use larder::{Cached, Entity};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats")]
struct Seat {
    #[cached(id)]
    flight: i64,
    passenger: Option<String>,
    #[cached(id)]
    number: String,
}

// Nothing but its id: there is no column to update.
#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "membership")]
struct Membership {
    #[cached(id)]
    user: i64,
    #[cached(id)]
    group: i64,
}

async fn find(seats: &SeatRepository<sqlx::Postgres>) -> Option<String> {
    let id = (1, "12A".to_owned());
    let seat = seats.find(&id).await.ok()??;
    seats.delete(id).await.ok()?;
    seat.passenger.clone()
}

fn main() {
    let seat = Seat { flight: 1, passenger: None, number: "12A".to_owned() };
    assert_eq!(seat.id(), (1, "12A".to_owned()));
    let membership = Membership { user: 1, group: 2 };
    assert_eq!(membership.id(), (1, 2));
    let _ = find;
}
