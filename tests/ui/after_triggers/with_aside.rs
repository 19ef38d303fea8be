//! Triggers matter only to a strategy that stores what a write returned.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", after_triggers)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
