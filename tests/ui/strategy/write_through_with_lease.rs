//! What a write stores is right only if the write was announced.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_through", coherence = "lease")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
