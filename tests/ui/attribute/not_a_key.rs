//! Only keys stand in the parentheses.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached("flights", table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
