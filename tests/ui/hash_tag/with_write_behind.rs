//! The keys of a queue have their tags.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", hash_tag)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
