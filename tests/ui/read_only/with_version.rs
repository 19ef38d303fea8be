//! A version is compared by an update.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "arrivals", read_only)]
struct Arrival {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    version: i64,
}

fn main() {}
