//! An entity that is only read has no writing methods.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "arrivals", read_only)]
struct Arrival {
    #[cached(id)]
    id: i64,
}

async fn write(arrivals: ArrivalRepository<sqlx::Sqlite>) {
    let _ = arrivals.save(&Arrival { id: 1 }).await;
}

fn main() {}
