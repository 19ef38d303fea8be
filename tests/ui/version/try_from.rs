//! The database counts the version up, past any conversion.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[cached(version)]
    #[sqlx(try_from = "i64")]
    revision: Revision,
}

#[derive(Clone, Serialize, Deserialize)]
struct Revision(i64);

impl From<i64> for Revision {
    fn from(number: i64) -> Self {
        Self(number)
    }
}

impl From<Revision> for i64 {
    fn from(revision: Revision) -> Self {
        revision.0
    }
}

fn main() {}
