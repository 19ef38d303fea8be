//! A stampede: 800 tasks in eight processes ask for the same cold row, whose load takes 50 ms, at the same instant.
//!
//! 1. The workers are copies of this program. Each connects to Redis, makes its connections to Postgres, and reads
//!    another row of the view once on each of them, so that nothing but the cold row is new.
//! 2. For each round they are told a row and an instant of the monotonic clock, which all processes share, and report
//!    when each of their tasks had its answer.
//! 3. The loads are counted by Postgres: reading a row of the view draws a number from a sequence.
//!
//! The wait after the fill is counted from the first answer of any task. That is the leader's own: it is answered when
//! the row has come from the database, before the row is stored, so the figure has the fill in it.
//!
//! Not larder's part, but in the figure: eight processes on a few processors all wake at once.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use larder::Cache;
use larder_testing::clock::{now, sleep_until};
use sqlx::{PgPool, Postgres};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Failure,
    entity::{SlowFlight, SlowFlightRepository, create_tables, slow_loads},
    measure::{Effort, quantile},
    report::{self, Goal, time},
    servers,
};

/// The argument that makes this program a worker.
pub(crate) const WORKER: &str = "stampede-worker";
const PROCESSES: usize = 8;
const TASKS: usize = 100;
/// Few enough that all workers together stay below the server's limit.
const CONNECTIONS: u32 = 4;
/// The row that workers warm up with.
const WARM: i64 = 1;
/// More rounds than this change nothing.
const MAX_ROUNDS: usize = 20;
/// How long before the instant of a round its workers are told.
const NOTICE_NS: u64 = 50_000_000;

/// What one round came to.
struct Round {
    loads: i64,
    /// Answers, in nanoseconds after the first of them, sorted.
    waits: Vec<f64>,
    /// From the instant of the round to the first answer.
    load_ns: f64,
    /// How late the last worker released its tasks.
    late_ns: f64,
}

/// Several rounds of `find`, then one past the cache, which must show more loads.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let count = effort.rounds.min(MAX_ROUNDS);
    let pool = servers::pool(2).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder"]).await?;
    println!(
        "  {PROCESSES} processes of {TASKS} tasks and {CONNECTIONS} connections each, a load of 50 ms, rounds: {count}"
    );
    let mut workers = Workers::start()?;
    let mut rounds = Vec::new();
    for row in (WARM + 1..).take(count) {
        rounds.push(workers.round(&pool, "find", row).await?);
    }
    for (round, number) in rounds.iter().zip(1..) {
        println!(
            "  round {number}: loads {}, first answer after {}, then p50 {}, p99 {}, last {}; released up to {} late",
            round.loads,
            time(round.load_ns),
            time(quantile(&round.waits, 0.5)),
            time(quantile(&round.waits, 0.99)),
            time(quantile(&round.waits, 1.0)),
            time(round.late_ns),
        );
    }
    bypassed(&mut workers, &pool).await?;
    workers.stop()?;
    let mut p99: Vec<f64> = (rounds.iter())
        .map(|round| quantile(&round.waits, 0.99) / 1e6)
        .collect();
    p99.sort_by(f64::total_cmp);
    let worst = rounds
        .iter()
        .map(|round| round.loads)
        .max()
        .unwrap_or_default();
    println!("  worst round: p99 {:.2} ms", quantile(&p99, 1.0));
    report::value(
        "stampede-loads",
        f64::from(i32::try_from(worst)?),
        Goal::Exactly(1.0),
    );
    report::value("stampede-wait-ms", quantile(&p99, 0.5), Goal::AtMost(3.0));
    Ok(())
}

/// By hand the same tasks load the row once each.
pub(crate) async fn control(_: Effort) -> Result<(), Failure> {
    let pool = servers::pool(2).await?;
    create_tables(&pool).await?;
    let mut workers = Workers::start()?;
    bypassed(&mut workers, &pool).await?;
    workers.stop()
}

async fn bypassed(workers: &mut Workers, pool: &PgPool) -> Result<(), Failure> {
    let round = workers.round(pool, "select", WARM).await?;
    let (loads, tasks) = (round.loads, PROCESSES * TASKS);
    println!("control by hand: {loads} loads of {tasks} tasks");
    if usize::try_from(loads)? == tasks {
        Ok(())
    } else {
        Err(format!("{tasks} reads by hand were counted as {loads} loads").into())
    }
}

/// The running workers. They end when their input does.
struct Workers(Vec<(Child, ChildStdin, BufReader<ChildStdout>)>);

