//! The entities that a query reads announce their writes to queries.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(select = "SELECT id, COUNT(*) AS flights FROM flights GROUP BY id", depends_on(Flight))]
struct Departures {
    #[cached(id)]
    id: i64,
    flights: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
