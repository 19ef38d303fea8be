//! How fast is a write that does not wait for the database, and is anything lost? Aircraft report where they are, behind
//! the cache.
//!
//! 1. Tasks report the positions of their own aircraft with `save`, and count every so many reports in one row that they
//!    share, with `modify`. A flusher brings the queue to the database meanwhile. 2. Each task looks now and then at what it
//!    has just reported. 3. The flusher is shut down, which drains the queue. 4. The table is read with plain SQL and compared
//!    with what was acknowledged.
//!
//! Invariant: an aircraft is reported by one task, so its last acknowledged report is the only right answer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use larder::{Cache, Cached, Stats};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use tokio::{task::JoinSet, time::Instant};

use crate::{Fallible, chance::Chance, dialect::Dialect};

/// How many tasks report at the same time.
pub(crate) const REPORTERS: u64 = 16;
/// How many aircraft each of them has.
const AIRCRAFT: usize = 4;
/// How many reports each of them makes.
const REPORTS: i64 = 2_500;
/// One report in so many is also counted in the shared row.
const REPORTS_PER_COUNT: i64 = 25;
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
    pub(crate) aircraft: usize,
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

/// What one task has done.
struct Share {
    last: Vec<Position>,
    counted: i64,
    unseen: u64,
}

/// Plays the reports over an empty table.
pub(crate) async fn play<DB: Dialect>(
    cache: &Cache,
    pool: &Pool<DB>,
    seed: u64,
) -> Fallible<Reported> {
    let positions = Position::try_repository(cache, pool.clone())?;
    positions.install().await?;
    positions.check_schema().await?.into_result()?;
    let flusher = positions.start_flushing().await?;
    positions.insert(&position(COUNT, 0)).await?;

    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for reporter in 0..REPORTERS {
        let chance = Chance::new(seed, reporter);
        tasks.spawn(report(positions.clone(), reporter, chance));
    }
    let mut expected = HashMap::new();
    let (mut counted, mut unseen) = (0, 0);
    while let Some(share) = tasks.join_next().await {
        let share = share??;
        let last = share.last.into_iter();
        expected.extend(last.map(|position| (position.aircraft, position)));
        counted += share.counted;
        unseen += share.unseen;
    }
    let acknowledging = start.elapsed();
    let start = Instant::now();
    flusher.shutdown(DRAIN).await?;
    let draining = start.elapsed();

    let aircraft = expected.len();
    expected.insert(COUNT, position(COUNT, counted));
    for found in DB::positions(pool).await? {
        if expected.get(&found.aircraft) == Some(&found) {
            expected.remove(&found.aircraft);
        }
    }
    let stats = positions.stats();
    Ok(Reported {
        writes: stats.writes,
        aircraft,
        acknowledging,
        draining,
        unseen,
        wrong: expected.len(),
        stats,
    })
}

/// Reports the aircraft of one task.
async fn report<DB: Dialect>(
    positions: PositionRepository<DB>,
    reporter: u64,
    mut chance: Chance,
) -> Fallible<Share> {
    let mut share = Share {
        last: Vec::new(),
        counted: 0,
        unseen: 0,
    };
    let first = 1 + i64::try_from(reporter)? * i64::try_from(AIRCRAFT)?;
    for (aircraft, _) in (first..).zip(0..AIRCRAFT) {
        share.last.push(position(aircraft, 0));
    }
    for number in 1..=REPORTS {
        let last = &mut share.last[chance.below(AIRCRAFT)];
        let next = position(last.aircraft, last.reports + 1);
        positions.save(&next).await?;
        *last = next;
        if number % REPORTS_PER_LOOK == 0 {
            let found = positions.find(last.aircraft).await?;
            share.unseen += u64::from(found.as_deref() != Some(&*last));
        }
        if number % REPORTS_PER_COUNT == 0 {
            let counted =
                positions.modify(COUNT, |count| *count = position(COUNT, count.reports + 1));
            drop::<Arc<Position>>(counted.await?);
            share.counted += 1;
        }
    }
    // An aircraft that was never drawn has no row.
    share.last.retain(|position| position.reports > 0);
    Ok(share)
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
