//! A write that is in the database needs no other durability.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_through", durability = "fsync")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
