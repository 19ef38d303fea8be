//! A pool of a database that cannot store some of the columns is refused where it is used, with all of them.

use larder::{Cached, Columns};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights")]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(rename = "seen")]
    views: u64,
    rating: Option<u32>,
    #[sqlx(try_from = "u16")]
    seats: Seats,
    #[sqlx(flatten)]
    route: Route,
    #[sqlx(json)]
    parts: Vec<u64>,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Columns)]
struct Route {
    miles: u32,
    origin: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Seats(u16);

impl From<u16> for Seats {
    fn from(seats: u16) -> Self {
        Self(seats)
    }
}

impl From<Seats> for u16 {
    fn from(seats: Seats) -> Self {
        seats.0
    }
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports")]
struct Airport {
    #[cached(id)]
    code: String,
    names: Vec<String>,
    price: rust_decimal::Decimal,
}

fn main() {
    let cache: fn() -> larder::Cache = || unreachable!();
    let postgres: fn() -> sqlx::PgPool = || unreachable!();
    let _flights = Flight::repository(&cache(), postgres());
    let sqlite: fn() -> sqlx::SqlitePool = || unreachable!();
    let _airports = Airport::try_repository(&cache(), sqlite());
    // MySQL has unsigned integers.
    let mysql: fn() -> sqlx::MySqlPool = || unreachable!();
    let _flights = Flight::repository(&cache(), mysql());
}
