//! The larger unit comes first.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", ttl = "5m2h")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
