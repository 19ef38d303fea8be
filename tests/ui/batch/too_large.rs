//! A flush has an end.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", batch = 10_001)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
