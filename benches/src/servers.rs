//! The servers of a run, from the environment, and what to say about them.

use std::time::Duration;

use larder::{Cache, CacheBuilder};
use redis::aio::MultiplexedConnection;
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::Failure;

/// How many connections to Postgres each variant has.
pub(crate) const POOL_SIZE: u32 = 16;

const LOCK: &str = include_str!("../Cargo.lock");

/// The address in a variable of the environment.
fn url(variable: &str, what: &str) -> Result<String, Failure> {
    std::env::var(variable).map_err(|_| {
        format!("{variable} is not set; run `cargo xtask bench`, or set it to the URL of a {what} server")
            .into()
    })
}

pub(crate) fn redis_url() -> Result<String, Failure> {
    url("LARDER_REDIS_URL", "Redis")
}

/// The connection of a hand-written variant: the one that redis-rs recommends, with its default options.
pub(crate) async fn redis() -> Result<MultiplexedConnection, Failure> {
    Ok(redis::Client::open(redis_url()?)?
        .get_multiplexed_async_connection()
        .await?)
}

/// A pool of connections that are all made.
pub(crate) async fn pool(connections: u32) -> Result<PgPool, Failure> {
    let pool = PgPoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        .connect(&url("LARDER_POSTGRES_URL", "Postgres")?)
        .await?;
    // Held together, so that the pool has to make all of them now.
    let mut held = Vec::new();
    for _ in 0..connections {
        held.push(pool.acquire().await?);
    }
    Ok(pool)
}

/// A larder cache in Redis, in a namespace that no other run has used.
pub(crate) fn cache(part: &str) -> Result<CacheBuilder, Failure> {
    Ok(cache_at(redis_url()?, part))
}

/// The same in another Redis.
pub(crate) fn cache_at(url: String, part: &str) -> CacheBuilder {
    Cache::builder().redis(url).namespace(namespace(part))
}

/// A prefix for keys that no other run has used.
pub(crate) fn namespace(part: &str) -> String {
    let run = std::process::id();
    let began = larder_testing::clock::now();
    format!("larder-benches-{run}-{began}-{part}")
}

/// Prints what a target runs against.
pub(crate) async fn describe(pool: Option<&PgPool>, packages: &[&str]) -> Result<(), Failure> {
    let mut parts = Vec::new();
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut redis().await?)
        .await?;
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    parts.push(format!("Redis {}", version.unwrap_or("unknown")));
    if let Some(pool) = pool {
        let (version, fsync, commit): (String, String, String) = sqlx::query_as(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')",
        )
        .fetch_one(pool)
        .await?;
        parts.push(format!(
            "Postgres {version} (fsync {fsync}, synchronous_commit {commit}, {POOL_SIZE} connections a variant)"
        ));
    }
    parts.extend(
        packages
            .iter()
            .map(|name| format!("{name} {}", locked(name))),
    );
    println!("  against {}", parts.join(", "));
    Ok(())
}

/// The version of a package that this program is built with. Where several are, the newest, which is last.
pub(crate) fn locked(package: &str) -> &'static str {
    let mut lines = LOCK.lines();
    let mut version = "unknown";
    while let Some(line) = lines.next() {
        if line
            .strip_prefix("name = ")
            .map(|name| name.trim_matches('"'))
            == Some(package)
            && let Some(found) = lines
                .next()
                .and_then(|line| line.strip_prefix("version = "))
        {
            version = found.trim_matches('"');
        }
    }
    version
}
