//! Nothing is written.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", read_only, gather_writes = true)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
