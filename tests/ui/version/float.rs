//! A version is counted up one by one.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    version: f64,
}

fn main() {}
