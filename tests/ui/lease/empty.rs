//! `lease` has keys of its own.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", lease())]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
