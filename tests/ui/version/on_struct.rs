//! The version is a field.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", version)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
