//! A nested struct converts its own fields.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(flatten, try_from = "Route")]
    route: Route,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
struct Route {
    origin: String,
}

fn main() {}
