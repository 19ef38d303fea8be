//! A nested struct has no version.

use larder::Columns;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Columns)]
struct Route {
    #[cached(version)]
    version: i64,
}

fn main() {}
