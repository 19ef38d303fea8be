//! A lookup names fields of the struct.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", unique(tenant, emial))]
struct User {
    #[cached(id)]
    id: i64,
    tenant: i64,
    email: String,
}

// The methods of the mistake exist, so that it is the only one.
async fn find(users: UserRepository<sqlx::Sqlite>) {
    users.find_by_tenant_and_emial(1, "ada").await.unwrap();
}

fn main() {}
