//! An entity that is only read has no writing methods, and that of the runtime refuses them in `cargo check`.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "arrivals", read_only)]
struct Arrival {
    #[cached(id)]
    id: i64,
}

async fn write(arrivals: ArrivalRepository<sqlx::Sqlite>) {
    arrivals.save(&Arrival { id: 1 }).await.unwrap();
    arrivals.inner().save(&Arrival { id: 1 }).await.unwrap();
    arrivals.inner().delete(1).await.unwrap();
}

fn main() {}
