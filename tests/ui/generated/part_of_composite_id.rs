//! The application knows every part of a composite id.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id, generated)]
    id: i64,
    #[cached(id)]
    leg: i32,
}

fn main() {}
