//! A group says something.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", intent())]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
