//! `table` belongs on the struct.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
struct Flight {
    #[cached(id, table = "flights")]
    id: i64,
}

fn main() {}
