//! Queued writes on their way to the database, beside batches written by hand.
//!
//! 1. A turn saves every row once, which is not timed, and then times `flush`: one queue, a thousand writes at a time, from a
//!    Redis whose file is flushed once a second, or from the memory of this process.
//! 2. By hand, the same rows go to the table from memory, a thousand in each transaction, as arrays.
//! 3. Apart from that, writes come at a steady rate to queues with the default options, and the statements that their
//!    flushers need are counted.

use std::time::Duration;

use larder::Cache;
use larder_testing::clock::now;
use sqlx::PgPool;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    behind::{Queues, check_errors},
    expect_ratio,
};
use crate::{
    Failure,
    entity::{Flight, OneQueueFlight, QueuedFlight, ROWS, all_flights, create_tables},
    measure::{Effort, Spread, order},
    redis_server::{EVERY_SECOND, RedisServer},
    report::{self, Goal, count},
    servers,
};

/// How many rows a transaction has.
const BATCH: usize = 1_000;
/// More rounds than this change little, and each takes about a second.
const MAX_ROUNDS: usize = 30;
/// How many tasks fill a queue.
const FILLERS: i64 = 64;
/// Writes per second of a steady load.
const RATES: [u32; 3] = [100, 1_000, 10_000];
/// How long a steady load lasts.
const STEADY: Duration = Duration::from_secs(4);
/// How often a steady load makes its writes.
const TICKS_PER_SECOND: u32 = 100;

const UPSERT: &str = "
    INSERT INTO larder_benches.flights
        (id, number, airline, origin, destination, status, departs_at, gate, seats_left, remarks)
    SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
        $8::text[], $9::bigint[], $10::text[])
    ON CONFLICT (id) DO UPDATE SET
        number = EXCLUDED.number, airline = EXCLUDED.airline, origin = EXCLUDED.origin,
        destination = EXCLUDED.destination, status = EXCLUDED.status, departs_at = EXCLUDED.departs_at,
        gate = EXCLUDED.gate, seats_left = EXCLUDED.seats_left, remarks = EXCLUDED.remarks";

/// Writes per second that each way has brought to the database, turn by turn.
type Rates = Vec<f64>;

/// The ratio, then the statements.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let rounds = effort.rounds.min(MAX_ROUNDS);
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
    println!("  {ROWS} writes a turn, one queue, {BATCH} in a transaction, rounds: {rounds}");
    let rows = all_flights(&pool).await?;
    let server = RedisServer::start(EVERY_SECOND)?;
    let cache = servers::cache_at(server.url(), "drain").connect().await?;
    let on_redis = OneQueueFlight::repository(&cache, pool.clone());
    on_redis.install().await?;
    let in_process = OneQueueFlight::repository(&Cache::in_process(), pool.clone());

    let mut rates: [Rates; 3] = Default::default();
    for round in 0..=rounds {
        for place in order(rates.len(), round) {
            let rows = changed(&rows, round)?;
            let rate = match place {
                0 => by_hand(&pool, &rows, 1).await?,
                1 => drained(&on_redis, &rows).await?,
                _ => drained(&in_process, &rows).await?,
            };
            check_rows(&pool, &rows).await?;
            if round > 0 {
                rates[place].push(rate);
            }
        }
    }
    check_errors(&on_redis)?;
    check_errors(&in_process)?;
    let [hand, redis, memory] = &rates;
    for (name, rates) in [
        ("UNNEST upserts by hand", hand),
        ("larder flush, Redis", redis),
        ("larder flush, in process", memory),
    ] {
        let spread = Spread::of(rates.iter().copied());
        println!(
            "  {name:<24}  {:>8} writes/s ({} to {})",
            count(spread.median),
            count(spread.low),
            count(spread.high)
        );
    }
    println!(
        "  larder flush, Redis: {:.1} statements per 1,000 writes",
        statements(&on_redis, &larder::Stats::default())
    );
    report::ratio(
        "behind-drain-in-process",
        Spread::of_ratios(memory, hand),
        Goal::None,
    );
    report::ratio(
        "behind-drain",
        Spread::of_ratios(redis, hand),
        Goal::AtLeast(0.6),
    );
    steady(&pool, &rows).await
}

