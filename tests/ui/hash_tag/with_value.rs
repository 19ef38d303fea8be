//! `hash_tag` takes no value.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", hash_tag = "x")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
