//! Kills writers, flushers and servers while rows are written behind, and counts what became of every acknowledged write.
//! A model covers the protocol; this covers the code, the drivers and the servers as they are, and moments that nobody chose.
//! 1. A stage is set for each database: writers and flushers in processes of their own, a Redis of its own that appends to a
//!    file before it answers. 2. In each round faults are injected by a schedule. 3. The round ends with a fresh process that
//!    flushes what is left; then rows, audit and dead letters are held against the logs of the writers.
//!
//! Invariant: it fails when one write was lost, duplicated or reordered, and when too little happened to prove anything.
//! Not here: the judge, which is the library of this package.

#[path = "../dialects.rs"]
mod dialects;
mod faults;
mod letters;
mod mariadb;
mod orders;
#[path = "../points.rs"]
mod points;
#[path = "../process.rs"]
mod process;
mod rows;
#[expect(
    dead_code,
    reason = "shared with the program that checks histories, of which this needs a part"
)]
#[path = "../site.rs"]
mod site;
mod stage;
#[expect(
    dead_code,
    reason = "written for the tests of the workspace, of which this needs a part"
)]
#[path = "../../../tests/support/mod.rs"]
mod support;
mod worker;
mod writing;

use std::{process::ExitCode, str::FromStr};

use larder_coherence::{
    clock::now,
    options::Database,
    queue::{
        options::{Broken, HELP, Options, Request},
        summary::Summary,
    },
};
use sqlx::{Connection, MySql, Postgres, Sqlite};

use crate::{
    orders::Orders,
    site::Site,
    stage::{Outcome, Play, Stage},
};

/// How many violations are told in full.
const MOST_TOLD: usize = 5;

/// What the support of the tests runs in other processes; nothing here.
fn workers() -> &'static [(&'static str, support::process::WorkerFn)] {
    &[]
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    if let Some(orders) = Orders::from_arguments(&arguments) {
        runtime.block_on(async {
            match orders.database {
                Database::Postgres => worker::run::<Postgres>(orders).await,
                Database::Mysql => worker::run::<MySql>(orders).await,
                Database::Sqlite => worker::run::<Sqlite>(orders).await,
            }
        });
        return ExitCode::SUCCESS;
    }
    match Request::parse(std::env::args_os().skip(1)) {
        Ok(Request::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Request::Run(options)) => runtime.block_on(run(options)),
        Err(error) => {
            eprintln!("crash: {error}");
            ExitCode::from(2)
        }
    }
}

/// Plays on all stages at the same time and reports.
async fn run(options: Options) -> ExitCode {
    let seed = options.seed.unwrap_or_else(|| now() % 1_000_000);
    println!("crash: seed {seed}");
    let mut stages = tokio::task::JoinSet::new();
    for (number, (database, redis)) in (0..).zip(settings(&options)) {
        let play = Play {
            rounds: options.rounds,
            redis,
            broken: options.broken,
            seed: seed.wrapping_add(number),
            keep: options.keep.clone(),
        };
        match database {
            Database::Postgres => stages.spawn(perform::<Postgres>(play)),
            Database::Mysql => stages.spawn(perform::<MySql>(play)),
            Database::Sqlite => stages.spawn(perform::<Sqlite>(play)),
        };
    }
    let mut total = Summary::default();
    let mut told = Vec::new();
    let mut failed = false;
    while let Some(ended) = stages.join_next().await {
        match ended {
            Ok(outcome) => {
                println!(
                    "crash: {}: {} ({})",
                    outcome.name, outcome.summary, outcome.remarks
                );
                for failure in &outcome.failures {
                    println!("crash: {}: {failure}", outcome.name);
                    failed = true;
                }
                total += outcome.summary;
                told.extend(outcome.told);
            }
            Err(panic) => {
                println!("crash: a stage was given up: {panic}");
                failed = true;
            }
        }
    }
    for (number, told) in told.iter().take(MOST_TOLD).enumerate() {
        println!("\nviolation {}: {told}", number + 1);
    }
    println!("crash: {total}");
    if failed || !total.passes() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The databases, each with whether the queue is in Redis. SQLite is also used by one process that keeps the queue itself, in a
/// journal; there a mechanism between processes cannot be missed.
fn settings(options: &Options) -> Vec<(Database, bool)> {
    let mut settings = Vec::new();
    for &database in &options.databases {
        settings.push((database, true));
        let shows = matches!(options.broken, None | Some(Broken::Order));
        if database == Database::Sqlite && shows {
            settings.push((database, false));
        }
    }
    settings
}

/// Plays on one stage.
async fn perform<DB: Site>(play: Play) -> Outcome
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    let mut stage = Stage::<DB>::open(play).await;
    stage.play().await;
    stage.close().await
}
