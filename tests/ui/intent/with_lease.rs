//! Where no write is announced, the life of an announcement says nothing.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", coherence = "lease", intent(ttl = "5s"))]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
