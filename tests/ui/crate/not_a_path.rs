//! `crate` is the path of a crate.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", crate = 5)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
