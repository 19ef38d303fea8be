//! A table name has at most a schema in front of it.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "db.app.flights")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
