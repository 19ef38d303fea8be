//! A flush that waits for long is an outage.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", linger = "1m")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
