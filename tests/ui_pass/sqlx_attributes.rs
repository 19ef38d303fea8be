//! Every attribute of `sqlx::FromRow` that larder honours compiles on every database.
use larder::{Cached, Columns};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Meta {
    tags: Vec<String>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Code([u8; 3]);

impl TryFrom<String> for Code {
    type Error = std::array::TryFromSliceError;

    fn try_from(code: String) -> Result<Self, Self::Error> {
        code.as_bytes().try_into().map(Self)
    }
}

impl TryFrom<Code> for String {
    type Error = std::string::FromUtf8Error;

    fn try_from(code: Code) -> Result<Self, Self::Error> {
        String::from_utf8(code.0.to_vec())
    }
}

#[derive(Clone, Default, Serialize, Deserialize, sqlx::FromRow, Columns)]
#[sqlx(rename_all = "lowercase")]
struct Route {
    origin: String,
    #[cached(generated)]
    distance: Option<i64>,
    #[sqlx(flatten)]
    stop: Stop,
}

#[derive(Clone, Default, Serialize, Deserialize, sqlx::FromRow, Columns)]
struct Stop {
    #[sqlx(rename = "stop_at")]
    at: String,
}

#[derive(Clone, Default, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
#[sqlx(rename_all = "camelCase", default)]
struct Flight {
    #[cached(id)]
    id: i64,
    departure_time: i64,
    #[sqlx(rename = "gate")]
    gate_name: Option<String>,
    #[sqlx(json)]
    meta: Meta,
    #[sqlx(json(nullable))]
    extra: Option<Meta>,
    #[sqlx(flatten)]
    route: Route,
    #[sqlx(try_from = "String")]
    code: Code,
    #[sqlx(skip)]
    label: String,
    #[cached(skip)]
    #[sqlx(default)]
    note: String,
}

// The only column type is that of a conversion, and the id is converted too.
#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports")]
struct Airport {
    #[cached(id)]
    #[sqlx(try_from = "String")]
    code: Code,
}

fn main() {
    let _ = Flight::repository::<sqlx::Postgres>;
    let _ = Flight::repository::<sqlx::MySql>;
    let _ = Flight::repository::<sqlx::Sqlite>;
    let _ = Airport::repository::<sqlx::Sqlite>;
}
