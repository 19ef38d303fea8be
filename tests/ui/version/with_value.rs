//! A flag has no value.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version = 1)]
    version: i64,
}

fn main() {}
