//! A database of a run's own: its tables, the record of commits, and what can be done to it from outside.
//! The order of commits must come from the database itself; any other witness could err in the same way as the cache.
//! 1. Each table has triggers that append every change to the record while the row is locked. 2. The connections of a worker carry its
//!    name, which the triggers note. 3. At the end the record is read.
//!
//! Invariant: the records of one row are in the order of its commits.

use std::{path::Path, str::FromStr, time::Duration};

use crate::{commits::Commit, history::Series, options};
use larder::Backend;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Pool, SqlSafeStr, Sqlite, pool::PoolOptions,
};

/// How long a statement of the run itself may wait for others.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where a database is.
#[derive(Clone, Debug)]
pub struct Address {
    /// The URL of the server, or the path of the file.
    pub url: String,
    /// The name of the database on the server.
    pub name: String,
    /// The port to use in place of the URL's.
    pub port: Option<u16>,
}

/// A kind of database, with what differs between them.
pub trait Site: Backend {
    /// Which of the kinds it is.
    const KIND: options::Database;

    /// The statements that make the table of each strategy and the record.
    fn tables() -> Vec<String>;

    /// What ends the connections of all others to this database, one row each; nothing where there is no server.
    const TERMINATE: Option<&'static str>;

    /// What counts the connections of all others.
    const OTHERS: Option<&'static str>;

    /// What locks a row, in a transaction.
    fn lock(table: &str, id: i64) -> String;

    /// Begins a transaction that can lock.
    const BEGIN: &'static str;

    /// How to connect under this name.
    fn options(address: &Address, worker: &str) -> <Self::Connection as Connection>::Options;

    /// What a connection says first to be known by its worker's name.
    fn introduction(worker: &str) -> Option<String>;

    /// Runs a statement without preparing it, which some statements do not allow.
    fn raw(
        connection: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// A pool of a worker.
pub async fn pool<DB: Site>(
    address: &Address,
    worker: &str,
    connections: u32,
) -> Result<Pool<DB>, sqlx::Error> {
    let introduction = DB::introduction(worker);
    PoolOptions::<DB>::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        // A round trip per use that the program under test would not need; a broken connection is found by its user.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let introduction = introduction.clone();
            Box::pin(async move {
                if let Some(sql) = introduction {
                    DB::raw(connection, sql).await?;
                }
                Ok(())
            })
        })
        .connect_with(DB::options(address, worker))
        .await
}

/// One connection outside any pool.
pub async fn connect<DB: Site>(address: &Address) -> Result<DB::Connection, sqlx::Error> {
    DB::options(address, "harness").connect().await
}

/// Runs a query whose columns are all text.
pub async fn query<DB: Backend>(
    connection: &mut DB::Connection,
    sql: &str,
    columns: usize,
) -> Result<Vec<Vec<Option<String>>>, sqlx::Error> {
    let sql = AssertSqlSafe(sql.to_owned()).into_sql_str();
    let rows = DB::fetch_all(connection, sql, DB::Arguments::default()).await?;
    rows.iter()
        .map(|row| (0..columns).map(|column| DB::text(row, column)).collect())
        .collect()
}

/// Makes the tables and the record.
pub async fn create_tables<DB: Site>(address: &Address) -> Result<(), sqlx::Error> {
    let mut connection = connect::<DB>(address).await?;
    for sql in DB::tables() {
        DB::raw(&mut connection, sql).await?;
    }
    connection.close().await
}

/// The record: all commits in their order, each with the row it changed.
pub async fn record<DB: Site>(address: &Address) -> Result<Vec<(Series, Commit)>, sqlx::Error> {
    let mut connection = connect::<DB>(address).await?;
    let text = match DB::KIND {
        options::Database::Mysql => "CHAR",
        _ => "TEXT",
    };
    let sql = format!(
        "SELECT CAST(tab AS {text}), CAST(id AS {text}), CAST(value AS {text}), CAST(worker AS {text}) \
         FROM record ORDER BY seq"
    );
    let rows = query::<DB>(&mut connection, &sql, 4).await?;
    connection.close().await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let [table, id, value, worker]: [Option<String>; 4] =
                row.try_into().expect("four columns");
            let text = |column: Option<String>| column.expect("the record leaves it out never");
            let number = |column: String| column.parse::<i64>().expect("the column holds a number");
            let series = (text(table).into(), number(text(id)));
            let commit = Commit {
                value: value.map(number),
                by: text(worker).into(),
                cause: None,
            };
            (series, commit)
        })
        .collect())
}

