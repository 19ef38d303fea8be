//! The number of a partition has two digits.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", partitions = 257)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
