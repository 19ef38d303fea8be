//! A cached query depends on entities whose writes are announced to queries.

use larder::{Cache, Cached};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "orders")]
struct Order {
    #[cached(id)]
    id: i64,
}

async fn fetch(cache: Cache, pool: sqlx::SqlitePool, orders: OrderRepository<sqlx::Sqlite>) {
    let queries = cache.queries(pool);
    let _query = queries.query::<i64>("sum").depends_on(&orders);
}

fn main() {}
