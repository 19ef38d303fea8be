//! An intent outlives a slow round trip.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", intent(ttl = "200ms"))]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
