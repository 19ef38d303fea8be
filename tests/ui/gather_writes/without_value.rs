//! `gather_writes` is true or false.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", gather_writes)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
