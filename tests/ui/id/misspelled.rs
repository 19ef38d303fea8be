//! A misspelled `id` is not reported as missing as well.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(ID)]
    id: i64,
}

fn main() {}
