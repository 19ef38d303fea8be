//! A query stands for the table, and its rows are only read.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", select = "SELECT id FROM flights", strategy = "write_through", tags("all-of-them"))]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
