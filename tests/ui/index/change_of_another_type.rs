//! What is called for each row returns nothing or a `Result` without a value: there is one answer for all rows.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "goods")]
struct Good {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    category: i64,
}

async fn write(goods: GoodRepository<sqlx::Sqlite>) {
    goods.modify_by_category(7, |good| good.id).await.unwrap();
    goods.modify_by_category("7", |_| {}).await.unwrap();
}

fn main() {}
