//! A page begins after a row, and there is no place after `NULL`.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", index(tenant, order_by = "seen desc"))]
struct User {
    #[cached(id)]
    id: i64,
    tenant: i64,
    seen: Option<i64>,
}

fn main() {}