impl Workers {
    fn start() -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let namespace = servers::namespace("stampede");
        let mut workers = Self(Vec::new());
        for _ in 0..PROCESSES {
            let mut child = Command::new(&program)
                .args([WORKER, &namespace])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
                return Err("a worker has no pipes".into());
            };
            workers.0.push((child, input, BufReader::new(output)));
        }
        for (_, _, output) in &mut workers.0 {
            match line(output)?.as_str() {
                "ready" => {}
                other => return Err(format!("a worker is not ready but says `{other}`").into()),
            }
        }
        Ok(workers)
    }

    async fn round(&mut self, pool: &PgPool, method: &str, row: i64) -> Result<Round, Failure> {
        let loads_before = slow_loads(pool).await?;
        let instant = now() + NOTICE_NS;
        for (_, input, _) in &mut self.0 {
            writeln!(input, "{method} {row} {instant}")?;
        }
        let mut answers = Vec::new();
        let mut late = 0;
        for (_, _, output) in &mut self.0 {
            let numbers: Vec<u64> = line(output)?
                .split(' ')
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            let [released, mine @ ..] = &numbers[..] else {
                return Err("a worker reports nothing".into());
            };
            late = late.max(released.saturating_sub(instant));
            answers.extend_from_slice(mine);
        }
        answers.sort_unstable();
        let (Some(&first), true) = (answers.first(), answers.len() == PROCESSES * TASKS) else {
            return Err(format!("{} tasks have answered", answers.len()).into());
        };
        Ok(Round {
            loads: slow_loads(pool).await? - loads_before,
            waits: answers.iter().map(|&at| nanos(at - first)).collect(),
            load_ns: nanos(first.saturating_sub(instant)),
            late_ns: nanos(late),
        })
    }

    fn stop(self) -> Result<(), Failure> {
        for (mut child, input, _output) in self.0 {
            drop(input);
            let status = child.wait()?;
            if !status.success() {
                return Err(format!("a worker ended with {status}").into());
            }
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times of one round are far below 2^53 ns"
)]
fn nanos(ns: u64) -> f64 {
    ns as f64
}

fn line(output: &mut impl BufRead) -> Result<String, Failure> {
    let mut line = String::new();
    if output.read_line(&mut line)? == 0 {
        return Err("a worker has ended; its error is above".into());
    }
    Ok(line.trim_end().to_owned())
}

/// The life of a worker: get ready, then one round per line of input.
pub(crate) async fn work(mut arguments: impl Iterator<Item = String>) -> Result<(), Failure> {
    let namespace = arguments.next().ok_or("a worker needs a namespace")?;
    let cache = Cache::builder()
        .redis(servers::redis_url()?)
        .namespace(namespace)
        .connect()
        .await?;
    let pool = servers::pool(CONNECTIONS).await?;
    let repository = SlowFlight::repository(&cache, pool.clone());
    warm(&repository).await?;
    println!("ready");
    let (lines, mut rounds) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = rounds.recv().await {
        let [method, row, instant] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("a worker does not understand `{line}`").into());
        };
        let by_hand = (method == "select").then_some(&pool);
        let report = take_part(&repository, by_hand, row.parse()?, instant.parse()?).await?;
        let numbers: Vec<String> = report.iter().map(u64::to_string).collect();
        println!("{}", numbers.join(" "));
    }
    Ok(())
}

/// Reads a row through Redis, and prepares the statement on every connection of the pool.
async fn warm(repository: &SlowFlightRepository<Postgres>) -> Result<(), Failure> {
    super::reads::present(repository.find(WARM).await?)?;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let repository = repository.clone();
        tasks.spawn(async move { repository.find_uncached(WARM).await });
    }
    while let Some(done) = tasks.join_next().await {
        super::reads::present(done??)?;
    }
    Ok(())
}

/// One round of one worker: when it released its tasks, then when each of them had its answer.
async fn take_part(
    repository: &SlowFlightRepository<Postgres>,
    by_hand: Option<&PgPool>,
    row: i64,
    instant: u64,
) -> Result<Vec<u64>, Failure> {
    let gate = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let repository = repository.clone();
        let gate = Arc::clone(&gate);
        let by_hand = by_hand.cloned();
        tasks.spawn(async move {
            gate.acquire().await?.forget();
            let answered = if let Some(pool) = by_hand {
                let select = "SELECT * FROM larder_benches.slow_flights WHERE id = $1";
                let found: Option<SlowFlight> = sqlx::query_as(select)
                    .bind(row)
                    .fetch_optional(&pool)
                    .await?;
                super::reads::present(found)?;
                now()
            } else {
                let found = repository.find(row).await?;
                let answered = now();
                super::reads::present(found)?;
                answered
            };
            Ok::<_, Failure>(answered)
        });
    }
    tokio::task::spawn_blocking(move || sleep_until(instant)).await?;
    let mut report = vec![now()];
    gate.add_permits(TASKS);
    while let Some(answered) = tasks.join_next().await {
        report.push(answered??);
    }
    Ok(report)
}
