//! What the in-process store keeps: the reads of an application, replayed through `find`.
//!
//! One task, so that every policy sees the same order. The rows are in SQLite, whose loads take least. Beside it stand a plain LRU
//! and the map that the store is built on, each by itself, without a database. Then 64 tasks replay the trace over Redis, where
//! nothing is dropped: each row is loaded once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use larder::{Cache, Cached};
use lru::LruCache;
use lzma_rust2::XzReader;
use quick_cache::sync::Cache as Map;
use serde::{Deserialize, Serialize};
use sqlx::{
    QueryBuilder, Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use crate::{
    Failure,
    measure::Effort,
    report::{self, Goal},
    servers,
};

/// The reads of a web shop. `benches/data/README.md` says where they are from.
const TRACE: &[u8] = include_bytes!("../../data/orm-busy.trace.xz");
/// How many rows the stores hold.
const CAPACITIES: [usize; 3] = [1_000, 5_000, 20_000];
/// How many tasks replay the trace over Redis.
const TASKS: usize = 64;
/// How many rows one statement inserts.
const ROWS: usize = 500;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "trace_rows", ttl = "1d", jitter = 0)]
struct TraceRow {
    #[cached(id)]
    id: i64,
    name: String,
}

fn trace() -> Result<Vec<i64>, Failure> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut XzReader::new(TRACE, false), &mut bytes)?;
    let numbers = bytes.as_chunks::<4>().0.iter();
    Ok(numbers
        .map(|number| i64::from(u32::from_be_bytes(*number)))
        .collect())
}

fn distinct(trace: &[i64]) -> Vec<i64> {
    let mut ids = trace.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A database in memory with the rows.
async fn database(ids: &[i64]) -> Result<SqlitePool, Failure> {
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(SqliteConnectOptions::new().in_memory(true))
        .await?;
    sqlx::query("CREATE TABLE trace_rows (id BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)")
        .execute(&pool)
        .await?;
    for ids in ids.chunks(ROWS) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO trace_rows ");
        insert.push_values(ids, |mut row, id| {
            row.push_bind(id).push_bind(format!("row {id}"));
        });
        insert.build().execute(&pool).await?;
    }
    Ok(pool)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio of counts need not be exact"
)]
fn ratio(hits: usize, reads: usize) -> f64 {
    hits as f64 / reads as f64
}

fn of_lru(trace: &[i64], capacity: usize) -> Result<f64, Failure> {
    let mut map = LruCache::new(capacity.try_into()?);
    let mut hits = 0;
    for id in trace {
        match map.get(id) {
            Some(()) => hits += 1,
            None => drop(map.put(*id, ())),
        }
    }
    Ok(ratio(hits, trace.len()))
}

fn of_map(trace: &[i64], capacity: usize) -> f64 {
    let map = Map::new(capacity);
    let mut hits = 0;
    for id in trace {
        match map.get(id) {
            Some(()) => hits += 1,
            None => map.insert(*id, ()),
        }
    }
    ratio(hits, trace.len())
}

async fn of_larder(trace: &[i64], capacity: usize, pool: &SqlitePool) -> Result<f64, Failure> {
    let cache = Cache::builder().capacity(capacity).build()?;
    let rows = TraceRow::repository(&cache, pool.clone());
    for id in trace {
        rows.find(*id).await?.ok_or("a row is missing")?;
    }
    rows.stats()
        .hit_ratio()
        .ok_or_else(|| "nothing was read".into())
}

/// Returns how many statements each row cost over Redis.
async fn loads_over_redis(trace: Vec<i64>, rows: usize, pool: &SqlitePool) -> Result<f64, Failure> {
    let cache = servers::cache("trace")?.connect().await?;
    let repository = TraceRow::repository(&cache, pool.clone());
    let (trace, next) = (Arc::new(trace), Arc::new(AtomicUsize::new(0)));
    let tasks = (0..TASKS).map(|_| {
        let (trace, next, rows) = (Arc::clone(&trace), Arc::clone(&next), repository.clone());
        tokio::spawn(async move {
            while let Some(id) = trace.get(next.fetch_add(1, Ordering::Relaxed)) {
                rows.find(*id).await?;
            }
            Ok::<_, larder::Error>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    let loads = usize::try_from(repository.stats().loads)?;
    Ok(ratio(loads, rows))
}

/// Replays the trace through all of them.
pub(crate) async fn run(_effort: Effort) -> Result<(), Failure> {
    let trace = trace()?;
    let ids = distinct(&trace);
    println!("  {} reads of {} rows", trace.len(), ids.len());
    let pool = database(&ids).await?;
    for capacity in CAPACITIES {
        let (lru, map) = (of_lru(&trace, capacity)?, of_map(&trace, capacity));
        let larder = of_larder(&trace, capacity, &pool).await?;
        println!("  {capacity} rows: LRU {lru:.3}, quick_cache {map:.3}, larder {larder:.3}");
        let name = format!("orm-trace-{capacity}");
        report::value(&name, larder / lru.max(map), Goal::AtLeast(1.0));
    }
    let statements = loads_over_redis(trace, ids.len(), &pool).await?;
    report::value("orm-trace-statements", statements, Goal::AtMost(1.001));
    Ok(())
}

/// A store that holds everything misses each row once, and one that holds nothing misses always.
pub(crate) async fn control(_effort: Effort) -> Result<(), Failure> {
    let trace = trace()?;
    let ids = distinct(&trace);
    let part = &trace[..trace.len() / 10];
    let best = 1.0 - ratio(distinct(part).len(), part.len());
    let pool = database(&ids).await?;
    let all = of_larder(part, ids.len() * 2, &pool).await?;
    let few = of_larder(part, 10, &pool).await?;
    println!(
        "control orm-trace: {all:.4} of at most {best:.4} with room for all, {few:.4} with room for ten"
    );
    match (all - best).abs() < 1e-9 && few < 0.7 {
        true => Ok(()),
        false => Err("the hit ratio is not what it is known to be".into()),
    }
}
