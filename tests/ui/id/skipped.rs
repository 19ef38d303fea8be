//! An id takes part in statements.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id, skip)]
    #[sqlx(skip)]
    id: i64,
}

fn main() {}
