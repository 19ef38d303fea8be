//! What can be said on the command line, and what is a mistake there?
//!
//! A mistake is found before anything is connected to or written, URLs included.

use std::{
    ffi::OsString,
    fmt,
    hash::{BuildHasher, RandomState},
    process,
    str::FromStr,
};

use larder::{Cache, CacheBuilder};
use lexopt::{Arg, Parser, ValueExt};
#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlConnectOptions;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgConnectOptions;
#[cfg(feature = "sqlite")]
use sqlx::sqlite::SqliteConnectOptions;

pub(crate) const HELP: &str = "\
Loads the airports of the world into a database and reads them through larder.

Usage: departures [OPTIONS]
       cargo run --release --example departures -- [OPTIONS]

Options:
  --database URL  where the airports are kept: postgres://.., mysql://.. or sqlite://..
                  The tables `larder_departures_airports` and `larder_departures_positions`
                  are DROPPED there, made anew, and dropped again at the end;
                  `larder_offsets` and `larder_dead_letters` are made if they are not there.
                  Postgres and MySQL need the cargo features of these names
                  (`--features postgres,mysql`).
                  Default: SQLite in a temporary file
  --cache URL     where rows are cached: redis://..
                  Default: the memory of this process
  --reads N       look-ups of the phase with edits, 1 to 100000000; the other phases add
                  some thousands
                  Default: 200000
  --audit N       how many cached rows are compared with the database, at least, during the
                  look-ups and after them, 1 to 100000000
                  Default: 100000
  --seed N        where the random choices start
                  Default: 1
  --break         edit with plain SQL, past the cache, to show that the check notices:
                  the last line then ends in a `stale` above 0, and the audit finds stale rows
  --help          print this text

Exit code: 0 if no answer and no cached row was stale, every report arrived and all counts agree, 1 if
not or if a server failed, 2 for a mistake on the command line.

Data: airport-data by its authors, https://airportdata.dev, CC BY 4.0
";

const MOST: u64 = 100_000_000;

/// What the command line asks for.
pub(crate) enum Request {
    Run(Box<Options>),
    Help,
}

/// How to play.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) database: Database,
    pub(crate) cache: CacheBuilder,
    /// What the cache is, in words.
    pub(crate) cache_name: &'static str,
    pub(crate) reads: u64,
    /// How many cached rows are compared with the database at least.
    pub(crate) audit: u64,
    pub(crate) seed: u64,
    /// Whether to edit past the cache.
    pub(crate) breaks: bool,
}

/// Where the airports are kept: one of the databases that this build can use.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    #[cfg(feature = "sqlite")]
    Temporary,
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnectOptions),
    #[cfg(feature = "postgres")]
    Postgres(PgConnectOptions),
    #[cfg(feature = "mysql")]
    MySql(MySqlConnectOptions),
}

/// Reads the command line.
pub(crate) fn read(mut arguments: Parser) -> Result<Request, lexopt::Error> {
    let mut place = None;
    let mut store = None;
    let mut reads = 200_000;
    let mut audit = 100_000;
    let mut seed = 1;
    let mut breaks = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("database") => place = Some(database(&arguments.value()?.string()?)?),
            Arg::Long("cache") => store = Some(redis(&arguments.value()?.string()?)?),
            Arg::Long("reads") => reads = count("reads", &arguments.value()?)?,
            Arg::Long("audit") => audit = count("audit", &arguments.value()?)?,
            Arg::Long("seed") => seed = arguments.value()?.parse()?,
            Arg::Long("break") => breaks = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(Request::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Request::Run(Box::new(Options {
        database: place.map_or_else(temporary, Ok)?,
        cache_name: store
            .as_ref()
            .map_or("the memory of this process", |_| "Redis"),
        cache: store.map_or_else(|| cache(|cache| cache), Ok)?,
        reads,
        audit,
        seed,
        breaks,
    })))
}

/// How many of something.
fn count(option: &str, value: &OsString) -> Result<u64, lexopt::Error> {
    let count = value.parse()?;
    match (1..=MOST).contains(&count) {
        true => Ok(count),
        false => Err(format!("`--{option}` takes 1 to {MOST}").into()),
    }
}

#[cfg(feature = "sqlite")]
fn temporary() -> Result<Database, String> {
    Ok(Database::Temporary)
}

#[cfg(not(feature = "sqlite"))]
fn temporary() -> Result<Database, String> {
    Err(
        "this build has no SQLite: name a `--database`, or build with `--features sqlite`"
            .to_owned(),
    )
}

fn database(url: &str) -> Result<Database, String> {
    match scheme(url) {
        #[cfg(feature = "sqlite")]
        "sqlite" => parsed(url).map(Database::Sqlite),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => parsed(url).map(Database::Postgres),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => parsed(url).map(Database::MySql),
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => Err(missing("sqlite")),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(missing("postgres")),
        #[cfg(not(feature = "mysql"))]
        "mysql" | "mariadb" => Err(missing("mysql")),
        _ => {
            Err("the URL of `--database` begins with postgres://, mysql:// or sqlite://".to_owned())
        }
    }
}

#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
fn missing(feature: &str) -> String {
    format!("this database needs a build with `--features {feature}`")
}

/// The URL stays out of all messages: it may hold a password.
fn parsed<T: FromStr<Err = sqlx::Error>>(url: &str) -> Result<T, String> {
    url.parse().map_err(|error| match error {
        sqlx::Error::Configuration(why) => {
            format!("the URL of `--database` cannot be used: {why}")
        }
        error => format!("the URL of `--database` cannot be used: {error}"),
    })
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<CacheBuilder, String> {
    match scheme(url) {
        "redis" | "rediss" | "redis+unix" => cache(|cache| cache.redis(url)),
        _ => Err("the URL of `--cache` begins with redis://".to_owned()),
    }
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> Result<CacheBuilder, String> {
    Err("`--cache` needs a build with `--features redis`".to_owned())
}

/// A cache under a namespace of this run, so that a shared Redis has nothing old for it. Nothing is connected to yet.
fn cache(place: impl FnOnce(CacheBuilder) -> CacheBuilder) -> Result<CacheBuilder, String> {
    let run = RandomState::new().hash_one(process::id());
    let builder = place(Cache::builder().namespace(format!("departures-{run:016x}")));
    match builder.clone().build() {
        Ok(_usable) => Ok(builder),
        Err(error) => Err(error.to_string()),
    }
}

fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            #[cfg(feature = "sqlite")]
            Self::Temporary => "SQLite in a temporary file",
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "SQLite",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "Postgres",
            #[cfg(feature = "mysql")]
            Self::MySql(_) => "MySQL or MariaDB",
        })
    }
}
