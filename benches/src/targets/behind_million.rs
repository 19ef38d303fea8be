//! A flood: a million writes to ten thousand rows, one in twenty of which the database refuses, while flushers run.
//!
//! 1. Each task has rows of its own, so that the last good write of a row is known. A poison write breaks a `CHECK`.
//! 2. Meanwhile the memory of this process and the lengths of the queues are looked at again and again.
//! 3. Afterwards every row must be what its last good write made of it, in the table and through the repository; every dead
//!    letter must be of a poison write; and the queues must be empty.
//!
//! The figures are bounds, not ratios: no other program is beside it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_testing::clock::now;
use redis::aio::MultiplexedConnection;
use sqlx::{PgPool, Postgres};
use tokio::task::JoinSet;

use crate::{
    Failure,
    entity::{Flight, QueuedFlight, QueuedFlightRepository, ROWS, all_flights, create_tables},
    measure::{Effort, Rows},
    redis_server::{EVERY_SECOND, RedisServer},
    report::{self, Goal, time},
    servers,
};

const TASKS: u64 = 64;
/// One in so many writes is poison.
const POISON: u64 = 20;
/// What all queues may hold together with the default options.
const MAX_PENDING: u64 = 100_000;
/// How often memory and queues are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long the queues may take to become empty at the end.
const DRAINING: Duration = Duration::from_secs(300);
/// The name of the constraint, by which a dead letter tells why it died.
const CONSTRAINT: &str = "seats_are_left";
/// Into how many parts the run is cut to show whether memory grows.
const PARTS: usize = 4;
/// How many writes the control makes.
const CONTROL_WRITES: u64 = 20_000;

/// The last good write of each row that had one.
type Written = HashMap<i64, i64>;

/// What was seen during the flood.
#[derive(Debug, Default)]
struct Seen {
    /// The most resident memory in each part of the run, in KiB.
    resident: [u64; PARTS],
    /// The most writes that were in all queues at once.
    queued: u64,
    /// The most entries in all streams at once.
    streamed: u64,
    looks: u64,
}

/// A flood, and everything that is checked behind it.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let flood = Flood::make(effort.writes).await?;
    flood.check().await
}

/// A row that is changed behind larder's back, and a good write among the dead letters, are found.
pub(crate) async fn control(_: Effort) -> Result<(), Failure> {
    let flood = Flood::make(CONTROL_WRITES).await?;
    flood.check().await?;
    for sabotage in [
        "UPDATE larder_benches.flights SET seats_left = seats_left + 1 WHERE id = 77",
        "UPDATE larder_benches.flights SET seats_left = seats_left - 1 WHERE id = 77;
         UPDATE larder_dead_letters SET error = 'another' WHERE ctid = (SELECT max(ctid) FROM larder_dead_letters)",
    ] {
        sqlx::raw_sql(sabotage).execute(&flood.pool).await?;
        let Err(found) = flood.check().await else {
            return Err(format!("this was not found: {sabotage}").into());
        };
        println!("control: found that {found}");
    }
    Ok(())
}

struct Flood {
    pool: PgPool,
    namespace: String,
    original: Vec<Flight>,
    written: Written,
    poisoned: u64,
    repository: QueuedFlightRepository<Postgres>,
    /// Last, so that it outlives those that use it.
    server: RedisServer,
}

