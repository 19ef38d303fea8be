//! No row fits into nothing.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", max_row = "0 KiB")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
