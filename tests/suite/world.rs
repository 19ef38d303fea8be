//! The world of a test: a cache of one kind over a database of one kind, faults that the test controls, and the table of
//! items (`entities`).
//!
//! [`everywhere!`] runs a case with both stores and all three databases, [`on_both_stores!`] with both stores over SQLite. A
//! case is a generic function, and its name is the claim.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use larder::{Backend, Cache, CacheBuilder, Clock, SecretKey, store::faulty::Faults};
use larder_testing::database::TestDatabase;
use sqlx::{Arguments as _, AssertSqlSafe, MySql, Pool, Postgres, SqlSafeStr, Sqlite};

use crate::entities::{ITEMS, Item, ItemRepository};

/// A database that the tests can create.
pub(crate) trait Tested: Backend {
    /// Creates a database for one test.
    fn create() -> impl Future<Output = TestDatabase<Self>> + Send;

    /// Returns numbers as the arguments of a statement.
    fn numbers(numbers: &[i64]) -> Self::Arguments;
}

impl Tested for Sqlite {
    async fn create() -> TestDatabase<Self> {
        larder_testing::database::sqlite().await
    }

    fn numbers(numbers: &[i64]) -> Self::Arguments {
        let mut arguments = Self::Arguments::default();
        for number in numbers {
            arguments.add(*number).expect("a number can be bound");
        }
        arguments
    }
}

impl Tested for Postgres {
    async fn create() -> TestDatabase<Self> {
        larder_testing::database::postgres().await
    }

    fn numbers(numbers: &[i64]) -> Self::Arguments {
        let mut arguments = Self::Arguments::default();
        for number in numbers {
            arguments.add(*number).expect("a number can be bound");
        }
        arguments
    }
}

impl Tested for MySql {
    async fn create() -> TestDatabase<Self> {
        larder_testing::database::mysql().await
    }

    fn numbers(numbers: &[i64]) -> Self::Arguments {
        let mut arguments = Self::Arguments::default();
        for number in numbers {
            arguments.add(*number).expect("a number can be bound");
        }
        arguments
    }
}

/// The kind of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Redis,
    /// Redis, with entries that are encrypted and compressed.
    Sealed,
}

/// A cache over a database.
pub(crate) struct World<DB: Tested> {
    pub(crate) cache: Cache,
    pub(crate) faults: Faults,
    pub(crate) database: TestDatabase<DB>,
    pub(crate) pool: Pool<DB>,
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
}

impl<DB: Tested> World<DB> {
    /// Returns a new database with an empty table of items, and an empty cache.
    pub(crate) async fn open(kind: Kind) -> Self {
        let database = DB::create().await;
        let faults = Faults::new();
        let namespace = unique("test");
        let world = Self {
            cache: cache(kind, &namespace, &faults).await,
            pool: database.pool(),
            faults,
            database,
            kind,
            namespace,
        };
        world.sql(ITEMS).await;
        world
    }

    /// Returns the items, through the world's cache.
    pub(crate) fn items(&self) -> ItemRepository<DB> {
        Item::repository(&self.cache, self.pool.clone())
    }

    /// Returns the items as another process sees them: the same rows and the same store, and nothing else in common. For the
    /// in-process store, it is another repository of the same cache.
    pub(crate) async fn items_elsewhere(&self) -> ItemRepository<DB> {
        Item::repository(&self.cache_elsewhere().await, self.pool.clone())
    }

    /// Returns the cache as another process sees it.
    pub(crate) async fn cache_elsewhere(&self) -> Cache {
        match self.kind {
            Kind::Memory => self.cache.clone(),
            kind => cache(kind, &self.namespace, &Faults::new()).await,
        }
    }

    /// Returns another cache of the same keys, with a clock that the test controls. It has the faults of the world.
    pub(crate) async fn cache_with(&self, clock: Clock) -> Cache {
        let builder = Cache::builder()
            .namespace(&self.namespace)
            .faults(&self.faults)
            .clock(clock);
        match self.kind {
            Kind::Memory => builder.build().expect("the options are valid"),
            kind => sealed(kind, builder)
                .redis(redis_url())
                .listed(false)
                .connect()
                .await
                .expect("the URL is valid"),
        }
    }

