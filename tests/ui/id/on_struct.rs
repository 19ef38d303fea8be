//! `id` belongs on a field.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", id)]
struct Flight {
    id: i64,
}

fn main() {}
