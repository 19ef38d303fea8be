//! A cached row owns its data.

use larder::Cached;
use serde::Serialize;

#[derive(Clone, Serialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight<'a> {
    #[cached(id)]
    id: i64,
    gate: &'a str,
}

fn main() {}
