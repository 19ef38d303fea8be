//! The database would compare the column when the writer has long been told that all is well.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "orders", strategy = "write_behind")]
struct Order {
    #[cached(id)]
    id: i64,
    #[cached(immutable)]
    customer: i64,
}

fn main() {}
