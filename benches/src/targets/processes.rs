//! What many processes cost one Redis: its processor time, its connections and their memory.
//!
//! 1. Each process is a cache with the connections, the heartbeat and the repository that a process has. All run in this one, over a
//!    Redis that serves nobody else. Each reads a row several times a second, as a process that is in use does.
//! 2. Redis counts its own processor time, its commands and its connections (`INFO`). The difference of two readings is what the
//!    processes cost it, whatever they cost this machine.
//!
//! A run in which the heartbeats do not keep up with their number says so and fails: then it is this machine that is measured.

use std::{collections::HashMap, time::Duration};

use larder::Cache;
use larder_testing::clock::now;
use redis::aio::MultiplexedConnection;
use sqlx::{PgPool, Postgres};
use tokio::task::JoinSet;

use super::expect_ratio;
use crate::{
    Failure,
    entity::{Flight, FlightRepository, create_tables_of},
    measure::{Effort, Spread},
    redis_server::RedisServer,
    report::{self, Goal, count},
    servers,
};

/// How many processes there are, one measurement after the other.
const CROWDS: [usize; 3] = [250, 1_000, 3_000];
/// How many connections Redis accepts.
const MOST_CLIENTS: &str = "20000";
const ROWS: u64 = 100;
/// How often each process reads a row.
const PAUSE: Duration = Duration::from_millis(330);
/// New processes are quiet when Redis executes as many commands in a look as in the one before, within this share.
const QUIET: f64 = 0.05;
/// How long a look takes, and how many there are at most.
const LOOK: Duration = Duration::from_secs(2);
const MOST_LOOKS: usize = 30;
/// How long they are watched.
const WATCH: Duration = Duration::from_secs(8);
/// How many processes are started at a time.
const AT_ONCE: usize = 32;
/// How many heartbeats a process in use sends in a second, at least.
const LEAST_BEATS: f64 = 2.0;

/// The processes, each a task that reads now and then.
struct Crowd {
    redis: RedisServer,
    pool: PgPool,
    processes: JoinSet<Result<(), Failure>>,
}

/// What Redis says of itself.
struct Reading {
    at_ns: u64,
    fields: HashMap<String, String>,
}

/// What the processes cost it, a second.
struct Cost {
    /// The share of one core.
    core: f64,
    /// Heartbeats.
    beats: f64,
    commands: f64,
}

impl Crowd {
    async fn new() -> Result<Self, Failure> {
        let pool = servers::pool(servers::POOL_SIZE).await?;
        create_tables_of(&pool, ROWS).await?;
        Ok(Self {
            redis: RedisServer::start(&["--maxclients", MOST_CLIENTS])?,
            pool,
            processes: JoinSet::new(),
        })
    }

    /// Starts processes until there are so many.
    async fn grow_to(&mut self, wanted: usize) -> Result<(), Failure> {
        while self.processes.len() < wanted {
            let missing = (wanted - self.processes.len()).min(AT_ONCE);
            let mut starting = JoinSet::new();
            for _ in 0..missing {
                let (url, pool) = (self.redis.url(), self.pool.clone());
                starting.spawn(async move { start(url, pool).await });
            }
            while let Some(started) = starting.join_next().await {
                let (cache, repository) = started??;
                let number = self.processes.len();
                self.processes
                    .spawn(use_now_and_then(cache, repository, number));
            }
        }
        self.check()
    }

    /// Fails if a process has.
    fn check(&mut self) -> Result<(), Failure> {
        match self.processes.try_join_next() {
            Some(ended) => ended?.and_then(|()| Err("a process has ended".into())),
            None => Ok(()),
        }
    }

    /// Watches them for a while.
    async fn watch(&mut self, connection: &mut MultiplexedConnection) -> Result<Cost, Failure> {
        quiet(connection).await?;
        let (cost, after) = look(connection, WATCH).await?;
        self.check()?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand fit")]
        let processes = self.processes.len() as f64;
        println!(
            "  {processes} processes: {:.3} of a core, {} connections with {} bytes, {} heartbeats/s of {:.1} us, {} commands/s",
            cost.core,
            after.text("connected_clients"),
            after.text("mem_clients_normal"),
            count(cost.beats),
            after.number("usec_per_call of info")?,
            count(cost.commands),
        );
        if cost.beats < LEAST_BEATS * processes {
            return Err(format!(
                "{processes} processes have sent {:.0} heartbeats a second: this machine does not keep up with them",
                cost.beats
            )
            .into());
        }
        Ok(cost)
    }
}