impl Flood {
    async fn make(writes: u64) -> Result<Self, Failure> {
        let pool = servers::pool(servers::POOL_SIZE).await?;
        create_tables(&pool).await?;
        let constrain = format!(
            "ALTER TABLE larder_benches.flights ADD CONSTRAINT {CONSTRAINT} CHECK (seats_left >= 0)"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(constrain))
            .execute(&pool)
            .await?;
        servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
        println!(
            "  {writes} writes by {TASKS} tasks to {ROWS} rows, one in {POISON} poison; default options, AOF everysec"
        );
        let original = all_flights(&pool).await?;
        let server = RedisServer::start(EVERY_SECOND)?;
        let namespace = servers::namespace("flood");
        let cache = larder::Cache::builder()
            .redis(server.url())
            .namespace(namespace.clone());
        let repository = QueuedFlight::repository(&cache.connect().await?, pool.clone());
        repository.install().await?;
        let flusher = repository.start_flushing().await?;

        let made = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let watch = watch(
            server.connect().await?,
            made.clone(),
            writes,
            is_over.clone(),
        );
        let watch = tokio::spawn(watch);
        let before = resident()?;
        let began = now();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let mine = i64::try_from(task)?;
            let mine = original
                .iter()
                .filter(|row| row.id % TASKS.cast_signed() == mine);
            let mine: Vec<Flight> = mine.cloned().collect();
            let count = writes / TASKS + u64::from(task < writes % TASKS);
            tasks.spawn(pour(repository.clone(), mine, task, count, made.clone()));
        }
        let (mut written, mut poisoned) = (Written::new(), 0);
        while let Some(done) = tasks.join_next().await {
            let (mine, poison) = done??;
            written.extend(mine);
            poisoned += poison;
        }
        let acknowledged = now() - began;
        flusher.shutdown(DRAINING).await?;
        let flushed = now() - began;
        is_over.store(true, Ordering::Relaxed);
        let seen = watch.await??;
        let stats = repository.stats();
        println!(
            "  acknowledged after {}, in the database after {}: {} writes/s; {} writes met a full queue",
            time(float(acknowledged)),
            time(float(flushed)),
            report::count(float(writes) * 1e9 / float(flushed)),
            stats.backpressure
        );
        println!(
            "  resident memory: {} MiB before, at most {} MiB in the four parts of the run",
            before / 1024,
            seen.resident.map(|kib| (kib / 1024).to_string()).join(", ")
        );
        println!(
            "  queues: at most {} writes at once, {} entries in the streams, looked at {} times",
            seen.queued, seen.streamed, seen.looks
        );
        println!(
            "  poison {poisoned}, dead letters {} (others were overwritten in their batch), flushes {}, {:.0} \
             statements per 1,000 writes",
            stats.dead_letters,
            stats.flushes,
            float(stats.flush_statements) * 1e3 / float(stats.flushed_writes)
        );
        if seen.queued > MAX_PENDING {
            return Err(
                format!("the queues held {} writes, more than they may", seen.queued).into(),
            );
        }
        if stats.flushed_writes != writes || stats.lost_writes > 0 || stats.write_errors > 0 {
            return Err(format!("not all of the {writes} writes were flushed: {stats:?}").into());
        }
        Ok(Self {
            pool,
            namespace,
            original,
            written,
            poisoned,
            repository,
            server,
        })
    }

    /// Fails unless every good row is right, every dead letter was poison, and nothing is queued.
    async fn check(&self) -> Result<(), Failure> {
        let wanted = |row: &Flight| self.written.get(&row.id).copied().unwrap_or(row.seats_left);
        let table = all_flights(&self.pool).await?;
        if table.len() != self.original.len() {
            return Err(format!("the table has {} rows", table.len()).into());
        }
        for (row, original) in table.iter().zip(&self.original) {
            let (is, wanted) = (row.seats_left, wanted(original));
            if (row.id, is) != (original.id, wanted) {
                return Err(
                    format!("row {} is {is}, and its last good write {wanted}", row.id).into(),
                );
            }
            let read = self
                .repository
                .find(row.id)
                .await?
                .map(|row| row.seats_left);
            if read != Some(wanted) {
                return Err(format!("row {} is read as {read:?}, not {wanted}", row.id).into());
            }
        }
        let letters: (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(*) FILTER (WHERE strpos(error, $2) > 0)
             FROM larder_dead_letters WHERE strpos(queue, $1) > 0",
        )
        .bind(&self.namespace)
        .bind(CONSTRAINT)
        .fetch_one(&self.pool)
        .await?;
        let (dead, of_poison) = (letters.0.cast_unsigned(), letters.1.cast_unsigned());
        if dead != self.repository.stats().dead_letters || dead > self.poisoned {
            return Err(format!("{dead} letters are in the table").into());
        }
        if dead != of_poison {
            return Err(format!("{} dead letters are of good writes", dead - of_poison).into());
        }
        let mut connection = self.server.connect().await?;
        let states = states(&mut connection).await?;
        let (queued, streamed) = lengths(&mut connection, &states).await?;
        if (queued, streamed) != (0, 0) {
            return Err(
                format!("{queued} writes are queued still, {streamed} in the streams").into(),
            );
        }
        println!(
            "  all {ROWS} rows are what their last good writes made of them; all letters are of poison"
        );
        report::value("behind-million-wrong-rows", 0.0, Goal::Exactly(0.0));
        Ok(())
    }
}

