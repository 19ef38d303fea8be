//! Nobody agrees on how many bytes a `MB` has.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", max_row = "4 MB")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
