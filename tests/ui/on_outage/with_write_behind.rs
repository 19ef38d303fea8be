//! Without the store there is no queue, so there is nothing to choose.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", on_outage = "available")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
