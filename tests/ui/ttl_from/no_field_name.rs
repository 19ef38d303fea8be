//! `ttl_from` names one field, and is no expression.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "sessions", ttl_from = "created_at + 5m")]
struct Session {
    #[cached(id)]
    id: i64,
    created_at: chrono::DateTime<chrono::Utc>,
}

fn main() {}
