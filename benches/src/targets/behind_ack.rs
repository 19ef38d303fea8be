//! Acknowledgements of queued writes, beside the bare statement.
//!
//! The same rows are saved through queues that keep what they have acknowledged in different ways: in a Redis whose file is
//! flushed once a second, in one that flushes it before it answers, in the memory of this process, and in its journal.
//! Nobody flushes the queues to the database meanwhile, and they are as large as they get: the figure is what a burst sees.
//! With a flusher at work, it and the database take their share of the same processors.

use std::sync::Arc;

use larder::Cache;

use super::{
    behind::{Put, Queues, check_errors},
    expect_ratio,
    reads::Twice,
    write::{Bare, Table},
};
use crate::{
    Failure,
    entity::{FsyncFlight, JournaledFlight, MemoryFlight, ROWS, all_flights, create_tables},
    measure::{Contest, Effort, Figure},
    redis_server::{ALWAYS, EVERY_SECOND, RedisServer},
    report::{self, Goal},
    servers,
};

/// Where the entity has its journal.
const JOURNAL: &str = "larder-benches.journal";
/// With how many tasks the ratio has a target.
const TARGET_TASKS: u64 = 64;

/// One task, and more and more.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    for tasks in [1, 16, TARGET_TASKS, 256] {
        measure(effort, tasks).await?;
    }
    Ok(())
}

async fn measure(effort: Effort, tasks: u64) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
    println!("  {ROWS} rows, saved whole, nobody flushes, tasks: {tasks}");
    let rows: Table = Arc::new(all_flights(&pool).await?);

    let (second, always) = (
        RedisServer::start(EVERY_SECOND)?,
        RedisServer::start(ALWAYS)?,
    );
    let second_cache = servers::cache_at(second.url(), "second").connect().await?;
    let always_cache = servers::cache_at(always.url(), "always").connect().await?;
    let memory = MemoryFlight::repository(&second_cache, pool.clone());
    memory.install().await?;
    let fsync = FsyncFlight::repository(&always_cache, pool.clone());
    let in_process = MemoryFlight::repository(&Cache::in_process(), pool.clone());
    remove_journal()?;
    let journaled = JournaledFlight::repository(&Cache::in_process(), pool.clone());

    let variants = Contest::new(tasks, ROWS)
        .enter(
            "bare UPDATE",
            Bare {
                pool,
                rows: rows.clone(),
            },
        )
        .enter("larder save, Redis, AOF everysec", put(&memory, &rows))
        .enter("larder save, Redis, AOF always", put(&fsync, &rows))
        .enter("larder save, in process", put(&in_process, &rows))
        .enter("larder save, in process, journal", put(&journaled, &rows))
        .run(effort)
        .await?;
    check_errors(&memory)?;
    check_errors(&fsync)?;
    check_errors(&in_process)?;
    check_errors(&journaled)?;
    drop(journaled);
    remove_journal()?;
    report::variants(&variants);
    let [bare, memory, fsync, in_process, journaled] = &variants[..] else {
        return Err("five variants were measured".into());
    };
    let figure = Figure::Throughput;
    let name = format!("behind-ack-{tasks}");
    report::ratio(
        &format!("{name}-fsync"),
        fsync.ratio(bare, figure),
        Goal::None,
    );
    report::ratio(
        &format!("{name}-in-process"),
        in_process.ratio(bare, figure),
        Goal::None,
    );
    report::ratio(
        &format!("{name}-journal"),
        journaled.ratio(bare, figure),
        Goal::None,
    );
    let goal = if tasks == TARGET_TASKS {
        Goal::AtLeast(8.0)
    } else {
        Goal::None
    };
    report::ratio(&name, memory.ratio(bare, figure), goal);
    Ok(())
}

fn put<R: Queues>(repository: &R, rows: &Table) -> Put<R> {
    Put {
        repository: repository.clone(),
        rows: rows.clone(),
    }
}

/// A journal that is there belongs to an earlier run, and would be replayed.
fn remove_journal() -> Result<(), Failure> {
    match std::fs::remove_dir_all(JOURNAL) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Two saves take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let rows: Table = Arc::new(all_flights(&pool).await?);
    let server = RedisServer::start(EVERY_SECOND)?;
    let cache = servers::cache_at(server.url(), "control").connect().await?;
    let repository = MemoryFlight::repository(&cache, pool);
    repository.install().await?;
    let save = put(&repository, &rows);
    let variants = Contest::new(1, ROWS)
        .enter("once", save.clone())
        .enter("twice", Twice(save))
        .run(effort)
        .await?;
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two saves to one", ratio, 0.47, 0.53)
}
