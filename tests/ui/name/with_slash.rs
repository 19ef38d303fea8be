//! A slash separates an entity from its partitions in the name of a queue, so the name of the entity has none.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "order_items", name = "orders/Item")]
struct Item {
    #[cached(id)]
    id: i64,
}

fn main() {}
