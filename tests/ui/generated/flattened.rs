//! A nested struct is no column.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(generated)]
    #[sqlx(flatten)]
    audit: Audit,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
struct Audit {
    version: i64,
}

fn main() {}
