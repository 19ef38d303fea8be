//! A key is named once.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", ttl = "5m")]
#[cached(ttl = "10m")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
