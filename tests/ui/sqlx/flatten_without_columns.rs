//! A nested struct derives `Columns`.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(flatten)]
    route: Route,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow)]
struct Route {
    origin: String,
}

fn main() {}
