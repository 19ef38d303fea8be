//! The id is needed before the database sees the row.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind")]
struct Flight {
    #[cached(id, generated)]
    id: i64,
}

fn main() {}
