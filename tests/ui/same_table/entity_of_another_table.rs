//! Only the rows of one table can be announced by their ids.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", same_table(UserName))]
struct User {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "names")]
struct UserName {
    #[cached(id)]
    id: i64,
}

fn main() {}
