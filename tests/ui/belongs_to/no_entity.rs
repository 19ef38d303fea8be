//! Only entities have repositories.

use larder::Cached;
use serde::{Deserialize, Serialize};

struct Author;

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "books")]
struct Book {
    #[cached(id)]
    id: i64,
    #[cached(belongs_to = Author)]
    author: i64,
}

fn main() {}
