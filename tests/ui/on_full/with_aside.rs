//! Without a queue none is full, and all needless options are one mistake.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "aside", max_pending = 10, on_full = "refuse")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
