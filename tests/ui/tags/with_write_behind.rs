//! A queued write is in the cache before it is in the database.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports", strategy = "write_behind", tags("catalog"))]
struct Airport {
    #[cached(id)]
    id: i64,
}

fn main() {}