/// Makes writes to rows of its own. The last good one of each row, and how many were poison.
async fn pour(
    repository: QueuedFlightRepository<Postgres>,
    mut rows: Vec<Flight>,
    task: u64,
    count: u64,
    made: Arc<AtomicU64>,
) -> Result<(Written, u64), Failure> {
    let mut picked = Rows::new(task, rows.len() as u64);
    let (mut written, mut poisoned) = (Written::new(), 0);
    for number in 1..=i64::try_from(count)? {
        let row = &mut rows[usize::try_from(picked.draw() - 1)?];
        let is_poison = picked.bits().is_multiple_of(POISON);
        row.seats_left = if is_poison { -number } else { number };
        repository.save(&row.clone().into()).await?;
        if is_poison {
            poisoned += 1;
        } else {
            written.insert(row.id, number);
        }
        made.fetch_add(1, Ordering::Relaxed);
    }
    Ok((written, poisoned))
}

/// Looks at memory and queues until the flood is over.
async fn watch(
    mut connection: MultiplexedConnection,
    made: Arc<AtomicU64>,
    writes: u64,
    is_over: Arc<AtomicBool>,
) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    let states = states(&mut connection).await?;
    let mut ticks = tokio::time::interval(LOOK);
    while !is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let part = usize::try_from(made.load(Ordering::Relaxed) * PARTS as u64 / writes)?;
        let most = &mut seen.resident[part.min(PARTS - 1)];
        *most = (*most).max(resident()?);
        let (queued, streamed) = lengths(&mut connection, &states).await?;
        seen.queued = seen.queued.max(queued);
        seen.streamed = seen.streamed.max(streamed);
        seen.looks += 1;
    }
    Ok(seen)
}

/// Where the partitions keep their numbers. They all have a queue once flushing has begun.
async fn states(connection: &mut MultiplexedConnection) -> Result<Vec<Vec<u8>>, Failure> {
    Ok(redis::cmd("KEYS")
        .arg("larder:q:*:state")
        .query_async(connection)
        .await?)
}

/// How many writes are queued, and how many entries the streams have, of all partitions at one instant.
async fn lengths(
    connection: &mut MultiplexedConnection,
    states: &[Vec<u8>],
) -> Result<(u64, u64), Failure> {
    let look = redis::Script::new(
        "local queued, streamed = 0, 0
         for _, state in ipairs(KEYS) do
           local numbers = redis.call('HMGET', state, 'n', 't', 'l')
           queued = queued + tonumber(numbers[1]) - tonumber(numbers[2])
           streamed = streamed + redis.call('XLEN', numbers[3])
         end
         return { queued, streamed }",
    );
    let mut look = look.prepare_invoke();
    for state in states {
        look.key(state);
    }
    Ok(look.invoke_async(connection).await?)
}

/// The resident memory of this process, in KiB.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.ok_or("the system does not tell the memory of a process")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
