//! A row from the cache has nothing to put into the field.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users")]
struct User {
    #[cached(id)]
    id: i64,
    #[cached(omit)]
    password_hash: String,
}

fn main() {}
