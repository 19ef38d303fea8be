//! `NULL` counts nothing.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    version: Option<i64>,
}

fn main() {}
