//! Jitter takes off less than the whole time to live.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", jitter = 1.0)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
