//! Hits in Redis of 64 tasks, beside other caching libraries, each used as its documentation says.
//!
//! `cached` keeps `MessagePack` and asks with a pipeline of one GET, as its macro does. `hitbox` keeps bincode in a hash and
//! asks for value and time to live.

use std::{fmt, sync::Arc, time::Duration};

use cached::{AsyncRedisCache, ConcurrentCachedAsync};
use hitbox::policy::PolicyConfig;
use hitbox_fn::Cache;
use hitbox_redis::{ConnectionMode, RedisBackend};
use sqlx::PgPool;

use super::reads::{Find, TTL_SECONDS, fill, present, select};
use crate::{
    Failure,
    entity::{Flight, ROWS, create_tables},
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

const TASKS: u64 = 64;

/// Reads through `cached`, as the macro for shared caches expands: get; on a miss load and set.
#[derive(Clone)]
struct Cached {
    cache: AsyncRedisCache<i64, Flight>,
    pool: PgPool,
}

impl Operation for Cached {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        if let Some(row) = self.cache.async_cache_get(&id).await? {
            return present(Some(row));
        }
        let row = select(&self.pool, id).await?;
        if let Some(row) = &row {
            self.cache.async_cache_set(id, row.clone()).await?;
        }
        present(row)
    }
}

/// Reads through hitbox's function cache.
#[derive(Clone)]
struct Hitbox {
    cache: Cache<RedisBackend>,
    pool: PgPool,
}

/// Why hitbox's function returned no row; the library wants an error it can clone.
#[derive(Clone, Debug)]
struct NotRead(Arc<str>);

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotRead {}

// The prefix is a literal, so runs share their entries, which all hold the same rows.
#[hitbox_fn::cached(prefix = "larder-benches", skip(pool))]
async fn flight(id: i64, pool: PgPool) -> Result<Flight, NotRead> {
    match select(&pool, id).await {
        Ok(Some(row)) => Ok(row),
        Ok(None) => Err(NotRead("a row that exists was not found".into())),
        Err(error) => Err(NotRead(error.to_string().into())),
    }
}

impl Operation for Hitbox {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let row = flight(id, self.pool.clone()).cache(&self.cache).await?;
        present(Some(row))
    }
}

/// Compares larder with both.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(
        Some(&pool),
        &["larder", "cached", "hitbox", "hitbox-redis", "redis"],
    )
    .await?;
    println!("  {ROWS} rows, every read a hit, tasks: {TASKS}");

    let cache = servers::cache("peers")?.connect().await?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let cached = Cached {
        cache: AsyncRedisCache::builder(servers::namespace("cached"))
            .connection_string(&servers::redis_url()?)
            .ttl(Duration::from_secs(TTL_SECONDS))
            .build()
            .await?,
        pool: pool.clone(),
    };
    let backend = RedisBackend::builder()
        .connection(ConnectionMode::single(servers::redis_url()?))
        .build()?;
    let hitbox = Hitbox {
        cache: Cache::builder()
            .backend(backend)
            .policy(
                PolicyConfig::builder()
                    .ttl(Duration::from_secs(TTL_SECONDS))
                    .build(),
            )
            .build(),
        pool: pool.clone(),
    };
    fill(&cached, ROWS).await?;
    fill(&hitbox, ROWS).await?;
    // A closed pool fails every load, so from here on a read that is no hit ends the run.
    pool.close().await;
    let variants = Contest::new(TASKS, ROWS)
        .enter("larder find, MessagePack", find.clone())
        .enter("cached, AsyncRedisCache", cached)
        .enter("hitbox, RedisBackend", hitbox)
        .run(effort)
        .await?;
    find.check_hits()?;
    report::variants(&variants);
    let [larder, cached, hitbox] = &variants[..] else {
        return Err("three variants were measured".into());
    };
    let figure = Figure::Throughput;
    report::ratio(
        "l2-peer-cached",
        larder.ratio(cached, figure),
        Goal::AtLeast(1.2),
    );
    report::ratio(
        "l2-peer-hitbox",
        larder.ratio(hitbox, figure),
        Goal::AtLeast(1.9),
    );
    Ok(())
}
