//! Two lookups have methods of different names.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", index(tenant))]
struct User {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    tenant: i64,
}

fn main() {}
