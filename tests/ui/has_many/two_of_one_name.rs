//! Two relations have methods of different names.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "authors", has_many(Book::author), has_many(Book::editor))]
struct Author {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "books")]
struct Book {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    author: i64,
    #[cached(index)]
    editor: i64,
}

fn main() {}
