//! What measuring costs a hit: a read that is observed for metrics and spans, beside the same read that is not.
//!
//! larder is built with the feature `metrics`, no recorder is installed, and no subscriber wants the spans: the cost of an exporter is paid by
//! the task that publishes, once a second.

use larder::Cache;
use sqlx::Postgres;

use super::{
    expect_ratio,
    reads::{Find, Twice, present},
};
use crate::{
    Failure,
    entity::{Flight, FlightRepository, ROWS, create_tables},
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

const MANY: u64 = 64;
/// Reading the clock takes as long as some reads in process, so many are timed together.
const BATCH: i64 = 200;

/// The same read, which nothing observes.
#[derive(Clone)]
struct Unobserved(FlightRepository<Postgres>);

impl Operation for Unobserved {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.0.inner().find_unobserved(id).await?)
    }
}

/// Many reads as one operation.
#[derive(Clone)]
struct Many<O>(O);

impl<O: Operation + Sync> Operation for Many<O> {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        for step in 0..BATCH {
            self.0.call((id + step) % i64::try_from(ROWS)? + 1).await?;
        }
        Ok(())
    }
}

/// Compares both, in process and in Redis.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let memory = Cache::in_process();
    let redis = servers::cache("observed")?.connect().await?;
    for (name, cache, tasks) in [
        ("observed-memory", memory, 1),
        ("observed-redis-1", redis.clone(), 1),
        ("observed-redis-64", redis, MANY),
    ] {
        let find = Find::filled(&cache, &pool, ROWS).await?;
        let bare = Unobserved(Flight::repository(&cache, pool.clone()));
        let is_memory = name == "observed-memory";
        let contest = Contest::new(tasks, ROWS);
        let variants = if is_memory {
            contest
                .calls_per_operation(u32::try_from(BATCH)?)
                .enter("not observed", Many(bare))
                .enter("observed", Many(find.clone()))
                .run(effort)
                .await?
        } else {
            contest
                .enter("not observed", bare)
                .enter("observed", find.clone())
                .run(effort)
                .await?
        };
        find.check_hits()?;
        report::variants(&variants);
        let latency = variants[1].ratio(&variants[0], Figure::Latency);
        report::ratio(name, latency, Goal::AtMost(1.05));
    }
    Ok(())
}

/// Two reads take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let find = Find::filled(&Cache::in_process(), &pool, ROWS).await?;
    let variants = Contest::new(1, ROWS)
        .calls_per_operation(u32::try_from(BATCH)?)
        .enter("once", Many(find.clone()))
        .enter("twice", Many(Twice(find)))
        .run(effort)
        .await?;
    let ratio = variants[1].ratio(&variants[0], Figure::Latency);
    expect_ratio("two reads to one", ratio, 1.8, 2.2)
}
