//! A pool of a database that cannot store a column is refused where it is used.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    tags: Vec<String>,
}

fn main() {
    let cache: fn() -> larder::Cache = || unreachable!();
    let pool: fn() -> sqlx::SqlitePool = || unreachable!();
    let _flights = Flight::repository(&cache(), pool());
}
