//! A time to live is above zero.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", ttl = "0s")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
