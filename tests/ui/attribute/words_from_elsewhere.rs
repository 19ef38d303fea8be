//! A word that other tools use is answered with what larder has in its place.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table_name = "flights", strategy = "read_through", expire = "10m")]
struct Flight {
    #[cached(primary_key)]
    id: i64,
    #[cached(find_by)]
    code: String,
    #[cached(lookup)]
    origin: String,
    #[cached(rename = "to")]
    destination: String,
}

fn main() {}
