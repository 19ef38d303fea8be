//! A field is flattened or JSON, not both.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(flatten, json)]
    route: Route,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
struct Route {
    origin: String,
}

fn main() {}
