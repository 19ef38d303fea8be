//! A Redis that accepts and never answers: what a read costs then, beside a read past the cache.
//!
//! The server is one of the benchmark's own, stopped with SIGSTOP. The first reads wait for the response time-out; then the
//! circuit breaker keeps further ones from being sent.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use larder::Cache;
use larder_testing::clock::now;
use sqlx::Postgres;

use super::{expect_ratio, reads::Twice};
use crate::{
    Failure,
    entity::{Flight, FlightRepository, ROWS, create_tables},
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal, time},
    servers,
};

/// How long a command may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(200);

/// A Redis server that is frozen, until it is dropped.
struct Frozen {
    server: Child,
    folder: std::path::PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // A server that is gone already needs neither.
        let _gone = self.server.kill();
        let _reaped = self.server.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

/// Reads through the cache.
#[derive(Clone)]
struct Find(FlightRepository<Postgres>);

impl Operation for Find {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.0.find(id).await?.ok_or("a row is missing")?;
        Ok(())
    }
}

/// Reads past the cache.
#[derive(Clone)]
struct FindUncached(FlightRepository<Postgres>);

impl Operation for FindUncached {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.0.find_uncached(id).await?.ok_or("a row is missing")?;
        Ok(())
    }
}

pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
    let folder = std::env::temp_dir().join(servers::namespace("frozen"));
    std::fs::create_dir_all(&folder)?;
    let socket = folder.join("redis.sock");
    let program = std::env::var("LARDER_REDIS_SERVER").unwrap_or("redis-server".to_owned());
    let server = Command::new(program)
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(&folder)
        .stdout(Stdio::null())
        .spawn()?;
    let frozen = Frozen { server, folder };
    let cache = Cache::builder()
        .redis(format!("redis+unix://{}", socket.display()))
        .namespace(servers::namespace("frozen"))
        .response_timeout(RESPONSE_TIMEOUT)
        .connect()
        .await?;
    let repository = Flight::repository(&cache, pool);
    // Once a row is served from the cache, the server is up and connected to.
    while repository.find_outcome(1).await?.origin != larder::Origin::Cache {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stopped = Command::new("kill")
        .args(["-STOP", &frozen.server.id().to_string()])
        .status()?;
    if !stopped.success() {
        return Err("the server could not be stopped".into());
    }
    let began = now();
    repository.find(1).await?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "it is printed with three digits"
    )]
    let first_ns = (now() - began) as f64;
    println!(
        "  the first read took {}, the response time-out is {} ms",
        time(first_ns),
        RESPONSE_TIMEOUT.as_millis()
    );
    let variants = Contest::new(1, ROWS)
        .enter("find_uncached", FindUncached(repository.clone()))
        .enter("find, Redis frozen", Find(repository.clone()))
        .run(effort)
        .await?;
    let stats = repository.stats();
    if stats.hits > 1 {
        return Err(format!("a frozen server has answered: {stats:?}").into());
    }
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Latency);
    report::ratio("frozen-read", ratio, Goal::AtMost(1.10));
    drop(frozen);
    Ok(())
}

/// Two reads take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let read = FindUncached(Flight::repository(&Cache::in_process(), pool));
    let variants = Contest::new(1, ROWS)
        .enter("once", read.clone())
        .enter("twice", Twice(read))
        .run(effort)
        .await?;
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two reads to one", ratio, 0.47, 0.53)
}
