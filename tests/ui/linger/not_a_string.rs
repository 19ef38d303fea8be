//! A number says nothing without its unit.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", linger = 10)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
