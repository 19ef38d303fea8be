//! A tag names fields of the struct.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports", tags("catalog", "country:{contry}"))]
struct Airport {
    #[cached(id)]
    id: i64,
    country: String,
}

// The methods of the other tags exist, so that it is the only mistake.
async fn invalidate(airports: AirportRepository<sqlx::Sqlite>) {
    airports.invalidate_tag("catalog").await.unwrap();
    airports.invalidate_catalog().await.unwrap();
}

fn main() {}
