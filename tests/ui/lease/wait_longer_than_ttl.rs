//! Nobody waits for a lease longer than it lives.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", lease(ttl = "1s", wait = "2s"))]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
