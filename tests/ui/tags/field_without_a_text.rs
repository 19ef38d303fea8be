//! A field in a tag has one text, as `Display` writes it.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::Type)]
#[sqlx(rename_all = "snake_case")]
enum Size {
    Small,
    Large,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports", tags("size:{size}"))]
struct Airport {
    #[cached(id)]
    id: i64,
    size: Size,
}

fn main() {}
