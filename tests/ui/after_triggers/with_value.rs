//! A flag has no value.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_through", after_triggers = true)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
