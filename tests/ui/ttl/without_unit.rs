//! A duration has a unit.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", ttl = "5")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
