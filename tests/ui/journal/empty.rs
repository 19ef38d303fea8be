//! An empty path names no directory.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", journal = "")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
