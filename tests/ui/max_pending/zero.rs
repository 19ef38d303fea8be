//! A queue that may hold nothing takes no write.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", max_pending = 0)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
