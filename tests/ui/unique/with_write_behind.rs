//! A lookup reads the database, which does not have the queued writes yet.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", strategy = "write_behind")]
struct User {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    email: String,
}

fn main() {}
