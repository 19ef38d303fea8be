//! What both programs of this package do alike: they start, choose the code of a database, play on all stages at the same
//! time, and tell what came of it.
//!
//! Not here: what is played, and who judges it.

use std::{fmt::Display, ops::AddAssign, process::ExitCode};

use tokio::{runtime::Runtime, task::JoinSet};

/// Calls what is generic over the database, for the one that is named.
#[macro_export]
macro_rules! for_database {
    ($database:expr, $DB:ident => $call:expr) => {
        match $database {
            $crate::options::Database::Postgres => {
                type $DB = sqlx::Postgres;
                $call
            }
            $crate::options::Database::Mysql => {
                type $DB = sqlx::MySql;
                $call
            }
            $crate::options::Database::Sqlite => {
                type $DB = sqlx::Sqlite;
                $call
            }
        }
    };
}

pub use crate::for_database;

/// Where everything of a program runs.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

/// What came of one stage.
#[derive(Clone, Debug, Default)]
pub struct Played<S> {
    /// Its name.
    pub name: String,
    /// What was counted.
    pub summary: S,
    /// What else happened, in numbers.
    pub remarks: String,
    /// Violations, in full.
    pub told: Vec<String>,
    /// Why it proves nothing, or something else that is wrong.
    pub failures: Vec<String>,
}

/// Waits for all stages and tells what came of them, the first violations in full, and the sum last. Fails unless that passes.
pub async fn verdict<S: Default + Display + AddAssign + 'static>(
    program: &str,
    most_told: usize,
    passes: impl Fn(&S) -> bool,
    mut stages: JoinSet<Result<Played<S>, String>>,
) -> ExitCode {
    let mut total = S::default();
    let mut told = Vec::new();
    let mut failed = false;
    while let Some(ended) = stages.join_next().await {
        let ended = ended.unwrap_or_else(|panic| Err(format!("a stage was given up: {panic}")));
        match ended {
            Ok(played) => {
                let Played {
                    name,
                    summary,
                    remarks,
                    ..
                } = played;
                println!("{program}: {name}: {summary} ({remarks})");
                for failure in &played.failures {
                    println!("{program}: {name}: {failure}");
                    failed = true;
                }
                total += summary;
                told.extend(played.told);
            }
            Err(failure) => {
                println!("{program}: {failure}");
                failed = true;
            }
        }
    }
    for (number, told) in told.iter().take(most_told).enumerate() {
        println!("\nviolation {}: {told}", number + 1);
    }
    println!("{program}: {total}");
    if failed || !passes(&total) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
