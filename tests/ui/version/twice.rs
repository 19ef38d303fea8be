//! A row has one version.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    version: i64,
    #[cached(version)]
    revision: i64,
}

fn main() {}
