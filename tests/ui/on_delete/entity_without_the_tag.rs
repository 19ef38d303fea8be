//! The other entity has a tag that consists of the field, so that its rows can be invalidated together.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "articles", on_delete(Comment::article_id))]
struct Article {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "comments", tags("author:{author_id}", "both:{author_id}/{article_id}"))]
struct Comment {
    #[cached(id)]
    id: i64,
    article_id: i64,
    author_id: i64,
}

fn main() {}
