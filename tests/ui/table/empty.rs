//! A table has a name.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
