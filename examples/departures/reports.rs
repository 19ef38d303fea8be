//! How fast is a write that does not wait for the database, and is anything lost? Aircraft report where they are, behind
//! the cache.
//!
//! 1. Each task reports the position of its aircraft with `save`, and counts every so many reports in one row that all
//!    share, with `modify`. A flusher brings the queue to the database meanwhile. 2. Each task looks now and then at what it
//!    has just reported. 3. The flusher is shut down, which drains the queue. 4. The table is read with plain SQL and compared
//!    with what was acknowledged.
//!
//! Invariant: an aircraft is reported by one task, so its last acknowledged report is the only right answer.

use std::{collections::HashMap, time::Duration};

use larder::{Cache, Cached, Stats};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use tokio::{task::JoinSet, time::Instant};

use crate::{Fallible, dialect::Dialect};

/// How many aircraft report at the same time, each in a task of its own.
pub(crate) const AIRCRAFT: i64 = 64;
/// How many reports each of them makes.
const REPORTS: i64 = 300;
/// One report in so many is also counted in the shared row.
const REPORTS_PER_COUNT: i64 = 100;
/// One report in so many is looked at.
const REPORTS_PER_LOOK: i64 = 5;
/// The id of the shared row; aircraft are numbered from one.
const COUNT: i64 = 0;
/// How long the queue may take to drain.
const DRAIN: Duration = Duration::from_secs(60);

/// Where an aircraft was last. Power may fail between two reports, so the next one is soon enough to be right again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "larder_departures_positions",
    strategy = "write_behind",
    durability = "memory",
    ttl = "10m"
)]
pub(crate) struct Position {
    #[cached(id)]
    pub(crate) aircraft: i64,
    pub(crate) latitude: f64,
    pub(crate) longitude: f64,
    /// How often it was reported, or counted.
    pub(crate) reports: i64,
}

/// What the reports came to.
pub(crate) struct Reported {
    /// How many writes were acknowledged.
    pub(crate) writes: u64,
    /// How long all acknowledgements took.
    pub(crate) acknowledging: Duration,
    /// How long the rest of the queue took then.
    pub(crate) draining: Duration,
    /// Looks that did not find what had just been reported.
    pub(crate) unseen: u64,
    /// Rows in the database that are not what was acknowledged last, or that are missing.
    pub(crate) wrong: usize,
    pub(crate) stats: Stats,
}

/// Plays the reports over an empty table.
pub(crate) async fn play<DB: Dialect>(cache: &Cache, pool: &Pool<DB>) -> Fallible<Reported> {
    let positions = Position::try_repository(cache, pool.clone())?;
    positions.install().await?;
    positions.check_schema().await?.into_result()?;
    let flusher = positions.start_flushing().await?;
    positions.insert(&position(COUNT, 0)).await?;

    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for aircraft in 1..=AIRCRAFT {
        tasks.spawn(report(positions.clone(), aircraft));
    }
    let mut unseen = 0;
    while let Some(task) = tasks.join_next().await {
        unseen += task??;
    }
    let acknowledging = start.elapsed();
    let start = Instant::now();
    flusher.shutdown(DRAIN).await?;
    let draining = start.elapsed();

    let last = (1..=AIRCRAFT).map(|aircraft| position(aircraft, REPORTS));
    let mut expected: HashMap<_, _> = last.map(|position| (position.aircraft, position)).collect();
    expected.insert(
        COUNT,
        position(COUNT, AIRCRAFT * (REPORTS / REPORTS_PER_COUNT)),
    );
    for found in DB::positions(pool).await? {
        if expected.get(&found.aircraft) == Some(&found) {
            expected.remove(&found.aircraft);
        }
    }
    let stats = positions.stats();
    Ok(Reported {
        writes: stats.writes,
        acknowledging,
        draining,
        unseen,
        wrong: expected.len(),
        stats,
    })
}

/// Makes the reports of one aircraft. How many of those that were looked at were not seen.
async fn report<DB: Dialect>(positions: PositionRepository<DB>, aircraft: i64) -> Fallible<u64> {
    let mut unseen = 0;
    for number in 1..=REPORTS {
        let latest = position(aircraft, number);
        positions.save(&latest).await?;
        if number % REPORTS_PER_LOOK == 0 {
            let found = positions.find(aircraft).await?;
            unseen += u64::from(found.as_deref() != Some(&latest));
        }
        if number % REPORTS_PER_COUNT == 0 {
            let count = |count: &mut Position| *count = position(COUNT, count.reports + 1);
            positions.modify(COUNT, count).await?;
        }
    }
    Ok(unseen)
}

/// Where an aircraft is at one of its reports.
fn position(aircraft: i64, reports: i64) -> Position {
    let way = reports as f64 / 1_024.0;
    Position {
        aircraft,
        latitude: way,
        longitude: aircraft as f64 - way,
        reports,
    }
}