async fn start(url: String, pool: PgPool) -> Result<(Cache, FlightRepository<Postgres>), Failure> {
    let cache = Cache::builder().redis(url).namespace("crowd");
    let cache = cache.connect().await?;
    let repository = Flight::repository(&cache, pool);
    Ok((cache, repository))
}

/// Reads a row now and then, for ever.
async fn use_now_and_then(
    _cache: Cache,
    repository: FlightRepository<Postgres>,
    number: usize,
) -> Result<(), Failure> {
    let id = i64::try_from(number)? % i64::try_from(ROWS)? + 1;
    loop {
        repository.find(id).await?.ok_or("a row is missing")?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns what the processes cost for so long, and what Redis says at the end.
async fn look(
    connection: &mut MultiplexedConnection,
    time: Duration,
) -> Result<(Cost, Reading), Failure> {
    let before = Reading::take(connection).await?;
    tokio::time::sleep(time).await;
    let after = Reading::take(connection).await?;
    Ok((Cost::between(&before, &after)?, after))
}

/// Returns when new processes no longer do what they do once.
async fn quiet(connection: &mut MultiplexedConnection) -> Result<(), Failure> {
    let mut before = f64::INFINITY;
    for _ in 0..MOST_LOOKS {
        let (Cost { commands, .. }, _) = look(connection, LOOK).await?;
        if (commands - before).abs() <= QUIET * before && before.is_finite() {
            return Ok(());
        }
        before = commands;
    }
    Err("the processes do not become quiet".into())
}

impl Reading {
    async fn take(connection: &mut MultiplexedConnection) -> Result<Self, Failure> {
        let text: String = redis::cmd("INFO")
            .arg("everything")
            .query_async(connection)
            .await?;
        let at_ns = now();
        let mut fields = HashMap::new();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let Some(command) = name.strip_prefix("cmdstat_") else {
                fields.insert(name.to_owned(), value.trim().to_owned());
                continue;
            };
            for (part, value) in value.split(',').filter_map(|part| part.split_once('=')) {
                fields.insert(format!("{part} of {command}"), value.trim().to_owned());
            }
        }
        Ok(Self { at_ns, fields })
    }

    fn text(&self, name: &str) -> &str {
        self.fields.get(name).map_or("?", String::as_str)
    }

    fn number(&self, name: &str) -> Result<f64, Failure> {
        let number = self.text(name).parse();
        number.map_err(|error| format!("Redis does not say `{name}`: {error}").into())
    }
}

impl Cost {
    #[expect(clippy::cast_precision_loss, reason = "a few seconds fit")]
    fn between(before: &Reading, after: &Reading) -> Result<Self, Failure> {
        let seconds = (after.at_ns - before.at_ns) as f64 / 1e9;
        let difference = |name: &str| -> Result<f64, Failure> {
            Ok((after.number(name)? - before.number(name)?) / seconds)
        };
        Ok(Self {
            core: difference("used_cpu_user")? + difference("used_cpu_sys")?,
            beats: difference("calls of info")?,
            commands: difference("total_commands_processed")?,
        })
    }
}

/// Measures crowds of different sizes.
pub(crate) async fn run(_effort: Effort) -> Result<(), Failure> {
    servers::describe(None, &["larder", "redis"]).await?;
    let mut crowd = Crowd::new().await?;
    let mut connection = crowd.redis.connect().await?;
    for processes in CROWDS {
        crowd.grow_to(processes).await?;
        let cost = crowd.watch(&mut connection).await?;
        report::value(
            &format!("processes-{processes}-core"),
            cost.core,
            Goal::None,
        );
    }
    Ok(())
}

/// Four times as many processes cost about four times as much.
pub(crate) async fn control(_effort: Effort) -> Result<(), Failure> {
    let mut crowd = Crowd::new().await?;
    let mut connection = crowd.redis.connect().await?;
    let mut costs = Vec::new();
    for processes in [300, 1_200] {
        crowd.grow_to(processes).await?;
        costs.push(crowd.watch(&mut connection).await?.core);
    }
    let ratio = costs[1] / costs[0];
    let seen = Spread {
        low: ratio,
        median: ratio,
        high: ratio,
    };
    expect_ratio("four times as many processes", seen, 3.0, 5.0)
}
