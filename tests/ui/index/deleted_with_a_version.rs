//! Rows with a version are deleted in the version that the caller knows, so not by a value of an index.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "goods")]
struct Good {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    category: i64,
    #[cached(version)]
    version: i64,
}

async fn write(goods: GoodRepository<sqlx::Sqlite>) {
    goods.delete_by_category(7).await.unwrap();
}

fn main() {}
