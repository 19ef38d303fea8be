//! Jitter never lengthens the time to live.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", jitter = -0.1)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
