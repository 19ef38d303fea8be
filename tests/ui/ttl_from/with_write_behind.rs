//! A queued write is served until it is in the database.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "sessions", strategy = "write_behind", ttl_from = "expires_at")]
struct Session {
    #[cached(id)]
    id: i64,
    expires_at: chrono::DateTime<chrono::Utc>,
}

fn main() {}
