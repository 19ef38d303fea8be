//! A durability that does not exist is answered with those that do.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", durability = "replicated")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
