//! A database for one test, on a shared server, that counts the statements it gets.
//! Tests that share tables see each other's rows, and then fail or pass depending on their order.
//! 1. A database with a name of its own is created (SQLite: a file in a temporary folder).
//! 2. PostgreSQL and MariaDB are reached through a [`Proxy`] that counts and may break things;
//!    SQLite is observed through its events. 3. [`TestDatabase::close`] or drop removes it.
//!
//! Invariant: [`TestDatabase::statements`] counts what reached this database, and nothing that
//! reached another; see [`crate::statements`] for what counts.
//! Invariant: statements through [`TestDatabase::outside_pool`] are not counted.
//! Not here: tables; tests create them.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Database, Executor, MySql, Pool, Postgres, Sqlite,
};
use tempfile::TempDir;

use crate::proxy::Proxy;
use crate::server_url;
use crate::statements::{SqliteObserver, StatementLog};
use crate::wire;

/// The most connections of one pool; many tests run at the same time against one server.
const CONNECTIONS: u32 = 8;

/// How long a test waits for a connection, and a removal for the last user to leave.
const PATIENCE: Duration = Duration::from_secs(20);

/// A fresh database on the shared PostgreSQL.
pub async fn postgres() -> TestDatabase<Postgres> {
    TestDatabase::on_server(Server::Postgres).await
}

/// A fresh database on the shared MariaDB.
pub async fn mysql() -> TestDatabase<MySql> {
    TestDatabase::on_server(Server::Mysql).await
}

/// A fresh SQLite file with a write-ahead log.
pub async fn sqlite() -> TestDatabase<Sqlite> {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let file = folder.path().join("test.db");
    let name = unique_name();
    let statements = StatementLog::default();
    let observer = SqliteObserver::start(name.clone(), statements.clone());
    let observed = sqlite_options(&file).thread_name(move |_| name.clone());
    TestDatabase {
        pool: pool(observed).await,
        outside: sqlite_options(&file),
        url: format!("sqlite://{}", file.display()),
        statements,
        resources: Some(Resources::Sqlite {
            _observer: observer,
            folder,
        }),
    }
}

/// A database of one test; it is removed at the end.
pub struct TestDatabase<DB: Database> {
    pool: Pool<DB>,
    outside: <DB::Connection as Connection>::Options,
    url: String,
    statements: StatementLog,
    resources: Option<Resources>,
}

impl<DB: Database> TestDatabase<DB> {
    /// A pool whose statements are counted.
    pub fn pool(&self) -> Pool<DB> {
        self.pool.clone()
    }

    /// A new pool that bypasses both the count and the proxy, for what others do to the rows.
    pub async fn outside_pool(&self) -> Pool<DB> {
        pool(self.outside.clone()).await
    }

    /// The options of [`Self::outside_pool`], for a pool with options of its own.
    pub fn outside_options(&self) -> <DB::Connection as Connection>::Options {
        self.outside.clone()
    }

    /// The address behind [`Self::pool`], for other processes; their statements are counted as well,
    /// except on SQLite.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many statements on rows have reached this database.
    pub fn statements(&self) -> u64 {
        self.statements.count()
    }

    /// The statements themselves.
    pub fn statement_log(&self) -> &StatementLog {
        &self.statements
    }

    /// The proxy between [`Self::pool`] and the server.
    ///
    /// # Panics
    ///
    /// On SQLite, which has no server.
    pub fn proxy(&self) -> &Proxy {
        match &self.resources {
            Some(Resources::Server { proxy, .. }) => proxy,
            _ => panic!("SQLite has no proxy"),
        }
    }

    /// Removes the database, and fails when that fails; drop only reports it.
    pub async fn close(mut self) {
        let resources = self.resources.take().expect("a database is closed once");
        resources
            .remove()
            .await
            .expect("a database that was created can be removed");
    }
}

impl<DB: Database> TestDatabase<DB>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    async fn on_server(server: Server) -> Self {
        let admin = server_url(server.variable());
        let name = unique_name();
        server.create(&admin, &name).await.unwrap_or_else(|error| {
            panic!(
                "failed to create database {name} on {}: {error}",
                server.variable()
            )
        });
        let statements = StatementLog::default();
        let log = statements.clone();
        let proxy = Proxy::start_observed(
            address(&admin),
            Some(Box::new(move || server.observer(log.clone()))),
        );
        let url = relocated(&admin, Some(proxy.address()), &name);
        let outside = options::<DB>(&relocated(&admin, None, &name));
        Self {
            pool: pool(options::<DB>(&url)).await,
            outside,
            url,
            statements,
            resources: Some(Resources::Server {
                proxy,
                server,
                admin,
                name,
            }),
        }
    }
}

