//! What is about writes has no effect on an entity that is only read.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "arrivals", read_only, intent(ttl = "10s"))]
struct Arrival {
    #[cached(id)]
    id: i64,
}

fn main() {}
