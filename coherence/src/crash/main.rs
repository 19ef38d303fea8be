//! Kills writers, flushers and servers while rows are written behind, and counts what became of every acknowledged write.
//! A model covers the protocol; this covers the code, the drivers and the servers as they are, and moments that nobody chose.
//! 1. A stage is set for each database: writers and flushers in processes of their own, a Redis of its own that appends to a
//!    file before it answers. 2. In each round faults are injected by a schedule. 3. The round ends with a fresh process that
//!    flushes what is left; then rows, audit and dead letters are held against the logs of the writers.
//!
//! Invariant: it fails when one write was lost, duplicated or reordered, and when too little happened to prove anything.
//! Not here: the judge, which is the library of this package.

mod faults;
mod letters;
mod mariadb;
mod orders;
mod rows;
mod stage;
mod worker;
mod writing;

use std::{process::ExitCode, str::FromStr};

use larder_coherence::{
    harness::{
        program::{self, Played, for_database},
        site::Site,
    },
    options::Database,
    queue::{
        options::{Broken, HELP, Options, Request},
        summary::Summary,
    },
};
use larder_testing::clock::now;
use sqlx::Connection;

use crate::{
    orders::Orders,
    stage::{Play, Stage},
};

/// How many violations are told in full.
const MAX_TOLD: usize = 5;

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
            attack: options.attack && redis,
            broken: options.broken,
            seed: seed.wrapping_add(number),
            keep: options.keep.clone(),
        };
        for_database!(database, DB => stages.spawn(perform::<DB>(play)));
    }
    program::verdict("crash", MAX_TOLD, Summary::passes, stages).await
}

/// The databases, each with whether the queue is in Redis. SQLite is also used by one process that keeps the queue itself, in a
/// journal; there a mechanism between processes cannot be missed.
fn settings(options: &Options) -> Vec<(Database, bool)> {
    let mut settings = Vec::new();
    for &database in &options.databases {
        settings.push((database, true));
        let shows = matches!(
            options.broken,
            None | Some(Broken::Order | Broken::RoundTrip)
        );
        if database == Database::Sqlite && shows {
            settings.push((database, false));
        }
    }
    settings
}

/// Plays on one stage.
async fn perform<DB: Site>(play: Play) -> Result<Played<Summary>, String>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    let mut stage = Stage::<DB>::open(play).await;
    stage.play().await;
    Ok(stage.close().await)
}
