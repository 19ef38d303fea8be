//! Only an entity with `omit` has rows that are not complete.

use larder::{Cache, Cached};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users")]
struct User {
    #[cached(id)]
    id: i64,
    name: String,
}

async fn login(pool: sqlx::SqlitePool) {
    let users = User::repository(&Cache::in_process(), pool);
    let _user = users.find(1).complete().await;
}

fn main() {}
