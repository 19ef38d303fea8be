//! A queued write is in the store with all columns.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", strategy = "write_behind")]
struct User {
    #[cached(id)]
    id: i64,
    #[cached(omit)]
    password_hash: Option<String>,
}

fn main() {}
