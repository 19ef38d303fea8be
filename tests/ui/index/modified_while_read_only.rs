//! An entity that is only read has no method that changes the rows of an index.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "goods", read_only)]
struct Good {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    category: i64,
}

async fn write(goods: GoodRepository<sqlx::Sqlite>) {
    goods.modify_by_category(7, |_| {}).await.unwrap();
    goods.delete_by_category(7).await.unwrap();
}

fn main() {}
