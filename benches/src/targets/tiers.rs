//! Hits of 64 tasks in the memory of this process, beside programs that keep rows in memory and in Redis.
//!
//! Such a program answers from its own memory, so another process may have changed the row meanwhile: it is stale until its time is over.
//! larder over Redis asks Redis each time, which is slower and never stale. In process it answers from memory as well, for one process.
//! Both ratios are printed.

use std::{sync::Arc, time::Duration};

use larder::Cache;
use multi_tier_cache::{CacheStrategy, CacheSystem, error::CacheError};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use sqlx::PgPool;

use super::reads::{Find, TTL_SECONDS, fill, present, select};
use crate::{
    Failure,
    entity::{Flight, create_tables_of},
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

const TASKS: u64 = 64;
/// As many as multi-tier-cache keeps in memory as it comes, with some room.
const ROWS: u64 = 4_000;
/// How many rows one call reads. Reading the clock takes longer than reading the memory.
const BATCH: u32 = 50;

/// moka before Redis, by hand: look into the memory, then into Redis, then into the database, and store on the way back.
#[derive(Clone)]
struct Moka {
    memory: moka::future::Cache<i64, Arc<Flight>>,
    connection: MultiplexedConnection,
    prefix: Arc<str>,
    pool: PgPool,
}

impl Operation for Moka {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        if let Some(row) = self.memory.get(&id).await {
            return present(Some(row));
        }
        let key = format!("{}:{id}", self.prefix);
        let bytes: Option<Vec<u8>> = self.connection.get(&key).await?;
        let row = match bytes {
            Some(bytes) => serde_json::from_slice(&bytes)?,
            None => {
                let Some(row) = select(&self.pool, id).await? else {
                    return present::<()>(None);
                };
                let json = serde_json::to_vec(&row)?;
                let () = self.connection.set_ex(&key, json, TTL_SECONDS).await?;
                row
            }
        };
        self.memory.insert(id, Arc::new(row)).await;
        Ok(())
    }
}

/// Reads through multi-tier-cache, as its documentation says for rows of a database.
#[derive(Clone)]
struct MultiTier {
    system: Arc<CacheSystem>,
    prefix: Arc<str>,
    pool: PgPool,
}

impl Operation for MultiTier {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let (key, pool) = (format!("{}:{id}", self.prefix), self.pool.clone());
        let strategy = CacheStrategy::Custom(Duration::from_secs(TTL_SECONDS));
        let load = || async move {
            let row = select(&pool, id).await;
            let row = row.map_err(|error| CacheError::InternalError(error.to_string()))?;
            row.ok_or_else(|| CacheError::InternalError(format!("there is no row {id}")))
        };
        let row: Flight = (self.system.cache_manager())
            .get_or_compute_typed(&key, strategy, load)
            .await?;
        present(Some(row))
    }
}

/// Several rows in one call.
#[derive(Clone)]
struct Batch<O>(O);

impl<O: Operation + Sync> Operation for Batch<O> {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let rows = i64::try_from(ROWS)?;
        for step in 0..i64::from(BATCH) {
            self.0.call((id + step * 61) % rows + 1).await?;
        }
        Ok(())
    }
}

/// Compares larder, in process and over Redis, with both.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables_of(&pool, ROWS).await?;
    let packages = ["larder", "moka", "multi-tier-cache", "redis"];
    servers::describe(Some(&pool), &packages).await?;
    println!("  {ROWS} rows, every read a hit, tasks: {TASKS}");
    let cache = servers::cache("tiers")?.connect().await?;
    let over_redis = Find::filled(&cache, &pool, ROWS).await?;
    let cache = Cache::builder()
        .capacity(usize::try_from(ROWS * 2)?)
        .build()?;
    let in_process = Find::filled(&cache, &pool, ROWS).await?;
    let moka = Moka {
        memory: moka::future::Cache::builder()
            .max_capacity(ROWS * 2)
            .time_to_live(Duration::from_secs(TTL_SECONDS))
            .build(),
        connection: servers::redis().await?,
        prefix: servers::namespace("moka").into(),
        pool: pool.clone(),
    };
    let multi_tier = MultiTier {
        system: Arc::new(CacheSystem::with_redis_url(&servers::redis_url()?).await?),
        prefix: servers::namespace("multi-tier").into(),
        pool: pool.clone(),
    };
    fill(&moka, ROWS).await?;
    fill(&multi_tier, ROWS).await?;
    // A closed pool fails every load, so from here on a read that is no hit ends the run.
    pool.close().await;
    let variants = Contest::new(TASKS, ROWS)
        .calls_per_operation(BATCH)
        .enter("moka and Redis by hand", Batch(moka))
        .enter("multi-tier-cache", Batch(multi_tier))
        .enter("larder find, in process", Batch(in_process.clone()))
        .enter("larder find, over Redis", Batch(over_redis.clone()))
        .run(effort)
        .await?;
    in_process.check_hits()?;
    over_redis.check_hits()?;
    report::variants(&variants);
    let [moka, multi_tier, in_process, over_redis] = &variants[..] else {
        return Err("four variants were measured".into());
    };
    let ratios = [
        ("tiers-moka", in_process, moka),
        ("tiers-multi-tier-cache", in_process, multi_tier),
        ("tiers-moka-over-redis", over_redis, moka),
        ("tiers-multi-tier-cache-over-redis", over_redis, multi_tier),
    ];
    for (name, larder, other) in ratios {
        report::ratio(name, larder.ratio(other, Figure::Throughput), Goal::None);
    }
    Ok(())
}
