//! Entities share a module, and may be defined in a function or by a macro.
use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", strategy = "aside", coherence = "lease", ttl = "10m", jitter = 0.2)]
struct Flight {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "app.gates", negative_ttl = false, namespace = "airport", hash_tag, codec = "postcard")]
#[cached(lease(ttl = "3s", wait = "50ms"))]
struct Gate {
    #[cached(id)]
    name: String,
}

macro_rules! entity {
    ($name:ident, $table:literal, $id:ty) => {
        #[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = $table)]
        struct $name {
            #[cached(id)]
            id: $id,
            other: Option<$id>,
        }
    };
}

entity!(Airline, "airlines", i64);
entity!(Airport, "airports", String);

fn main() {
    #[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "crews")]
    struct Crew {
        #[cached(id)]
        id: i64,
    }
    let _ = Flight::repository::<sqlx::MySql>;
    let _ = Gate::repository::<sqlx::MySql>;
    let _ = Crew::repository::<sqlx::MySql>;
    let _ = Airline::repository::<sqlx::MySql>;
    let _ = Airport::try_repository::<sqlx::MySql>;
}
