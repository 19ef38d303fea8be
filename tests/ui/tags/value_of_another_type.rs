//! The value of a tag has the type of its field.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports", tags("country:{country}"))]
struct Airport {
    #[cached(id)]
    id: i64,
    country: Option<String>,
}

async fn invalidate(airports: AirportRepository<sqlx::Sqlite>) {
    airports.invalidate_country("DE").await.unwrap();
    airports.invalidate_country(49).await.unwrap();
}

fn main() {}
