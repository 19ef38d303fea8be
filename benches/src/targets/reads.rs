//! Reads of a row through Redis, as different programs make them.

use std::sync::Arc;

use larder::Cache;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use sqlx::{PgPool, Postgres};

use crate::{
    Failure,
    entity::{Flight, FlightRepository, ROWS},
    measure::Operation,
    servers,
};

/// How long entries live, longer than a run.
pub(crate) const TTL_SECONDS: u64 = 3600;
/// How many rows are read at a time before the measurement.
const WARMING: usize = 64;

/// The row as a program without larder reads it from the database.
pub(crate) async fn select(pool: &PgPool, id: i64) -> Result<Option<Flight>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM larder_benches.flights WHERE id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await
}

/// `find` of larder.
#[derive(Clone)]
pub(crate) struct Find {
    repository: FlightRepository<Postgres>,
    misses: u64,
}

impl Operation for Find {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.repository.find(id).await?)
    }
}

impl Find {
    /// A repository whose rows are all in the cache.
    pub(crate) async fn filled(cache: &Cache, pool: &PgPool, rows: u64) -> Result<Self, Failure> {
        let mut find = Self {
            repository: Flight::repository(cache, pool.clone()),
            misses: 0,
        };
        fill(&find, rows).await?;
        // A reader is answered before its row is stored; a second pass waits for those that are still under way.
        fill(&find, rows).await?;
        find.misses = find.repository.stats().misses;
        Ok(find)
    }

    /// Fails if a read since the filling was anything but a hit.
    pub(crate) fn check_hits(&self) -> Result<(), Failure> {
        match self.repository.stats().misses - self.misses {
            0 => Ok(()),
            misses => Err(format!("{misses} reads of larder were no hits").into()),
        }
    }
}

/// Cache-aside by hand: GET, decode JSON; on a miss SELECT and PSETEX.
#[derive(Clone)]
pub(crate) struct ByHand {
    connection: MultiplexedConnection,
    prefix: Arc<str>,
    pool: PgPool,
    ttl_ms: u64,
}

impl ByHand {
    pub(crate) async fn new(pool: &PgPool) -> Result<Self, Failure> {
        Self::with_ttl(pool, "by-hand", TTL_SECONDS * 1_000).await
    }

    pub(crate) async fn with_ttl(pool: &PgPool, part: &str, ttl_ms: u64) -> Result<Self, Failure> {
        Ok(Self {
            connection: servers::redis().await?,
            prefix: servers::namespace(part).into(),
            pool: pool.clone(),
            ttl_ms,
        })
    }

    async fn find(&mut self, id: i64) -> Result<Option<Flight>, Failure> {
        let key = format!("{}:{id}", self.prefix);
        let bytes: Option<Vec<u8>> = self.connection.get(&key).await?;
        if let Some(bytes) = bytes {
            return Ok(Some(serde_json::from_slice(&bytes)?));
        }
        let row = select(&self.pool, id).await?;
        if let Some(row) = &row {
            let json = serde_json::to_vec(row)?;
            let () = self.connection.pset_ex(&key, json, self.ttl_ms).await?;
        }
        Ok(row)
    }
}

impl Operation for ByHand {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.find(id).await?)
    }
}

/// The same work twice, on two rows, to show that twice the work is seen. The same row again would be less work: its bytes
/// are in the caches of the processors, and the page of an update is already in the database's log.
#[derive(Clone)]
pub(crate) struct Twice<O>(pub(crate) O);

impl<O: Operation + Sync> Operation for Twice<O> {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.0.call(id).await?;
        self.0.call(i64::try_from(ROWS)? + 1 - id).await
    }
}

/// Fails if there is no row, and keeps the compiler from dropping the one there is.
pub(crate) fn present<R>(row: Option<R>) -> Result<(), Failure> {
    match std::hint::black_box(row) {
        Some(_) => Ok(()),
        None => Err("a row that exists was not found".into()),
    }
}

/// Reads every row once, so that all that follows are hits.
pub(crate) async fn fill(operation: &(impl Operation + Sync), rows: u64) -> Result<(), Failure> {
    let mut tasks = tokio::task::JoinSet::new();
    for id in 1..=i64::try_from(rows)? {
        let mut operation = operation.clone();
        tasks.spawn(async move { operation.call(id).await });
        if tasks.len() >= WARMING
            && let Some(done) = tasks.join_next().await
        {
            done??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
