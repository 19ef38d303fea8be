//! A misspelled value is answered with the one that was meant.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "write_behind", on_full = "refused")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
