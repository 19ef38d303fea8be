//! A write that is not announced cannot be refused for it.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", coherence = "ttl", on_outage = "consistent")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
