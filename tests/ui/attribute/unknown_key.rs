//! An unknown key that resembles no other is answered with all that there are.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", warm_up = "5m")]
struct Flight {
    #[cached(id)]
    id: i64,
}

fn main() {}
