//! The keys of `lease` are `ttl` and `wait`.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", lease(timeout = "5s"))]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
