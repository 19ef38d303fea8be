//! Only a queue has partitions.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", partitions = 8)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
