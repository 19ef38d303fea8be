//! `ttl_from` names a field.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "sessions", ttl_from = "expire_at")]
struct Session {
    #[cached(id)]
    id: i64,
    expires_at: chrono::DateTime<chrono::Utc>,
}

fn main() {}
