//! Postcard cannot carry a value that does not know its own type.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", codec = "postcard")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(json)]
    meta: serde_json::Value,
}

fn main() {}