/// Ends the connections of all others, and says how many there were.
pub async fn terminate<DB: Site>(address: &Address) -> Result<usize, sqlx::Error> {
    let Some(sql) = DB::TERMINATE else {
        return Ok(0);
    };
    let mut connection = connect::<DB>(address).await?;
    let rows = query::<DB>(&mut connection, sql, 1).await?;
    for row in &rows {
        if let [Some(sql)] = &row[..]
            && DB::KIND == options::Database::Mysql
        {
            // Some have ended by themselves meanwhile.
            let _gone = DB::raw(&mut connection, sql.clone()).await;
        }
    }
    connection.close().await?;
    Ok(rows.len())
}

/// Kills a process of the server, upon which it ends all others, forgets its memory and recovers from its log. Returns when it
/// takes connections again.
pub async fn crash<DB: Site>(address: &Address) -> Result<(), sqlx::Error> {
    let mut connection = connect::<DB>(address).await?;
    let mut witness = connect::<DB>(address).await?;
    let sql = "SELECT CAST(pg_backend_pid() AS TEXT)";
    let rows = query::<DB>(&mut connection, sql, 1).await?;
    let process = rows.first().and_then(|row| row[0].as_deref());
    let process = process
        .and_then(|id| Pid::from_raw(id.parse().ok()?))
        .ok_or(sqlx::Error::RowNotFound)?;
    kill_process(process, Signal::KILL).map_err(|error| sqlx::Error::Io(error.into()))?;
    let back = async {
        // Until the server has ended all connections it takes new ones as if nothing had happened.
        while query::<DB>(&mut witness, sql, 1).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while connect::<DB>(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back)
        .await
        .map_err(|_| sqlx::Error::PoolTimedOut)
}

/// Waits until all others have left: until then a statement of a worker that was killed may still commit.
pub async fn left_alone<DB: Site>(address: &Address) -> Result<(), sqlx::Error> {
    let Some(sql) = DB::OTHERS else {
        return Ok(());
    };
    let mut connection = connect::<DB>(address).await?;
    let gone = async {
        loop {
            let rows = query::<DB>(&mut connection, sql, 1).await?;
            if rows.first().and_then(|row| row[0].as_deref()) == Some("0") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))?;
    connection.close().await
}

/// Locks a row from outside for a while.
pub async fn hold_lock<DB: Site>(
    address: &Address,
    (table, id): (&str, i64),
    duration: Duration,
) -> Result<(), sqlx::Error> {
    let mut connection = connect::<DB>(address).await?;
    DB::raw(&mut connection, DB::BEGIN.to_owned()).await?;
    query::<DB>(&mut connection, &DB::lock(table, id), 0).await?;
    tokio::time::sleep(duration).await;
    DB::raw(&mut connection, "ROLLBACK".to_owned()).await?;
    connection.close().await
}

/// Makes a database of this process: the server it is on, if it is on one, and where it is.
pub async fn make<DB: Site>(prefix: &str, folder: &Path) -> (Option<String>, Address)
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    let server = match DB::KIND {
        options::Database::Postgres => Some("LARDER_POSTGRES_URL"),
        options::Database::Mysql => Some("LARDER_MYSQL_URL"),
        options::Database::Sqlite => None,
    };
    let server = server.map(larder_testing::server_url);
    let file = || folder.join("test.db").display().to_string();
    let address = Address {
        url: server.clone().unwrap_or_else(file),
        name: format!("{prefix}_{}", std::process::id()),
        port: None,
    };
    if let Some(url) = &server {
        create_or_drop::<DB>(url, &address.name, true)
            .await
            .expect("the server lets us make a database");
    }
    (server, address)
}

/// Makes an empty database of this name on a server, or removes it.
pub async fn create_or_drop<DB: Site>(
    url: &str,
    name: &str,
    create: bool,
) -> Result<(), sqlx::Error>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    let options: <DB::Connection as Connection>::Options = url.parse()?;
    let mut connection = options.connect().await?;
    let force = match DB::KIND {
        options::Database::Postgres => " WITH (FORCE)",
        _ => "",
    };
    DB::raw(
        &mut connection,
        format!("DROP DATABASE IF EXISTS {name}{force}"),
    )
    .await?;
    if create {
        DB::raw(&mut connection, format!("CREATE DATABASE {name}")).await?;
    }
    connection.close().await
}

/// Tells SQLite which worker is at work from now on.
pub async fn announce_worker(address: &Address, worker: &str) -> Result<(), sqlx::Error> {
    let mut connection = connect::<Sqlite>(address).await?;
    Sqlite::raw(
        &mut connection,
        format!("UPDATE present SET worker = '{worker}'"),
    )
    .await?;
    connection.close().await
}
