//! A row belongs to another one by its id.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "authors")]
struct Author {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "books")]
struct Book {
    #[cached(id)]
    id: i64,
    #[cached(belongs_to = Author)]
    author: String,
}

fn main() {}
