//! Write-behind: a queue acknowledges writes, readers see them at once, and flushers write them to the database in batches.
//!
//! It needs no server: the queue is a file beside the database, its journal. With `Cache::connect` the queue is in Redis.
//! `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! larder = { version = "0.1", features = ["sqlite"] }
//! serde = { version = "1", features = ["derive"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "macros"] }
//! tempfile = "3"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```

use std::{error::Error, path::Path, time::Duration};

use larder::{Cache, Cached};
use serde::{Deserialize, Serialize};
use sqlx::{
    Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};

/// The id comes from the application. `journal` is for the in-process store; Redis takes no notice of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "positions",
    strategy = "write_behind",
    journal = "positions.journal"
)]
struct Position {
    #[cached(id)]
    aircraft: String,
    latitude: f64,
    longitude: f64,
    reports: i64,
}

async fn open(folder: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join("positions.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePool::connect_with(options).await?;
    // The database refuses what no aircraft can be at.
    let table = "CREATE TABLE IF NOT EXISTS positions (aircraft TEXT NOT NULL PRIMARY KEY, \
                 latitude DOUBLE NOT NULL CHECK (abs(latitude) <= 90), longitude DOUBLE NOT NULL, reports BIGINT NOT NULL)";
    sqlx::query(table).execute(&pool).await?;
    Ok(pool)
}

/// The repository of one process. Two processes that use it need Redis.
async fn positions(folder: &Path) -> Result<PositionRepository<Sqlite>, Box<dyn Error>> {
    let cache = Cache::builder().journal_dir(folder).build()?;
    let positions = Position::repository(&cache, open(folder).await?);
    positions.install().await?; // larder's three tables; or put them into a migration
    positions.check_schema().await?.into_result()?;
    Ok(positions)
}

fn position(aircraft: &str, latitude: f64) -> Position {
    Position {
        aircraft: aircraft.to_owned(),
        latitude,
        longitude: 8.57,
        reports: 0,
    }
}

async fn report(folder: &Path) -> Result<(), Box<dyn Error>> {
    let positions = positions(folder).await?;
    let flusher = positions.start_flushing().await?;

    positions.save(&position("D-AIBD", 50.03)).await?; // acknowledged: it is in the journal
    let found = positions.find("D-AIBD").await?.expect("it is seen at once");
    assert_eq!(found.reports, 0);
    for _ in 0..100 {
        // Reads, changes and queues, again if another caller was faster: no report is lost.
        positions
            .modify("D-AIBD", |position| {
                position.longitude += 0.1;
                position.reports += 1;
            })
            .await?;
    }
    positions.flush().await?; // everything that was acknowledged before is in the database
    let stored = positions
        .find_uncached("D-AIBD")
        .await?
        .expect("it was flushed");
    assert_eq!(stored.reports, 100);
    println!(
        "100 reports in {} rows written",
        positions.stats().flushed_rows
    );

    // A write that the database refuses becomes a dead letter. The others go on.
    positions.save(&position("D-LOST", 95.0)).await?;
    positions.save(&position("D-AIXA", 48.35)).await?;
    positions.flush().await?;
    assert!(positions.find("D-AIXA").await?.is_some());
    assert!(positions.find("D-LOST").await?.is_none());
    let letters = positions.dead_letters();
    for letter in letters.list(10).await? {
        println!("refused: {}: {}", letter.key(), letter.error());
        letters.discard(&letter).await?; // or correct the cause, and `replay`
    }

    // What was queued but not flushed when a process ends is flushed by the next one.
    flusher.shutdown(Duration::from_secs(30)).await?;
    positions.save(&position("D-AIRE", 53.63)).await?;
    println!("left in the queue: {}", positions.pending().await?.count);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    report(folder.path()).await?;

    let positions = positions(folder.path()).await?;
    let found = positions.find("D-AIRE").await?.expect("the journal has it");
    assert_eq!(*found, position("D-AIRE", 53.63));
    let flusher = positions.start_flushing().await?;
    flusher.shutdown(Duration::from_secs(30)).await?;
    assert_eq!(positions.pending().await?.count, 0);
    println!("{:?}", positions.stats());
    Ok(())
}
