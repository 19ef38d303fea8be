//! A lookup takes values of its fields.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users")]
struct User {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    email: String,
}

async fn find(users: UserRepository<sqlx::Sqlite>) {
    users.find_by_email(7).await.unwrap();
}

fn main() {}
