//! An id is written into keys and queues and read back from them, so its type must be known to serde.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, sqlx::Type)]
#[sqlx(transparent)]
struct Number(String);

mod text {
    use super::*;

    pub fn serialize<S: serde::Serializer>(number: &Number, serializer: S) -> Result<S::Ok, S::Error> {
        number.0.serialize(serializer)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        String::deserialize(deserializer).map(Number)
    }
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    #[serde(with = "text")]
    number: Number,
}

fn main() {}
