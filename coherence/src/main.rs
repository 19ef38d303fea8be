//! Runs workers against real servers while things go wrong, and judges every read they made.
//! A proof on paper covers the protocol; this covers the code, the drivers and the servers as they are.
//! 1. A stage is set for each database: workers in processes of their own, a Redis of its own, proxies in between. 2. Faults are
//!    injected by a schedule. 3. The logs of the workers are held against the order of commits that the database recorded.
//!    4. What contradicts it is told as a timeline, and the last line counts.
//!
//! Invariant: it fails when there is a violation, and when too few reads came from the cache to prove anything.
//! Not here: the judge, which is the library of this package.

mod entities;
mod faults;
mod orders;
mod redis;
mod schedule;
mod stage;
mod tasks;
mod worker;
mod workload;

use std::{process::ExitCode, str::FromStr};

use larder_coherence::{
    harness::{
        program::{self, Played, for_database},
        site::Site,
    },
    options::{Database, Fault, HELP, Options, Request},
    summary::Summary,
};
use larder_testing::clock::{after, now};
use sqlx::Connection;

use crate::{
    orders::Orders,
    stage::{Play, Stage},
};

/// At least one in so many reads comes from the cache.
const ONE_IN: usize = 2;
/// The same for rows with tags: while a change by tags is open, or its end could not be delivered, rows with these tags, lists and
/// absences are read from the database.
const ONE_IN_WITH_TAGS: usize = 4;

/// How many violations are told in full.
const MAX_TOLD: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = program::runtime();
    if let Some(orders) = Orders::from_arguments(&arguments) {
        for_database!(orders.database, DB => runtime.block_on(worker::run::<DB>(orders)));
        return ExitCode::SUCCESS;
    }
    match Request::parse(std::env::args_os().skip(1)) {
        Ok(Request::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Request::ListFaults) => {
            for fault in Fault::ALL {
                println!("{}", fault.name());
            }
            ExitCode::SUCCESS
        }
        Ok(Request::Run(options)) => runtime.block_on(run(options)),
        Err(error) => {
            eprintln!("coherence: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs all stages at the same time and reports.
async fn run(options: Options) -> ExitCode {
    let seed = options.seed.unwrap_or_else(|| now() % 1_000_000);
    println!("coherence: seed {seed}");
    let faults = match (&options.faults, options.broken) {
        (Some(faults), _) => faults.clone(),
        (None, Some(broken)) => schedule::revealing(broken),
        (None, None) => Fault::ALL.to_vec(),
    };
    let mut stages = tokio::task::JoinSet::new();
    for (number, (database, redis)) in (0..).zip(settings(&options.databases)) {
        let play = Play {
            strategies: options.strategies.clone(),
            tags: options.tags,
            attack: options.attack,
            broken: options.broken,
            seed: seed.wrapping_add(number),
            redis,
            keep: options.keep.clone(),
        };
        let (faults, duration) = (faults.clone(), options.duration);
        for_database!(database, DB => stages.spawn(perform::<DB>(play, faults, duration)));
    }
    let passes = |summary: &Summary| summary.passes(one_in(options.tags));
    program::verdict("coherence", MAX_TOLD, passes, stages).await
}

fn one_in(tags: bool) -> usize {
    if tags { ONE_IN_WITH_TAGS } else { ONE_IN }
}

/// The databases, each with whether Redis is used. SQLite is used by one process, which may as well keep the rows itself.
fn settings(databases: &[Database]) -> Vec<(Database, bool)> {
    let mut settings = Vec::new();
    for &database in databases {
        settings.push((database, true));
        if database == Database::Sqlite {
            settings.push((database, false));
        }
    }
    settings
}

/// Plays on one stage.
async fn perform<DB: Site>(
    play: Play,
    faults: Vec<Fault>,
    duration: std::time::Duration,
) -> Result<Played<Summary>, String>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    let one_in = one_in(play.tags);
    let mut stage = Stage::<DB>::open(play).await;
    let name = stage.name();
    stage.play(&faults, after(now(), duration)).await;
    let outcome = stage.close().await;
    let outcome = outcome.map_err(|failure| format!("{name}: {failure}"))?;
    let mut failures = Vec::new();
    if !outcome.summary.shows_something(one_in) {
        failures.push(format!(
            "fewer than one in {one_in} reads came from the cache; this proves nothing"
        ));
    }
    Ok(Played {
        name,
        summary: outcome.summary,
        remarks: format!("excused: {}, attacks: {}", outcome.excused, outcome.attacks),
        told: outcome.told,
        failures,
    })
}
