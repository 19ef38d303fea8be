//! A converted field can be converted back.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(try_from = "String")]
    code: Code,
}

#[derive(Clone, Serialize, Deserialize)]
struct Code(String);

impl From<String> for Code {
    fn from(code: String) -> Self {
        Self(code)
    }
}

fn main() {}
