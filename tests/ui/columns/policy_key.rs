//! A nested struct is cached as a part of its entity.

use larder::Columns;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Columns)]
#[cached(ttl = "5m")]
struct Route {
    origin: String,
}

fn main() {}
