//! A strategy is about writes, and an entity that is only read has none.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "arrivals", read_only, strategy = "write_through")]
struct Arrival {
    #[cached(id)]
    id: i64,
}

fn main() {}
