//! A generated id is one that an insert is given.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "arrivals", read_only)]
struct Arrival {
    #[cached(id, generated)]
    id: i64,
}

fn main() {}
