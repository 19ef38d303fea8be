//! A queued write reaches the database after it was answered.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "orders", strategy = "write_behind", queries)]
struct Order {
    #[cached(id)]
    id: i64,
}

// The method exists, so that it is the only mistake.
fn query(orders: OrderRepository<sqlx::Sqlite>) {
    let _query = orders.query::<i64>("sum");
}

fn main() {}
