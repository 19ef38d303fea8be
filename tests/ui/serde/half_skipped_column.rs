//! A column that serde skips in one direction would be lost in the cache.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[serde(skip_serializing)]
    secret: String,
}

fn main() {}
