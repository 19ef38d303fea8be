//! All readers see a queued write at once, so there is no weaker promise to choose.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", coherence = "lease")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
