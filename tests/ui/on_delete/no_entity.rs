//! What is deleted with a row are rows of an entity.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "articles", on_delete(Comment::article_id))]
struct Article {
    #[cached(id)]
    id: i64,
}

struct Comment {
    article_id: i64,
}

fn main() {}
