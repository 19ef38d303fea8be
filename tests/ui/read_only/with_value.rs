//! A flag has no value.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "arrivals", read_only = true)]
struct Arrival {
    #[cached(id)]
    id: i64,
}

fn main() {}
