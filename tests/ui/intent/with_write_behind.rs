//! A queued write is made in one step and announces nothing.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", intent(ttl = "5s"))]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
