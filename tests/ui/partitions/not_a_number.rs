//! A number is not a string.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", partitions = "8")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
