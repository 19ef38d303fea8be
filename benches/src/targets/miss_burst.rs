//! Cold reads by many tasks at once, beside one SELECT for each of them.
//!
//! Rows live for a millisecond and are drawn from many, so nearly every read is a miss: it takes a lease, reads the database and fills
//! the cache. Reads that meet share a statement. The control leaves larder out: two SELECTs for each read.

use larder::Cache;
use sqlx::{PgPool, Postgres};

use super::{
    expect_ratio,
    reads::{Twice, present, select},
};
use crate::{
    Failure,
    entity::{self, ColdFlight, ColdFlightRepository, create_tables, create_tables_of},
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

const ROWS: u64 = 100_000;
const TASKS: [u64; 2] = [64, 1];

/// One statement for each read.
#[derive(Clone)]
struct Select(PgPool);

impl Operation for Select {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(select(&self.0, id).await?)
    }
}

/// A read of larder that is nearly always a miss.
#[derive(Clone)]
pub(super) struct Cold(pub(super) ColdFlightRepository<Postgres>);

impl Operation for Cold {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.0.find(id).await?)
    }
}

/// Compares both, with an in-process cache and over Redis.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables_of(&pool, ROWS).await?;
    servers::describe(Some(&pool), &["larder", "sqlx"]).await?;
    let redis = servers::cache("cold")?.connect().await?;
    for tasks in TASKS {
        let cold = |cache: &Cache| Cold(ColdFlight::repository(cache, pool.clone()));
        let (in_process, over_redis) = (cold(&Cache::in_process()), cold(&redis));
        let variants = Contest::new(tasks, ROWS)
            .enter("SELECT by hand", Select(pool.clone()))
            .enter("larder find, in process", in_process.clone())
            .enter("larder find, over Redis", over_redis.clone())
            .run(effort)
            .await?;
        report::variants(&variants);
        for Cold(flights) in [&in_process, &over_redis] {
            let stats = flights.stats();
            let ratio = stats.hit_ratio().unwrap_or_default();
            println!("  {} loads, {:.1} % were hits", stats.loads, ratio * 100.0);
        }
        let suffix = if tasks == 1 { "-1" } else { "" };
        let goal = if tasks == 1 {
            Goal::None
        } else {
            Goal::AtLeast(4.0)
        };
        for (place, name) in [(1, "miss-burst-memory"), (2, "miss-burst")] {
            let ratio = variants[place].ratio(&variants[0], Figure::Throughput);
            report::ratio(&format!("{name}{suffix}"), ratio, goal);
        }
    }
    Ok(())
}

/// Two statements take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let select = Select(pool);
    let variants = Contest::new(1, entity::ROWS)
        .enter("once", select.clone())
        .enter("twice", Twice(select))
        .run(effort)
        .await?;
    let ratio = variants[1].ratio(&variants[0], Figure::Latency);
    expect_ratio("two statements to one", ratio, 1.8, 2.2)
}
