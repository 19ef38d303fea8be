//! A version is one column.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    #[sqlx(flatten)]
    revision: Revision,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
struct Revision {
    number: i64,
}

fn main() {}