impl<DB: Database> Drop for TestDatabase<DB> {
    fn drop(&mut self) {
        let Some(resources) = self.resources.take() else {
            return;
        };
        // The test's runtime may be the one that is dropping us, so it cannot run this.
        let removal = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built")
                .block_on(resources.remove())
        });
        match removal.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("failed to remove a database: {error}"),
            Err(_) => eprintln!("failed to remove a database: the attempt panicked"),
        }
    }
}

impl<DB: Database> fmt::Debug for TestDatabase<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDatabase")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// What exists outside this process, or must end before it does.
enum Resources {
    Server {
        proxy: Proxy,
        server: Server,
        admin: String,
        name: String,
    },
    Sqlite {
        _observer: SqliteObserver,
        folder: TempDir,
    },
}

impl Resources {
    async fn remove(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Server {
                proxy,
                server,
                admin,
                name,
            } => {
                // Ends all connections, and with them transactions that still lock the tables.
                drop(proxy);
                server.remove(&admin, &name).await
            }
            // Connections that are still open keep the file alive but cannot be found any more.
            Self::Sqlite { folder, .. } => folder.close().map_err(sqlx::Error::from),
        }
    }
}

/// The shared servers that hold many databases.
#[derive(Debug, Clone, Copy)]
enum Server {
    Postgres,
    Mysql,
}

impl Server {
    fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "LARDER_POSTGRES_URL",
            Self::Mysql => "LARDER_MYSQL_URL",
        }
    }

    fn observer(self, log: StatementLog) -> Box<dyn wire::Observer> {
        match self {
            Self::Postgres => Box::new(wire::Postgres::new(log)),
            Self::Mysql => Box::new(wire::Mysql::new(log)),
        }
    }

    async fn create(self, admin: &str, name: &str) -> Result<(), sqlx::Error> {
        let remains = format!("DROP DATABASE IF EXISTS {name}");
        match self {
            // The name may be left over from a process that had our id before and was killed.
            Self::Postgres => {
                let create = format!("CREATE DATABASE {name}");
                run::<Postgres>(admin, &[remains, create]).await
            }
            Self::Mysql => {
                let create = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
                run::<MySql>(admin, &[remains, create]).await
            }
        }
    }

    async fn remove(self, admin: &str, name: &str) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres => {
                run::<Postgres>(admin, &[format!("DROP DATABASE {name} WITH (FORCE)")]).await
            }
            Self::Mysql => {
                // A pool outside the proxy may hold a lock on the tables; waiting for it is bounded.
                let patience = format!("SET lock_wait_timeout = {}", PATIENCE.as_secs());
                run::<MySql>(admin, &[patience, format!("DROP DATABASE {name}")]).await
            }
        }
    }
}

/// Runs statements on a connection of their own.
async fn run<DB>(url: &str, statements: &[String]) -> Result<(), sqlx::Error>
where
    DB: Database,
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let mut connection = options::<DB>(url).connect().await?;
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement.as_str()))
            .execute(&mut connection)
            .await?;
    }
    connection.close().await
}

async fn pool<DB: Database>(options: <DB::Connection as Connection>::Options) -> Pool<DB> {
    PoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .connect_with(options)
        .await
        .expect("a database that was just created accepts connections")
}

fn options<DB>(url: &str) -> <DB::Connection as Connection>::Options
where
    DB: Database,
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    url.parse()
        .unwrap_or_else(|error| panic!("`{url}` is not an address: {error}"))
}

fn sqlite_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(PATIENCE)
}

/// A name that no other test of this machine uses at the same time.
fn unique_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("larder_{}_{number}", std::process::id())
}

/// Takes `scheme://user@host:port/database?options` apart.
fn parts(url: &str) -> (&str, &str, &str) {
    let scheme = url
        .find("://")
        .unwrap_or_else(|| panic!("`{url}` is not an address"))
        + 3;
    let path = url[scheme..]
        .find(['/', '?'])
        .map_or(url.len(), |at| scheme + at);
    let host = url[..path].rfind('@').map_or(scheme, |at| at + 1);
    let query = url[path..].find('?').map_or("", |at| &url[path + at..]);
    (&url[..host], &url[host..path], query)
}

/// The same address with another database, and perhaps another host.
fn relocated(url: &str, host: Option<SocketAddr>, database: &str) -> String {
    let (before, old, query) = parts(url);
    let host = host.map_or(old.to_owned(), |host| host.to_string());
    format!("{before}{host}/{database}{query}")
}

/// Where the server of an address listens.
fn address(url: &str) -> SocketAddr {
    let (_, host, _) = parts(url);
    let mut addresses = host
        .to_socket_addrs()
        .unwrap_or_else(|error| panic!("`{host}` in `{url}` has no address: {error}"));
    addresses
        .next()
        .unwrap_or_else(|| panic!("`{host}` in `{url}` has no address"))
}

#[cfg(test)]
mod tests {
    use sqlx::raw_sql;

    use super::*;
    use crate::proxy::Point;

