//! `table` needs a value.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
