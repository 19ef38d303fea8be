//! A struct that is converted to be written is not read as what it was.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
#[serde(into = "Shown")]
struct Flight {
    #[cached(id)]
    id: i64,
    secret: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    id: i64,
}

impl From<Flight> for Shown {
    fn from(flight: Flight) -> Self {
        Self { id: flight.id }
    }
}

fn main() {}
