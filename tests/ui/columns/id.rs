//! A nested struct has no id.

use larder::Columns;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Columns)]
struct Route {
    #[cached(id)]
    id: i64,
}

fn main() {}
