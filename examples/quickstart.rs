//! The first steps: an entity, a cache, and reads that see every write.
//!
//! It needs no server. `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! larder = { version = "0.1", features = ["sqlite"] } # or "postgres", "mysql"
//! serde = { version = "1", features = ["derive"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "macros"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```

use larder::{Cache, Cached};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "flights", ttl = "10m", negative_ttl = "30s")]
struct Flight {
    #[cached(id)]
    id: i64,
    code: String,
    gate: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = sqlx::SqlitePool::connect("sqlite::memory:").await?;
    sqlx::query("CREATE TABLE flights (id INTEGER PRIMARY KEY, code TEXT NOT NULL, gate TEXT)")
        .execute(&pool)
        .await?;

    let cache = Cache::in_process(); // or Cache::connect("redis://127.0.0.1").await?
    let flights = Flight::repository(&cache, pool);
    flights.check_schema().await?.into_result()?;

    let flight = Flight {
        id: 42,
        code: "LH400".into(),
        gate: None,
    };
    flights.insert(&flight).await?;
    let found = flights.find(42).await?.expect("it was just inserted");
    assert_eq!(found.code, "LH400");

    flights
        .update(&Flight {
            gate: Some("A12".into()),
            ..flight
        })
        .await?;
    let found = flights.find(42).await?.expect("it is still there");
    assert_eq!(found.gate.as_deref(), Some("A12")); // never the old row

    assert!(flights.find(7).await?.is_none()); // one statement
    assert!(flights.find(7).await?.is_none()); // none
    println!("{:?}", flights.stats());
    Ok(())
}
