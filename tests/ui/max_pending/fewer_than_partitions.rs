//! A partition without room takes no write.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", partitions = 16, max_pending = 10)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
