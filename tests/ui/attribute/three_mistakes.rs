//! All mistakes of an entity are reported in one compile.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", tll = "5m", jitter = 2)]
struct Flight {
    #[cached(id)]
    id: Option<i64>,
}

fn main() {}
