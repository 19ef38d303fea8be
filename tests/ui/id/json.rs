//! An id is not stored as JSON.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    #[sqlx(json)]
    id: Vec<i64>,
}

fn main() {}
