//! An entity without a name has no keys.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "order_items", name = "")]
struct Item {
    #[cached(id)]
    id: i64,
}

fn main() {}
