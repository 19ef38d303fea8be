//! Absence caching is switched off with `false`; there is no `true`.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", negative_ttl = true)]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