    /// Runs a statement without larder.
    pub(crate) async fn sql(&self, text: impl Into<String>) {
        let text: String = text.into();
        let mut connection = self
            .pool
            .acquire()
            .await
            .expect("the pool has a connection");
        DB::execute(
            &mut connection,
            AssertSqlSafe(text).into_sql_str(),
            DB::Arguments::default(),
        )
        .await
        .expect("the statement is accepted");
    }

    /// Runs a statement that cannot be prepared, without larder.
    pub(crate) async fn raw(&self, text: impl Into<String>) {
        let text: String = text.into();
        let mut connection = self
            .pool
            .acquire()
            .await
            .expect("the pool has a connection");
        DB::run(&mut connection, AssertSqlSafe(text).into_sql_str())
            .await
            .expect("the statement is accepted");
    }

    /// Returns the text that a statement returns.
    pub(crate) async fn text(&self, statement: &'static str) -> String {
        let mut connection = self
            .pool
            .acquire()
            .await
            .expect("the pool has a connection");
        let statement = AssertSqlSafe(statement).into_sql_str();
        let row = DB::fetch(&mut connection, statement, DB::Arguments::default())
            .await
            .expect("the statement is accepted")
            .expect("it returns a row");
        let text = DB::text(&row, 0).expect("the column is a text");
        text.expect("it is not NULL")
    }

    /// Inserts a row into the table, without larder.
    pub(crate) async fn put(&self, item: &Item) {
        let note = item
            .note
            .as_ref()
            .map_or("NULL".to_owned(), |note| format!("'{note}'"));
        self.sql(format!(
            "INSERT INTO items (id, name, note, quantity) VALUES ({}, '{}', {note}, {})",
            item.id, item.name, item.quantity
        ))
        .await;
    }

    /// Reads a row, or its absence, and returns when it is cached. A read does not wait for its fill.
    pub(crate) async fn warm(&self, items: &ItemRepository<DB>, id: i64) {
        let before = items.stats();
        items.find(id).await.expect("the database answers");
        eventually("the fill has been judged", async || {
            let now = items.stats();
            now.loads == before.loads
                || now.fills_accepted + now.fills_refused
                    > before.fills_accepted + before.fills_refused
        })
        .await;
    }

    /// Takes every connection of the pool, so that statements wait until the gate is dropped.
    pub(crate) async fn close_gate(&self) -> Gate<DB> {
        let mut held = Vec::new();
        for _ in 0..self.pool.options().get_max_connections() {
            held.push(
                self.pool
                    .acquire()
                    .await
                    .expect("the pool has a connection"),
            );
        }
        Gate(held)
    }
}

/// All connections of a pool. Dropping it gives them back.
pub(crate) struct Gate<DB: Tested>(
    #[expect(dead_code, reason = "held, not used")] Vec<sqlx::pool::PoolConnection<DB>>,
);

/// Returns a cache with a namespace. Two such caches share only the store, if it is Redis.
pub(crate) async fn cache(kind: Kind, namespace: &str, faults: &Faults) -> Cache {
    let builder = Cache::builder()
        .namespace(namespace)
        .faults(faults)
        .connect_timeout(Duration::from_secs(10))
        .response_timeout(Duration::from_secs(10));
    match kind {
        Kind::Memory => builder.build().expect("the options are valid"),
        kind => sealed(kind, builder)
            .redis(redis_url())
            .listed(false)
            .connect()
            .await
            .expect("the URL is valid"),
    }
}

/// Returns a builder with keys, where entries are sealed.
fn sealed(kind: Kind, builder: CacheBuilder) -> CacheBuilder {
    match kind {
        Kind::Memory | Kind::Redis => builder,
        Kind::Sealed => builder
            .encrypt([SecretKey::new([7; 32])])
            .compress_above(64),
    }
}

