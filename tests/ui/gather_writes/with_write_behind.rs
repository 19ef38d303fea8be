//! A queue has batches of its own.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", gather_writes = true)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
