//! A colon separates the parts of a key, so a namespace has none.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", namespace = "a:b")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
