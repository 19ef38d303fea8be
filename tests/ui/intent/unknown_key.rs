//! A key of the lease is no key of the intent.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", intent(wait = "1s"))]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