    /// One insert and three reads count; the table, transactions, a ping and outsiders do not.
    async fn statements_are_counted<DB>(database: &TestDatabase<DB>, prepared: &'static str)
    where
        DB: Database,
        for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
        for<'c> &'c Pool<DB>: Executor<'c, Database = DB>,
        for<'q> i64: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
        DB::Arguments: sqlx::IntoArguments<DB>,
    {
        let pool = database.pool();
        raw_sql("CREATE TABLE users (id BIGINT PRIMARY KEY)")
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(database.statements(), 0);
        let mut transaction = pool.begin().await.unwrap();
        raw_sql("INSERT INTO users VALUES (1)")
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(database.statements(), 1);
        for _ in 0..3 {
            let rows = sqlx::query(prepared)
                .bind(1_i64)
                .fetch_all(&pool)
                .await
                .unwrap();
            assert_eq!(rows.len(), 1);
        }
        assert_eq!(database.statements(), 4);
        assert_eq!(database.statement_log().count_on("users"), 4);
        pool.begin().await.unwrap().rollback().await.unwrap();
        pool.acquire().await.unwrap().ping().await.unwrap();
        let outside = database.outside_pool().await;
        raw_sql("DELETE FROM users")
            .execute(&outside)
            .await
            .unwrap();
        assert_eq!(database.statements(), 4);
        assert_eq!(
            sqlx::query(prepared)
                .bind(1_i64)
                .fetch_all(&pool)
                .await
                .unwrap()
                .len(),
            0
        );
        assert_eq!(database.statement_log().texts().last().unwrap(), prepared);
    }

    #[tokio::test]
    async fn postgres_statements_are_counted() {
        let database = postgres().await;
        statements_are_counted(&database, "SELECT id FROM users WHERE id = $1").await;
        database.close().await;
    }

    #[tokio::test]
    async fn mysql_statements_are_counted() {
        let database = mysql().await;
        statements_are_counted(&database, "SELECT id FROM users WHERE id = ?").await;
        database.close().await;
    }

    #[tokio::test]
    async fn sqlite_statements_are_counted_per_database() {
        let (first, second) = (sqlite().await, sqlite().await);
        statements_are_counted(&first, "SELECT id FROM users WHERE id = ?").await;
        assert_eq!(second.statements(), 0);
        first.close().await;
    }

    #[tokio::test]
    async fn postgres_statements_of_other_clients_of_the_url_are_counted() {
        let database = postgres().await;
        run::<Postgres>(database.url(), &["SELECT 1".to_owned()])
            .await
            .unwrap();
        assert_eq!(database.statements(), 1);
    }

    #[tokio::test]
    async fn commit_whose_answer_is_lost_is_reported_as_failed_and_has_happened() {
        let database = postgres().await;
        let pool = database.pool();
        raw_sql("CREATE TABLE users (id BIGINT PRIMARY KEY)")
            .execute(&pool)
            .await
            .unwrap();
        let mut transaction = pool.begin().await.unwrap();
        raw_sql("INSERT INTO users VALUES (1)")
            .execute(&mut *transaction)
            .await
            .unwrap();
        let trap = database.proxy().cut(Point::BeforeReply, "COMMIT");
        transaction.commit().await.unwrap_err();
        trap.sprung().await;
        let outside = database.outside_pool().await;
        let rows = raw_sql("SELECT id FROM users")
            .fetch_all(&outside)
            .await
            .unwrap();
        assert_eq!(rows.len(), 1);
    }

    #[tokio::test]
    async fn dropped_database_is_removed_even_with_an_open_transaction() {
        let (name, admin) = {
            let database = mysql().await;
            let pool = database.pool();
            raw_sql("CREATE TABLE users (id BIGINT PRIMARY KEY)")
                .execute(&pool)
                .await
                .unwrap();
            let mut transaction = pool.begin().await.unwrap();
            raw_sql("INSERT INTO users VALUES (1)")
                .execute(&mut *transaction)
                .await
                .unwrap();
            let Some(Resources::Server { name, admin, .. }) = &database.resources else {
                unreachable!("MariaDB has a server")
            };
            let kept = (name.clone(), admin.clone());
            // The transaction outlives the database.
            let dropped = tokio::task::spawn_blocking(move || drop(database));
            dropped.await.unwrap();
            drop(transaction);
            kept
        };
        run::<MySql>(&admin, &[format!("USE {name}")])
            .await
            .unwrap_err();
    }

    #[test]
    fn address_is_relocated_piece_by_piece() {
        let proxy = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        let full = "mysql://larder:a@b@db.example:1/larder?ssl-mode=disabled";
        let moved = "mysql://larder:a@b@127.0.0.1:9/x?ssl-mode=disabled";
        assert_eq!(relocated(full, proxy, "x"), moved);
        assert_eq!(
            relocated("postgres://db.example:1", None, "x"),
            "postgres://db.example:1/x"
        );
    }
}
