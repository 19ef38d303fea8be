//! A macro of the user's passes keys on, each in an invisible group.

use larder::Cached;
use serde::{Deserialize, Serialize};

macro_rules! entity {
    ($name:ident, $table:meta, $id:meta, $lookup:meta, $ttl:literal) => {
        #[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached($table, ttl = $ttl)]
        struct $name {
            #[cached($id)]
            id: i64,
            #[cached($lookup)]
            email: String,
        }
    };
}

entity!(User, table = "users", id, unique(fold = "lower"), "10m");

async fn find(users: UserRepository<sqlx::Sqlite>) {
    users.find_by_email("ada@example.com").await.unwrap();
}

fn main() {
    let _ = find;
}