/// The maximum time for something that must happen; long enough for slow machines.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until all fills of a repository have been judged. A read does not wait for its fill.
pub(crate) async fn filled(stats: impl Fn() -> larder::Stats) {
    eventually("the fills have been judged", async || {
        let now = stats();
        now.fills_accepted + now.fills_refused + now.uncached_loads + now.load_errors >= now.loads
    })
    .await;
}

/// Waits until a condition holds. Panics if it does not hold in time.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polled = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled)
        .await
        .unwrap_or_else(|_| panic!("it never came true that {what}"));
}

/// As [`eventually`], for a condition that is checked without waiting.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled)
        .await
        .unwrap_or_else(|_| panic!("it never came true that {what}"));
}

/// Runs this many tasks at the same time, and returns their results.
pub(crate) async fn at_once<T: Send + 'static, F>(tasks: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(tasks));
    let handles: Vec<_> = (0..tasks)
        .map(|number| {
            let (barrier, task) = (Arc::clone(&barrier), task(number));
            tokio::spawn(async move {
                barrier.wait().await;
                task.await
            })
        })
        .collect();
    let mut results = Vec::new();
    for handle in handles {
        results.push(handle.await.expect("the task ends"));
    }
    results
}

/// The Redis server that the tests share.
pub(crate) fn redis_url() -> String {
    std::env::var("LARDER_REDIS_URL")
        .expect("LARDER_REDIS_URL is set by `cargo xtask test` or `cargo xtask servers`")
}

/// Returns a name that no other test uses, in this process or another. Process ids are used again, and Redis may still have
/// queued writes of an earlier process, so the name contains a random number.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static DRAWN: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    format!(
        "{name}-{:x}-{}",
        *DRAWN,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Makes a test of each case for both stores and all three databases.
macro_rules! everywhere {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, memory_sqlite, Memory, Sqlite);
            crate::world::case!($case, memory_postgres, Memory, Postgres);
            crate::world::case!($case, memory_mysql, Memory, MySql);
            crate::world::case!($case, redis_sqlite, Redis, Sqlite);
            crate::world::case!($case, redis_postgres, Redis, Postgres);
            crate::world::case!($case, redis_mysql, Redis, MySql);
        })*
    };
}

/// Makes a test of each case for both stores, over SQLite.
macro_rules! on_both_stores {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, memory, Memory, Sqlite);
            crate::world::case!($case, redis, Redis, Sqlite);
        })*
    };
}

/// Makes a test of each case for both stores, over Postgres.
macro_rules! on_postgres {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, memory, Memory, Postgres);
            crate::world::case!($case, redis, Redis, Postgres);
        })*
    };
}

/// Makes a test of each case for both stores, over MySQL.
macro_rules! on_mysql {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, memory, Memory, MySql);
            crate::world::case!($case, redis, Redis, MySql);
        })*
    };
}

/// Makes a test of each case for the in-process store, over the databases that are servers.
macro_rules! on_servers {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, postgres, Memory, Postgres);
            crate::world::case!($case, mysql, Memory, MySql);
        })*
    };
}

/// Makes a test of each case for the in-process store, over all three databases.
macro_rules! on_all_databases {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, sqlite, Memory, Sqlite);
            crate::world::case!($case, postgres, Memory, Postgres);
            crate::world::case!($case, mysql, Memory, MySql);
        })*
    };
}

/// Makes a test of each case for Redis, over SQLite.
macro_rules! on_redis {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, redis, Redis, Sqlite);
        })*
    };
}

/// Makes one test of a case.
macro_rules! case {
    ($case:ident, $name:ident, $kind:ident, $database:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let world =
                crate::world::World::<sqlx::$database>::open(crate::world::Kind::$kind).await;
            super::$case(&world).await;
            world.database.close().await;
        }
    };
}

pub(crate) use {
    case, everywhere, on_all_databases, on_both_stores, on_mysql, on_postgres, on_redis, on_servers,
};
