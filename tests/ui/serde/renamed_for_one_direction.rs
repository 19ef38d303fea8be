//! A field that is written under a name it is not read under would be lost in the cache.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[serde(rename(serialize = "gateNumber"))]
    gate_number: Option<i64>,
}

fn main() {}
