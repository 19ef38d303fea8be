//! The other rows are found by an index of theirs.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "authors", has_many(Book::author))]
struct Author {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "books")]
struct Book {
    #[cached(id)]
    id: i64,
    author: i64,
}

fn main() {}
