//! JSON is converted by serde.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(json, try_from = "String")]
    route: Code,
}

#[derive(Clone, Serialize, Deserialize)]
struct Code(String);

impl From<String> for Code {
    fn from(code: String) -> Self {
        Self(code)
    }
}

fn main() {}
