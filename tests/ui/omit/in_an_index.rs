//! Rows are found by values that are in the keys of the cache.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users")]
struct User {
    #[cached(id)]
    id: i64,
    #[cached(omit, unique)]
    token: Option<String>,
}

fn main() {}