/// How many statements the flushers send under a steady load.
async fn steady(pool: &PgPool, rows: &[Flight]) -> Result<(), Failure> {
    for rate in RATES {
        let server = RedisServer::start(EVERY_SECOND)?;
        let cache = servers::cache_at(server.url(), "steady").connect().await?;
        let repository = QueuedFlight::repository(&cache, pool.clone());
        let flusher = repository.start_flushing().await?;
        let before = repository.stats();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / TICKS_PER_SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut left = u64::from(rate) * STEADY.as_secs();
        let began = now();
        let mut picked = crate::measure::Rows::new(u64::from(rate), ROWS);
        while left > 0 {
            ticks.tick().await;
            let mut writes = JoinSet::new();
            for _ in 0..u64::from(rate / TICKS_PER_SECOND).min(left) {
                let row = rows[usize::try_from(picked.draw() - 1)?].clone();
                let repository = repository.clone();
                writes.spawn(async move { repository.put(row).await });
                left -= 1;
            }
            while let Some(done) = writes.join_next().await {
                done??;
            }
        }
        let seconds = Duration::from_nanos(now() - began).as_secs_f64();
        flusher.shutdown(Duration::from_secs(30)).await?;
        check_errors(&repository)?;
        let stats = repository.stats();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
        let (made, flushes) = (stats.flushed_writes as f64 / seconds, stats.flushes as f64);
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
        let batch = stats.flushed_writes as f64 / flushes;
        println!(
            "  steady load, four queues with the default options: {made:.0} writes/s, {batch:.1} writes a flush, \
             {:.1} statements per 1,000 writes",
            statements(&repository, &before)
        );
    }
    Ok(())
}

/// Statements per thousand writes.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn statements(repository: &impl Queues, before: &larder::Stats) -> f64 {
    let stats = repository.counted();
    let sent = stats.flush_statements - before.flush_statements;
    let flushed = stats.flushed_writes - before.flushed_writes;
    sent as f64 / flushed as f64 * 1_000.0
}

/// The rows as they are written in a round.
fn changed(rows: &[Flight], round: usize) -> Result<Vec<Flight>, Failure> {
    let round = i64::try_from(round)?;
    let mut rows = rows.to_vec();
    for row in &mut rows {
        row.seats_left = (row.id + round) % 180;
    }
    Ok(rows)
}

/// Fills the queue and times how it is emptied.
async fn drained<R: Queues>(repository: &R, rows: &[Flight]) -> Result<f64, Failure> {
    let mut tasks = JoinSet::new();
    for task in 0..FILLERS {
        let mine = rows.iter().filter(|row| row.id % FILLERS == task);
        let mine: Vec<Flight> = mine.cloned().collect();
        let repository = repository.clone();
        tasks.spawn(async move {
            for row in mine {
                repository.put(row).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let began = now();
    repository.drain().await?;
    Ok(per_second(rows.len(), began))
}

/// Times how the rows are written by hand, so many times.
async fn by_hand(pool: &PgPool, rows: &[Flight], times: usize) -> Result<f64, Failure> {
    let began = now();
    for _ in 0..times {
        for rows in rows.chunks(BATCH) {
            let mut transaction = pool.begin().await?;
            let texts = |column: fn(&Flight) -> &str| rows.iter().map(column).collect::<Vec<_>>();
            sqlx::query(UPSERT)
                .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
                .bind(texts(|row| &row.number))
                .bind(texts(|row| &row.airline))
                .bind(texts(|row| &row.origin))
                .bind(texts(|row| &row.destination))
                .bind(rows.iter().map(|row| row.status.name()).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.departs_at).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| &row.gate).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.seats_left).collect::<Vec<_>>())
                .bind(texts(|row| &row.remarks))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
        }
    }
    Ok(per_second(rows.len(), began))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count of rows and a time in nanoseconds are far below 2^53"
)]
fn per_second(rows: usize, began: u64) -> f64 {
    rows as f64 * 1e9 / (now() - began) as f64
}

/// Fails unless the table has these rows.
async fn check_rows(pool: &PgPool, rows: &[Flight]) -> Result<(), Failure> {
    if all_flights(pool).await? == rows {
        Ok(())
    } else {
        Err("the table does not have the rows that were written".into())
    }
}

/// The same batches twice take twice as long, and rows that were not flushed are missed.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let rows = all_flights(&pool).await?;
    if check_rows(&pool, &changed(&rows, 1)?).await.is_ok() {
        return Err("rows that were not written were not missed".into());
    }
    println!("control of the table: rows that were not written are missed");
    let mut rates: [Rates; 2] = Default::default();
    for round in 0..=effort.rounds.min(MAX_ROUNDS) {
        let rows = changed(&rows, round)?;
        for place in order(rates.len(), round) {
            let rate = by_hand(&pool, &rows, place + 1).await?;
            if round > 0 {
                rates[place].push(rate);
            }
        }
    }
    let [once, twice] = &rates;
    expect_ratio(
        "the batches twice to once",
        Spread::of_ratios(twice, once),
        0.45,
        0.55,
    )
}
