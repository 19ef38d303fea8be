//! The repository is a type beside the entity, with a name of its own.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", repository = "Flight")]
struct Flight {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "gates", repository = "app::Gates")]
struct Gate {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", repository = Seats)]
struct Seat {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "crews", repository = "Crews", ttl = "soon")]
struct Crew {
    #[cached(id)]
    id: i64,
}

// Another mistake does not take the name away.
fn same(crews: Crews<sqlx::Sqlite>) -> Crews<sqlx::Sqlite> {
    crews
}

fn main() {}
