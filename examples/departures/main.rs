//! What does larder do for a table of real size, under reads and edits at the same time?
//!
//! A departure board asks for airports: a few of them all the time, most of them hardly ever, some that do not exist, and
//! now and then one that has just changed. The program loads the airports of the world into a database, plays such a board
//! through the generated repository, and prints what each phase proves.
//!
//! 1. `options` reads the command line. 2. `airports` is the entity and its data. 3. `dialect` makes the table and fills it.
//! 4. `phases` plays the look-ups, and `rush` those with edits in between, `chance` choosing the airports. 5. All of them
//!    go through the `desk`, which counts them and compares every answer with the `ledger`. 6. Meanwhile `audit` compares what is cached
//!    with the database. 7. `reports` writes behind the cache, and compares the database with what was acknowledged.
//!
//! Invariant: the last line of the output is `departures: airports=N reads=N hits=N negative_hits=N database_reads=N
//! stale=N`, and the exit code is 0 only if nothing was stale, nothing that was acknowledged is missing, and all
//! counts agree.
//!
//! The data is that of the crate `airport-data`, by its authors (<https://airportdata.dev>), under the licence CC BY 4.0
//! (<https://creativecommons.org/licenses/by/4.0/>). It is loaded without the links of the airports.

mod airports;
mod audit;
mod chance;
mod desk;
mod dialect;
mod ledger;
mod options;
mod phases;
mod reports;
mod rush;

use std::{error::Error, process::ExitCode};

use options::{Database, Options, Request};

/// The exit code of a wrong command line.
const USAGE: u8 = 2;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = match options::read(lexopt::Parser::from_env()) {
        Ok(Request::Run(options)) => options,
        Ok(Request::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("departures: {mistake}; `--help` lists the options");
            return ExitCode::from(USAGE);
        }
    };
    match play(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("departures: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Plays on the database that was asked for. Whether everything was as it should be.
#[tokio::main]
async fn play(options: &Options) -> Fallible<bool> {
    match options.database.clone() {
        #[cfg(feature = "sqlite")]
        Database::Temporary => {
            let folder = tempfile::tempdir()?;
            let file = dialect::temporary_file(&folder.path().join("departures.db"));
            phases::play::<sqlx::Sqlite>(file, options).await
        }
        #[cfg(feature = "sqlite")]
        Database::Sqlite(server) => phases::play::<sqlx::Sqlite>(server, options).await,
        #[cfg(feature = "postgres")]
        Database::Postgres(server) => phases::play::<sqlx::Postgres>(server, options).await,
        #[cfg(feature = "mysql")]
        Database::MySql(server) => phases::play::<sqlx::MySql>(server, options).await,
    }
}

/// An error with everything that caused it, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    message
}
