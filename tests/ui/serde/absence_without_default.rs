//! A field that is left out when it is written needs a value when it is read.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    gate: String,
}

fn main() {}
