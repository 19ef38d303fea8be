//! An entity is one table with columns of known types.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight<T> {
    #[cached(id)]
    id: i64,
    gate: T,
}

fn main() {}
