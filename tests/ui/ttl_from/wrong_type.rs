//! The field of `ttl_from` is a point in time.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "sessions", ttl_from = "expires_at")]
struct Session {
    #[cached(id)]
    id: i64,
    expires_at: chrono::NaiveDateTime,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "tokens", ttl_from = "seconds")]
struct Token {
    #[cached(id)]
    id: i64,
    seconds: Option<i64>,
}

fn main() {}
