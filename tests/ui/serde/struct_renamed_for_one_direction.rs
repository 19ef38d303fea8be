//! Fields that are written under names they are not read under would be lost in the cache; one mistake is one message.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
#[serde(rename_all(serialize = "camelCase"))]
struct Flight {
    #[cached(id)]
    id: i64,
    gate_number: Option<i64>,
    seats_left: Option<i64>,
}

fn main() {}
