//! The larder crate may be reached by any path.
use serde::{Deserialize, Serialize};

mod platform {
    pub mod cache {
        pub use larder::*;
        #[doc(hidden)]
        pub use larder::__private;
    }
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, platform::cache::Cached)]
#[cached(table = "flights", crate = crate::platform::cache)]
struct Flight {
    #[cached(id)]
    id: i64,
    #[sqlx(flatten)]
    route: Route,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, platform::cache::Columns)]
#[cached(crate = "crate::platform::cache")]
struct Route {
    origin: String,
}

fn main() {
    let _: fn(&platform::cache::Cache, sqlx::SqlitePool) -> FlightRepository<sqlx::Sqlite> = Flight::repository;
}
