//! An id is a column of this struct.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    #[sqlx(flatten)]
    id: Key,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
struct Key {
    number: i64,
}

fn main() {}
