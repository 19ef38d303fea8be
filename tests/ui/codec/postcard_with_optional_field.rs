//! Postcard cannot carry a field that may be missing.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", codec = "postcard")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<String>,
}

fn main() {}
