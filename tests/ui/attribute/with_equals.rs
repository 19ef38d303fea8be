//! The keys stand in parentheses.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached = "flights"]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
