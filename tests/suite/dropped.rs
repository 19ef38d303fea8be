//! Every public future, dropped after every poll. It must leave nothing behind.
//!
//! A caller that gives up (a time-out, a `select!`) drops its future at any await. The future must not leave a transaction
//! open, and the next caller's write must not be lost with it. Tests that await every call to its end do not detect that.
//!
//! 1. The tables below list every public function by file that is `async` or returns a future. A function that is missing there does not compile
//!    ([`lists_all`]).
//! 2. Each function runs repeatedly, and is dropped after 0, 1, 2, .. polls, until it ends by itself. It is dropped right
//!    after a poll, when its request is on the way, and also when it is woken, when the reply has arrived and was not read.
//!    The pool has one connection.
//! 3. After each drop, [`Stage::audit`] checks from connections that larder does not use: no transaction is open, the pool
//!    hands out its connection, the next write commits, the cache agrees with the database, and no acknowledged write is
//!    missing.
//!
//! The controls run the same operations with plain sqlx, without a task of their own, and show that the audit detects the
//! fault.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use larder::{AuditOptions, Backend, Cache, Cached, Error, ErrorKind, Repository, Transaction};
use larder_testing::cut::Cut;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, MySql, Pool, Postgres, SqlSafeStr, SqlStr};

use crate::{
    entities::{Behind, Item, Through, of_items},
    world::{Kind, Tested, World, everywhere, redis_url},
};

everywhere!(
    a_future_that_is_dropped_at_any_poll_leaves_no_trace,
    a_beginning_that_fails_half_way_leaves_no_transaction,
);

mod sealed {
    crate::world::case!(
        a_future_that_is_dropped_at_any_poll_leaves_no_trace,
        sqlite,
        Sealed,
        Sqlite
    );
}

mod a_beginning_without_a_task_of_its_own_is_found {
    crate::world::case!(
        a_beginning_without_a_task_of_its_own_is_found,
        postgres,
        Memory,
        Postgres
    );
    crate::world::case!(
        a_beginning_without_a_task_of_its_own_is_found,
        mysql,
        Memory,
        MySql
    );
}

mod a_connection_that_is_not_closed_is_found {
    crate::world::case!(
        a_connection_that_is_not_closed_is_found,
        mysql,
        Memory,
        MySql
    );
}

mod a_write_that_is_not_committed_is_found {
    crate::world::case!(
        a_write_that_is_not_committed_is_found,
        postgres,
        Redis,
        Postgres
    );
}

/// The public asynchronous functions of each file.
const REPOSITORY: &[&str] = &[
    "find",
    "find_outcome",
    "find_uncached",
    "find_many",
    "find_map",
    "fill_from",
    "exists",
    "insert",
    "update",
    "save",
    "modify",
    "modify_or_insert",
    "delete",
    "delete_row",
    "insert_many",
    "update_many",
    "delete_many",
    "delete_rows",
    "invalidate",
    "invalidate_all",
    "refresh",
    "check_schema",
    "audit",
];
const LOOKUPS: &[&str] = &[
    "find_by",
    "exists_by",
    "find_many_by",
    "find_all_many",
    "count_by",
    "modify_by",
    "delete_by",
    "find_each",
    "invalidate_by",
];
const TAGS: &[&str] = &["invalidate_tag", "invalidate_tags", "write_tagged"];
const QUERIES: &[&str] = &["fetch", "invalidate", "invalidate_tag", "invalidate_all"];
const WITHIN_LOOKUPS: &[&str] = &[
    "find_by",
    "exists_by",
    "find_many_by",
    "find_all_many",
    "count_by",
    "modify_by",
    "delete_by",
];
const WITHIN: &[&str] = &[
    "find",
    "find_complete",
    "find_many",
    "exists",
    "insert",
    "update",
    "save",
    "modify",
    "modify_or_insert",
    "delete",
    "delete_row",
    "insert_many",
    "update_many",
    "delete_many",
    "delete_rows",
];
const TRANSACTION: &[&str] = &["begin", "begin_with", "savepoint", "commit", "rollback"];
const ADOPTED: &[&str] = &["adopt", "announce", "commit", "rollback"];
const FLUSHER: &[&str] = &["shutdown", "start_flushing", "flush", "pending"];
const DEAD_LETTERS: &[&str] = &["list", "replay", "replay_over", "discard", "install"];
const CACHE: &[&str] = &["connect", "rebind", "publish_metrics"];
/// The same operations, on other paths.
const OTHERWISE: &[&str] = &[
    "insert into a queue",
    "save into a queue",
    "update into a queue",
    "delete into a queue",
    "modify into a queue",
    "a flusher that is dropped while it works",
    "a flush that meets refused rows",
    "a raw statement in a transaction",
    "a prepared raw statement in a transaction",
    "a raw statement with a parameter in a transaction",
    "a raw statement with parameters in a transaction",
    "a raw statement with parameters before one of larder",
    "a raw statement with parameters in a savepoint",
    "commit of a savepoint",
    "rollback of a savepoint",
    "insert with an id of the database",
    "the id of the database is installed",
    "a page of a list",
    "a page beyond what is cached of a list",
    "a page of a list in a transaction",
    "a row whose tags are compared",
    "a row whose tag was invalidated",
    "a read with a time to live",
    "a read with a maximum age",
    "a read that refreshes",
    "a read with a timeout",
    "a read that bypasses the cache",
    "a read of a whole row",
    "a save of a row without all columns",
];

macro_rules! lists_all {
    ($table:ident, $file:literal, but $hidden:expr) => {
        const _: () = assert!(
            lists_all(
                include_bytes!(concat!("../../cache-runtime/src/", $file)),
                $table,
                $hidden
            ),
            concat!(
                "a public function of ",
                $file,
                " is not in the table of tests/suite/dropped.rs: add it there, and how it runs to `Stage::run`"
            )
        );
    };
}

// Functions that only tests can call are not in the tables.
lists_all!(
    REPOSITORY,
    "repository/mod.rs",
    but & ["apply_queued", "find_unobserved"]
);
lists_all!(LOOKUPS, "repository/lookups.rs", but & []);
lists_all!(TAGS, "repository/tags.rs", but & []);
lists_all!(QUERIES, "repository/queries.rs", but & []);
lists_all!(WITHIN, "repository/within.rs", but & []);
lists_all!(WITHIN_LOOKUPS, "repository/within_lookups.rs", but & []);
lists_all!(TRANSACTION, "write/transaction.rs", but & []);
lists_all!(ADOPTED, "write/adopted.rs", but & []);
lists_all!(FLUSHER, "behind/flusher.rs", but & []);
lists_all!(FLUSHER, "repository/write_behind.rs", but DEAD_LETTERS);
lists_all!(DEAD_LETTERS, "behind/replay.rs", but & []);
lists_all!(CACHE, "cache/mod.rs", but & []);
lists_all!(CACHE, "cache/builder.rs", but & []);
lists_all!(CACHE, "cache/metrics/mod.rs", but & []);
// `OTHERWISE` tests it as "the id of the database is installed".
lists_all!(NONE, "database/database_id.rs", but & ["install"]);
lists_all!(NONE, "write/announce/mod.rs", but & []);
const NONE: &[&str] = &[];

/// Returns whether every public function of a source that is `async` or returns a future is in one of two tables.
const fn lists_all(source: &[u8], table: &[&str], hidden: &[&str]) -> bool {
    const ASYNC: &[u8] = b"pub async fn ";
    const PLAIN: &[u8] = b"pub fn ";
    let mut at = 1;
    while at + ASYNC.len() < source.len() {
        // Not in a comment, and at the level of the module or of an `impl`.
        let begins =
            source[at - 1] == b'\n' || starts_with(source, at.saturating_sub(5), b"\n    ");
        let name = if starts_with(source, at, ASYNC) {
            at + ASYNC.len()
        } else if starts_with(source, at, PLAIN) && returns_future(source, at) {
            at + PLAIN.len()
        } else {
            0
        };
        if begins && name > 0 && !names(source, name, table) && !names(source, name, hidden) {
            return false;
        }
        at += 1;
    }
    true
}

/// Returns whether there is a future in the result of a function.
const fn returns_future(source: &[u8], mut at: usize) -> bool {
    let mut is_result = false;
    while at < source.len() && source[at] != b'{' {
        is_result = is_result || starts_with(source, at, b"->");
        if is_result && starts_with(source, at, b"impl Future<") {
            return true;
        }
        at += 1;
    }
    false
}

const fn starts_with(source: &[u8], at: usize, words: &[u8]) -> bool {
    let mut i = 0;
    while i < words.len() {
        if at + i >= source.len() || source[at + i] != words[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn names(source: &[u8], at: usize, table: &[&str]) -> bool {
    let mut i = 0;
    while i < table.len() {
        let name = table[i].as_bytes();
        let end = at + name.len();
        if starts_with(source, at, name)
            && end < source.len()
            && (source[end] == b'(' || source[end] == b'<')
        {
            return true;
        }
        i += 1;
    }
    false
}

const _: () = assert!(
    !lists_all(b"\n    pub async fn new_one(&self) {", REPOSITORY, &[])
        && !lists_all(b"\npub async fn new_one() {", REPOSITORY, &[])
        && !lists_all(
            b"\n    pub fn new_one() -> W::Operation<impl Future<Output = ()>> {",
            REPOSITORY,
            &[]
        )
        && lists_all(
            b"\n    pub fn no_one(_: impl Future<Output = ()>) -> u8 { impl Future<Output = ()> }",
            REPOSITORY,
            &[]
        )
        && lists_all(b"\n    pub async fn find(&self) {", REPOSITORY, &[]),
    "the check of the tables cannot fail"
);

/// A row of a table with a `CHECK`. Rejected writes become dead letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "checked_items",
    strategy = "write_behind",
    durability = "memory",
    partitions = 1,
    linger = "1ms",
    ttl = "10m",
    jitter = 0
)]
struct Checked {
    #[cached(id)]
    id: i64,
    name: String,
    quantity: i64,
}

of_items! {
    /// The same row, found by its number and its name, and invalidated by its number.
    #[cached(
        name = "Found",
        ttl = "10m",
        negative_ttl = "30s",
        jitter = 0,
        unique(quantity, name),
        index(quantity, order_by = "name", max = 2),
        tags("items", "quantity:{quantity}")
    )]
    struct Found
}

/// A row whose id the database generates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "numbered_items",
    strategy = "write_through",
    ttl = "10m",
    jitter = 0
)]
struct Numbered {
    #[cached(id, generated)]
    id: i64,
    name: String,
}

/// A row with a column that is not in the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "secret_items")]
struct Secret {
    #[cached(id)]
    id: i64,
    name: String,
    #[cached(omit)]
    note: Option<String>,
}

/// The repository whose rows an operation has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Items,
    Found,
    Through,
    Behind,
    Checked,
}

/// The result of an operation.
#[derive(Default)]
struct Left {
    /// Whether its future was dropped.
    dropped: bool,
    /// The rows that it has read or written.
    rows: Vec<(Rows, i64)>,
    /// The acknowledged writes: the name that the row must have in the database, or `None` if it must not exist.
    acknowledged: Vec<(Rows, i64, Option<&'static str>)>,
}

impl Left {
    fn of<T>(outcome: &Option<T>) -> Self {
        Self {
            dropped: outcome.is_none(),
            ..Self::default()
        }
    }

    fn row(mut self, rows: Rows, id: i64) -> Self {
        self.rows.push((rows, id));
        self
    }

    /// Adds what must hold if the operation has succeeded.
    fn then<T>(
        mut self,
        outcome: &Option<Result<T, Error>>,
        rows: Rows,
        id: i64,
        name: Option<&'static str>,
    ) -> Self {
        match outcome {
            Some(Ok(_)) => self.acknowledged.push((rows, id, name)),
            Some(Err(error)) => panic!("the operation fails: {error}"),
            None => {}
        }
        self.row(rows, id)
    }
}

/// The maximum time for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a control waits for something that must not happen.
const IMPATIENCE: Duration = Duration::from_secs(2);
/// The maximum number of polls of an operation.
const MAX_POLLS: usize = 400;

struct Stage<'w, DB: Tested> {
    world: &'w World<DB>,
    /// Has one connection.
    pool: Pool<DB>,
    /// No repository uses it.
    outside: Pool<DB>,
    items: Repository<Item, DB>,
    through: Repository<Through, DB>,
    behind: Repository<Behind, DB>,
    checked: Repository<Checked, DB>,
    numbered: Repository<Numbered, DB>,
    secrets: Repository<Secret, DB>,
    found: Repository<Found, DB>,
    next: AtomicI64,
    patience: Duration,
}

impl<'w, DB: Tested> Stage<'w, DB> {
    async fn open(world: &'w World<DB>, patience: Duration) -> Self {
        let options = world.pool.options().clone();
        let options = options.max_connections(1).acquire_timeout(patience);
        let pool = options.connect_lazy_with((*world.pool.connect_options()).clone());
        world
            .sql("CREATE TABLE checked_items (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, quantity BIGINT NOT NULL CHECK (quantity >= 0))")
            .await;
        let id = match DB::NAME {
            "PostgreSQL" => "BIGSERIAL PRIMARY KEY",
            "MySQL" => "BIGINT AUTO_INCREMENT PRIMARY KEY",
            _ => "INTEGER PRIMARY KEY",
        };
        world
            .sql(format!(
                "CREATE TABLE numbered_items (id {id}, name VARCHAR(200) NOT NULL)"
            ))
            .await;
        world
            .sql("CREATE TABLE secret_items (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, note VARCHAR(200) NOT NULL)")
            .await;
        world
            .sql("INSERT INTO secret_items VALUES (1, 'one', 'secret')")
            .await;
        let stage = Self {
            world,
            outside: world.database.outside_pool().await,
            items: Repository::new(&world.cache, pool.clone()),
            through: Repository::new(&world.cache, pool.clone()),
            behind: Repository::new(&world.cache, pool.clone()),
            checked: Repository::new(&world.cache, pool.clone()),
            numbered: Repository::new(&world.cache, pool.clone()),
            secrets: Repository::new(&world.cache, pool.clone()),
            found: Repository::new(&world.cache, pool.clone()),
            pool,
            next: AtomicI64::new(1),
            patience,
        };
        stage.behind.install().await.unwrap();
        stage
    }

    fn id(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs a statement on a connection that larder does not use.
    async fn execute(&self, text: impl Into<String>) {
        let mut connection = self.outside.acquire().await.unwrap();
        let text = AssertSqlSafe(text.into()).into_sql_str();
        DB::run(&mut connection, text).await.unwrap();
    }

    /// Returns the text that a statement returns, if any, on a connection that larder does not use.
    async fn ask(&self, text: impl Into<String>) -> Option<String> {
        let mut connection = self.outside.acquire().await.unwrap();
        let none = DB::Arguments::default();
        ask::<DB>(&mut connection, text.into(), none).await.unwrap()
    }

    /// Inserts an item without larder. Returns its id.
    async fn old_row(&self) -> i64 {
        let id = self.id();
        self.execute(format!("INSERT INTO items VALUES ({id}, 'old', NULL, 1)"))
            .await;
        id
    }

    /// Returns the name of a row in the database.
    async fn in_database(&self, rows: Rows, id: i64) -> Option<String> {
        let table = match rows {
            Rows::Items | Rows::Found | Rows::Through | Rows::Behind => "items",
            Rows::Checked => "checked_items",
        };
        // One text for all ids. Otherwise every statement would be prepared and closed again, and sqlx leaves Nagle's
        // algorithm on, so on MySQL every close would take 40 ms.
        let id_is = if DB::NAME == "PostgreSQL" { "$1" } else { "?" };
        let text = format!("SELECT name FROM {table} WHERE id = {id_is}");
        let mut connection = self.outside.acquire().await.unwrap();
        let row = ask::<DB>(&mut connection, text, DB::numbers(&[id])).await;
        row.unwrap()
    }

    /// Returns the name of a row as larder returns it.
    async fn found(&self, rows: Rows, id: i64) -> Result<Option<String>, Error> {
        Ok(match rows {
            Rows::Items => self.items.find(id).await?.map(|row| row.name.clone()),
            Rows::Found => self.found.find(id).await?.map(|row| row.name.clone()),
            Rows::Through => self.through.find(id).await?.map(|row| row.name.clone()),
            Rows::Behind => self.behind.find(id).await?.map(|row| row.name.clone()),
            Rows::Checked => self.checked.find(id).await?.map(|row| row.name.clone()),
        })
    }

    /// Checks that the operation has left nothing behind.
    async fn audit(&self, left: &Left) -> Result<(), String> {
        let looked = tokio::time::timeout(self.patience * 3, self.look(left)).await;
        looked.map_err(|_| "what it left holds others up for ever".to_owned())?
    }

    async fn look(&self, left: &Left) -> Result<(), String> {
        self.connection_is_free().await?;
        self.no_transaction_is_open().await?;
        // The dropped operation may continue in its task, so the row and the entry may differ for a moment.
        for &(rows, id) in &left.rows {
            let mut said = String::new();
            if !self
                .comes_true(async || {
                    let flushed = match rows {
                        Rows::Items | Rows::Found | Rows::Through => Ok(()),
                        Rows::Behind => self.behind.flush().await,
                        Rows::Checked => self.checked.flush().await,
                    };
                    let found = self.found(rows, id).await;
                    let held = self.in_database(rows, id).await;
                    said.clear();
                    let _infallible =
                        write!(said, "{flushed:?}, larder {found:?}, the database {held:?}");
                    flushed.is_ok() && found.is_ok_and(|found| found == held)
                })
                .await
            {
                return Err(format!("row {id} of {rows:?} is not one: {said}"));
            }
        }
        for &(rows, id, name) in &left.acknowledged {
            let held = self.in_database(rows, id).await;
            if held.as_deref() != name {
                return Err(format!(
                    "row {id} of {rows:?} was acknowledged as {name:?}, and is {held:?}"
                ));
            }
        }
        self.next_write_commits().await
    }

    async fn comes_true(&self, mut holds: impl AsyncFnMut() -> bool) -> bool {
        let polled = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(self.patience, polled).await.is_ok()
    }

    async fn connection_is_free(&self) -> Result<(), String> {
        let taken = tokio::time::timeout(self.patience, async {
            let mut connection = self.pool.acquire().await?;
            connection.ping().await?;
            let question = match DB::NAME {
                // Asks the connection itself: MariaDB does not list a transaction that has neither read nor written.
                "MySQL" => {
                    "SELECT CASE WHEN @@in_transaction THEN 'in a transaction' \
                     WHEN @@SESSION.wait_timeout < 60 THEN 'closed soon' ELSE 'ready' END"
                }
                _ => "SELECT 'ready'",
            };
            let none = DB::Arguments::default();
            ask::<DB>(&mut connection, question.to_owned(), none).await
        });
        match taken.await {
            Ok(Ok(state)) if state.as_deref() == Some("ready") => Ok(()),
            Ok(Ok(state)) => Err(format!("the pool's connection is {state:?}")),
            Ok(Err(error)) => Err(format!("the pool gives no connection: {error}")),
            Err(_) => Err("the pool gives no connection".to_owned()),
        }
    }

    async fn no_transaction_is_open(&self) -> Result<(), String> {
        if !matches!(DB::NAME, "PostgreSQL" | "MySQL") {
            // SQLite does not list transactions. But only one can write, and none can begin inside another.
            let mut connection = self.pool.acquire().await.map_err(|e| e.to_string())?;
            for connection in [&mut connection, &mut self.outside.acquire().await.unwrap()] {
                for statement in ["BEGIN IMMEDIATE", "ROLLBACK"] {
                    let run = DB::run(connection, SqlStr::from_static(statement)).await;
                    run.map_err(|error| format!("a transaction is open: {error}"))?;
                }
            }
            return Ok(());
        }
        let mut open = None;
        if self
            .comes_true(async || {
                open = self.ask(self.open_transactions()).await;
                open.is_none()
            })
            .await
        {
            return Ok(());
        }
        Err(format!("transactions are open: {open:?}"))
    }

    /// Returns the statement that lists open transactions, of a database that is a server.
    fn open_transactions(&self) -> String {
        if DB::NAME == "PostgreSQL" {
            return "SELECT string_agg(concat_ws(' ', pid, state, query), '; ') FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid() \
                    AND backend_type = 'client backend' AND xact_start IS NOT NULL"
                .to_owned();
        }
        // MariaDB refreshes its list of transactions only while no one queries it. But a transaction needs a session, and the
        // sessions of our pools are known. The pools may grow while one asks.
        let pools = [&self.pool, &self.outside, &self.world.pool];
        let known: u32 = pools.iter().map(|pool| pool.size()).sum();
        format!(
            "SELECT CAST(GROUP_CONCAT(CONCAT_WS(' ', id, command, time, info)) AS CHAR) \
             FROM information_schema.processlist WHERE db = DATABASE() HAVING COUNT(*) > {known}"
        )
    }

    async fn next_write_commits(&self) -> Result<(), String> {
        let id = self.id();
        let saved = self.through.save(&Through::new(id, "next")).await;
        saved.map_err(|error| format!("the next write fails: {error}"))?;
        match self.in_database(Rows::Through, id).await.as_deref() {
            Some("next") => Ok(()),
            held => Err(format!(
                "the next write was acknowledged and not committed: {held:?}"
            )),
        }
    }

    /// Runs an operation, and drops its future at the cut.
    async fn run(&self, group: &[&str], name: &str, cut: Cut) -> Left {
        if group == REPOSITORY {
            self.run_alone(name, cut).await
        } else if group == LOOKUPS || group == TAGS {
            self.run_lookup(name, cut).await
        } else if group == QUERIES {
            self.run_query(name, cut).await
        } else if group == WITHIN {
            self.run_within(name, cut).await
        } else if group == WITHIN_LOOKUPS {
            self.run_within_lookup(name, cut).await
        } else if group == TRANSACTION {
            self.run_transaction(name, cut).await
        } else if group == ADOPTED {
            self.run_adopted(name, cut).await
        } else if group == FLUSHER || group == DEAD_LETTERS {
            self.run_queue(name, cut).await
        } else if group == CACHE && name == "rebind" {
            Left::of(&cut.run(self.world.cache.rebind(&self.pool)).await)
        } else if group == CACHE && name == "publish_metrics" {
            let published = async {
                self.world.cache.publish_metrics().await;
                Ok::<_, Error>(())
            };
            Left::of(&cut.run(published).await)
        } else if group == CACHE {
            let connecting = match self.world.kind {
                Kind::Redis | Kind::Sealed => cut.run(Cache::connect(&redis_url())).await.map(drop),
                Kind::Memory => Some(()),
            };
            Left::of(&connecting)
        } else {
            self.run_otherwise(name, cut).await
        }
    }

    async fn run_alone(&self, name: &str, cut: Cut) -> Left {
        let (items, through) = (&self.items, &self.through);
        let (id, other, new) = (self.old_row().await, self.old_row().await, self.id());
        let row = |id| Through::new(id, "new");
        match name {
            "find" => Left::of(&cut.run(items.find(id)).await).row(Rows::Items, id),
            "find_outcome" => Left::of(&cut.run(items.find_outcome(id)).await).row(Rows::Items, id),
            "find_uncached" => {
                Left::of(&cut.run(items.find_uncached(id)).await).row(Rows::Items, id)
            }
            "exists" => Left::of(&cut.run(items.exists(id)).await).row(Rows::Items, id),
            "find_many" | "find_map" => {
                let ids = [id, self.old_row().await];
                let left = match name {
                    "find_many" => Left::of(&cut.run(items.find_many(&ids)).await),
                    _ => Left::of(&cut.run(items.find_map(&ids)).await),
                };
                left.row(Rows::Items, ids[0]).row(Rows::Items, ids[1])
            }
            "fill_from" => {
                let query = items.fill_from(move |connection| {
                    Box::pin(async move {
                        let text = format!("SELECT * FROM items WHERE id = {id}");
                        DB::run(connection, AssertSqlSafe(text).into_sql_str()).await?;
                        Ok(vec![Item::new(id, "old")])
                    })
                });
                Left::of(&cut.run(query).await).row(Rows::Items, id)
            }
            "refresh" => Left::of(&cut.run(items.refresh(id)).await).row(Rows::Items, id),
            "invalidate" => Left::of(&cut.run(items.invalidate(id)).await).row(Rows::Items, id),
            "invalidate_all" => {
                Left::of(&cut.run(items.invalidate_all()).await).row(Rows::Items, id)
            }
            "check_schema" => Left::of(&cut.run(items.check_schema()).await),
            "audit" => Left::of(&cut.run(items.audit(AuditOptions::default())).await),
            "insert" => {
                let done = cut.run(through.insert(&row(new))).await;
                Left::of(&done).then(&done, Rows::Through, new, Some("new"))
            }
            "update" => {
                let done = cut.run(through.update(&row(id))).await;
                Left::of(&done).then(&done, Rows::Through, id, Some("new"))
            }
            "save" => {
                let done = cut.run(through.save(&row(id))).await;
                Left::of(&done).then(&done, Rows::Through, id, Some("new"))
            }
            "delete" => {
                let done = cut.run(through.delete(id)).await;
                Left::of(&done).then(&done, Rows::Through, id, None)
            }
            "delete_row" => {
                let done = cut.run(through.delete_row(&row(id))).await;
                Left::of(&done).then(&done, Rows::Through, id, None)
            }
            "insert_many" => {
                let rows = [row(new), row(self.id())];
                let done = cut.run(through.insert_many(&rows)).await;
                let left = Left::of(&done).then(&done, Rows::Through, new, Some("new"));
                left.then(&done, Rows::Through, rows[1].id, Some("new"))
            }
            "update_many" => {
                let done = cut.run(through.update_many(&[row(id), row(other)])).await;
                let left = Left::of(&done).then(&done, Rows::Through, id, Some("new"));
                left.then(&done, Rows::Through, other, Some("new"))
            }
            "delete_many" => {
                let done = cut.run(through.delete_many(&[id, other])).await;
                let left = Left::of(&done).then(&done, Rows::Through, id, None);
                left.then(&done, Rows::Through, other, None)
            }
            "delete_rows" => {
                let done = cut.run(through.delete_rows(&[row(id), row(other)])).await;
                let left = Left::of(&done).then(&done, Rows::Through, id, None);
                left.then(&done, Rows::Through, other, None)
            }
            "modify" => {
                let change = |row: &mut Through| "new".clone_into(&mut row.name);
                let done = cut.run(through.modify(id, change)).await;
                Left::of(&done).then(&done, Rows::Through, id, Some("new"))
            }
            "modify_or_insert" => {
                let change = |row: &mut Through| "newer".clone_into(&mut row.name);
                let done = cut.run(through.modify_or_insert(&row(new), change)).await;
                Left::of(&done).then(&done, Rows::Through, new, Some("new"))
            }
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        }
    }

    /// Runs an operation of a cached query.
    async fn run_query(&self, name: &str, cut: Cut) -> Left {
        let id = self.old_row().await;
        let queries = self.world.cache.queries(self.pool.clone());
        let query = || queries.query::<i64>("dropped").key(&id).tags(["dropped"]);
        let done = match name {
            "fetch" => {
                let fetch = query().fetch(move |connection| {
                    Box::pin(async move {
                        let text = format!("SELECT * FROM items WHERE id = {id}");
                        DB::run(connection, AssertSqlSafe(text).into_sql_str()).await?;
                        Ok(id)
                    })
                });
                cut.run(fetch).await.map(unit)
            }
            "invalidate" => cut.run(query().invalidate()).await.map(unit),
            "invalidate_tag" => cut.run(queries.invalidate_tag("dropped")).await.map(unit),
            "invalidate_all" => cut.run(queries.invalidate_all()).await.map(unit),
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        };
        Left::of(&done).row(Rows::Items, id)
    }

    /// Runs an operation inside a transaction that has written before, and checks that the transaction's result is true.
    async fn run_within(&self, name: &str, cut: Cut) -> Left {
        let (id, other, new, first) = (
            self.old_row().await,
            self.old_row().await,
            self.id(),
            self.id(),
        );
        let row = |id| Through::new(id, "new");
        let mut transaction = Transaction::begin(&self.pool).await.unwrap();
        let mut within = self.through.within(&mut transaction);
        within.insert(&row(first)).await.unwrap();
        let rows = [row(new), row(self.id())];
        let both = [row(id), row(other)];
        let (outcome, effects) = match name {
            "find" => (cut.run(within.find(id)).await.map(unit), vec![]),
            "find_complete" => {
                let mut within = self.secrets.within(&mut transaction);
                (cut.run(within.find_complete(1)).await.map(unit), vec![])
            }
            "exists" => (cut.run(within.exists(id)).await.map(unit), vec![]),
            "find_many" => (
                cut.run(within.find_many(&[id, new])).await.map(unit),
                vec![],
            ),
            "insert" => (
                cut.run(within.insert(&row(new))).await.map(unit),
                vec![(new, Some("new"))],
            ),
            "update" => (
                cut.run(within.update(&row(id))).await.map(unit),
                vec![(id, Some("new"))],
            ),
            "modify" => {
                let change = |row: &mut Through| "new".clone_into(&mut row.name);
                (
                    cut.run(within.modify(id, change)).await.map(unit),
                    vec![(id, Some("new"))],
                )
            }
            "modify_or_insert" => {
                let change = |row: &mut Through| "new".clone_into(&mut row.name);
                let row = row(new);
                (
                    cut.run(within.modify_or_insert(&row, change))
                        .await
                        .map(unit),
                    vec![(new, Some("new"))],
                )
            }
            "save" => (
                cut.run(within.save(&row(id))).await.map(unit),
                vec![(id, Some("new"))],
            ),
            "delete" => (cut.run(within.delete(id)).await, vec![(id, None)]),
            "delete_row" => (cut.run(within.delete_row(&row(id))).await, vec![(id, None)]),
            "insert_many" => (
                cut.run(within.insert_many(&rows)).await.map(unit),
                vec![(new, Some("new")), (rows[1].id, Some("new"))],
            ),
            "update_many" => (
                cut.run(within.update_many(&both)).await.map(unit),
                vec![(id, Some("new")), (other, Some("new"))],
            ),
            "delete_many" => (
                cut.run(within.delete_many(&[id, other])).await.map(unit),
                vec![(id, None), (other, None)],
            ),
            "delete_rows" => (
                cut.run(within.delete_rows(&both)).await,
                vec![(id, None), (other, None)],
            ),
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        };
        let mut left = Left::of(&outcome).row(Rows::Through, first);
        left.rows
            .extend(effects.iter().map(|(id, _)| (Rows::Through, *id)));
        if let Some(Err(error)) = &outcome {
            panic!("{name} fails: {error}");
        }
        let is_committed = finish(transaction, cut).await;
        let held = |name: Option<&'static str>, before| if is_committed { name } else { before };
        left.acknowledged
            .push((Rows::Through, first, held(Some("new"), None)));
        if outcome.is_some() {
            for (changed, name) in effects {
                let was_there = changed == id || changed == other;
                let before = was_there.then_some("old");
                left.acknowledged
                    .push((Rows::Through, changed, held(name, before)));
            }
        }
        left
    }

    async fn run_transaction(&self, name: &str, cut: Cut) -> Left {
        let id = self.id();
        let begun = match name {
            "begin" => cut.run(Transaction::begin(&self.pool)).await,
            "begin_with" => cut.run(Transaction::begin_with(&self.pool, "BEGIN")).await,
            _ => Some(Transaction::begin(&self.pool).await),
        };
        let Some(begun) = begun else {
            return Left::of(&None::<()>);
        };
        let mut transaction = begun.unwrap();
        let row = Through::new(id, "new");
        let mut within = self.through.within(&mut transaction);
        within.insert(&row).await.unwrap();
        match name {
            "commit" => {
                let done = cut.run(transaction.commit()).await;
                Left::of(&done).then(&done, Rows::Through, id, Some("new"))
            }
            "rollback" => {
                let done = cut.run(transaction.rollback()).await;
                Left::of(&done).then(&done, Rows::Through, id, None)
            }
            "savepoint" => {
                let done = match cut.run(transaction.savepoint()).await {
                    Some(savepoint) => {
                        savepoint.unwrap().rollback().await.unwrap();
                        Some(())
                    }
                    None => None,
                };
                let left = Left::of(&done).row(Rows::Through, id);
                self.ended(left, transaction, cut, id).await
            }
            "begin" | "begin_with" => {
                transaction.rollback().await.unwrap();
                Left::default().row(Rows::Through, id)
            }
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        }
    }

    /// A transaction of sqlx, in which a repository writes too.
    async fn run_adopted(&self, name: &str, cut: Cut) -> Left {
        let id = self.id();
        let mut transaction = self.pool.begin().await.unwrap();
        let announced = {
            let adopted = match name {
                "adopt" => cut.run(Transaction::adopt(&mut transaction)).await,
                _ => Some(Transaction::adopt(&mut transaction).await),
            };
            let Some(adopted) = adopted else {
                return Left::of(&None::<()>).row(Rows::Through, id);
            };
            let mut adopted = adopted.unwrap();
            let mut within = self.through.within(&mut adopted);
            within.insert(&Through::new(id, "new")).await.unwrap();
            if name == "rollback" {
                let done = cut.run(adopted.rollback()).await;
                return Left::of(&done).then(&done, Rows::Through, id, None);
            }
            let announced = match name {
                "announce" => cut.run(adopted.announce()).await,
                _ => Some(adopted.announce().await),
            };
            match announced {
                Some(announced) => announced.unwrap(),
                None => return Left::of(&None::<()>).row(Rows::Through, id),
            }
        };
        if name == "commit" {
            let done = cut.run(announced.commit(transaction)).await;
            return Left::of(&done).then(&done, Rows::Through, id, Some("new"));
        }
        announced.commit(transaction).await.unwrap();
        let done = Some(Ok(()));
        Left::of(&done).then(&done, Rows::Through, id, Some("new"))
    }

    /// Ends a transaction that has written a row, and records the result.
    async fn ended(
        &self,
        mut left: Left,
        transaction: Transaction<'_, DB>,
        cut: Cut,
        id: i64,
    ) -> Left {
        let name = finish(transaction, cut).await.then_some("new");
        left.acknowledged.push((Rows::Through, id, name));
        left
    }

    async fn run_queue(&self, name: &str, cut: Cut) -> Left {
        let behind = &self.behind;
        if DEAD_LETTERS.contains(&name) && name != "install" {
            return self.run_dead_letters(name, cut).await;
        }
        let ids = [self.id(), self.id(), self.id()];
        for id in ids {
            behind.save(&Behind::new(id, "new")).await.unwrap();
        }
        let mut left = match name {
            "install" => Left::of(&cut.run(behind.install()).await),
            "flush" => Left::of(&cut.run(behind.flush()).await),
            "pending" => Left::of(&cut.run(behind.pending()).await),
            "start_flushing" => Left::of(&cut.run(behind.start_flushing()).await),
            "shutdown" => {
                let flusher = behind.start_flushing().await.unwrap();
                Left::of(&cut.run(flusher.shutdown(PATIENCE)).await)
            }
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        };
        for id in ids {
            left = left.row(Rows::Behind, id);
            left.acknowledged.push((Rows::Behind, id, Some("new")));
        }
        left
    }

    /// Queues a row that the database rejects. Returns its id.
    async fn refused_row(&self) -> i64 {
        let id = self.id();
        let row = Checked {
            id,
            name: "refused".to_owned(),
            quantity: -1,
        };
        self.checked.save(&row).await.unwrap();
        id
    }

    async fn run_dead_letters(&self, name: &str, cut: Cut) -> Left {
        let id = self.refused_row().await;
        self.checked.flush().await.unwrap();
        let letters = self.checked.dead_letters();
        let all = letters.list(1_000).await.unwrap();
        let own = all.iter().find(|letter| letter.id() == Some(id)).unwrap();
        let left = match name {
            "list" => Left::of(&cut.run(letters.list(1_000)).await),
            "discard" => Left::of(&cut.run(letters.discard(own)).await),
            "replay" => Left::of(&cut.run(letters.replay(own)).await),
            "replay_over" => Left::of(&cut.run(letters.replay_over(own)).await),
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        };
        let left = left.row(Rows::Checked, id);
        self.checked.flush().await.unwrap();
        for letter in letters.list(1_000).await.unwrap() {
            letters.discard(&letter).await.unwrap();
        }
        left
    }

    async fn run_lookup(&self, name: &str, cut: Cut) -> Left {
        let id = self.old_row().await;
        self.execute(format!("UPDATE items SET quantity = {id} WHERE id = {id}"))
            .await;
        let found = &self.found;
        let one = (id, "old".to_owned());
        let left = match name {
            "find_by" => Left::of(&cut.run(found.find_by(0, one)).await),
            "exists_by" => Left::of(&cut.run(found.exists_by(0, one)).await),
            "invalidate_by" => Left::of(&cut.run(found.invalidate_by(0, one)).await),
            "invalidate_tag" => {
                let tag = format!("quantity:{id}");
                Left::of(&cut.run(found.invalidate_tag(tag)).await)
            }
            "invalidate_tags" => {
                let tags = ["items", "quantity:1"];
                Left::of(&cut.run(found.invalidate_tags(tags)).await)
            }
            "write_tagged" => {
                found.find(id).await.unwrap();
                let sql = format!("UPDATE items SET note = 'noted' WHERE id = {id}");
                let sql = AssertSqlSafe(sql).into_sql_str();
                let tags = [format!("quantity:{id}")];
                let write =
                    found.write_tagged(tags, move |connection| Box::pin(DB::run(connection, sql)));
                Left::of(&cut.run(write).await)
            }
            "a row whose tags are compared" => {
                found.find(id).await.unwrap();
                found.invalidate_tag("quantity:1").await.unwrap();
                Left::of(&cut.run(found.find(id)).await)
            }
            "a row whose tag was invalidated" => {
                found.find(id).await.unwrap();
                found.invalidate_tag("items").await.unwrap();
                Left::of(&cut.run(found.find(id)).await)
            }
            "find_many_by" => {
                let values = vec![one, (id, "none".to_owned())];
                Left::of(&cut.run(found.find_many_by(0, values)).await)
            }
            "find_all_many" => {
                Left::of(&cut.run(found.find_all_many(1, vec![(id,), (-id,)])).await)
            }
            "count_by" => Left::of(&cut.run(found.count_by(1, (1_i64,))).await),
            "modify_by" => {
                found.find(id).await.unwrap();
                let change = |row: &mut Found| "new".clone_into(&mut row.name);
                let done = cut.run(found.modify_by(1, (id,), change)).await;
                return Left::of(&done).then(&done, Rows::Found, id, Some("new"));
            }
            "delete_by" => {
                found.find(id).await.unwrap();
                let done = cut.run(found.delete_by(1, (id,))).await;
                return Left::of(&done).then(&done, Rows::Found, id, None);
            }
            "find_each" => {
                let ids = vec![Some(id), None, Some(-id)];
                Left::of(&cut.run(found.find_each(ids)).await)
            }
            "a page of a list" => {
                let page = found.find_all_by(1, (id,)).limit(1);
                Left::of(&cut.run(page.into_future()).await)
            }
            "a page beyond what is cached of a list" => {
                let page = found.find_all_by(1, (1_i64,)).limit(5);
                Left::of(&cut.run(page.into_future()).await)
            }
            _ => panic!("nobody has said how `{name}` runs"),
        };
        left.row(Rows::Items, id)
    }

    /// A lookup inside a transaction that has written before.
    async fn run_within_lookup(&self, name: &str, cut: Cut) -> Left {
        let (id, first) = (self.old_row().await, self.id());
        let one = (1_i64, "old".to_owned());
        let quantity = 1_000 + id;
        self.execute(format!(
            "UPDATE items SET quantity = {quantity} WHERE id = {id}"
        ))
        .await;
        self.found.find(id).await.unwrap();
        let mut transaction = Transaction::begin(&self.pool).await.unwrap();
        let mut through = self.through.within(&mut transaction);
        through.insert(&Through::new(first, "new")).await.unwrap();
        let mut within = self.found.within(&mut transaction);
        let outcome = match name {
            "find_by" => cut.run(within.find_by(0, (-id, one.1))).await.map(unit),
            "exists_by" => cut.run(within.exists_by(1, (1_i64,))).await.map(unit),
            "find_many_by" => {
                let values = vec![(-id, one.1), (id, "none".to_owned())];
                cut.run(within.find_many_by(0, values)).await.map(unit)
            }
            "find_all_many" => {
                let lists = within.find_all_many(1, vec![(1_i64,), (-id,)]);
                cut.run(lists).await.map(unit)
            }
            "count_by" => cut.run(within.count_by(1, (1_i64,))).await.map(unit),
            "modify_by" => {
                let change = |row: &mut Found| "new".clone_into(&mut row.name);
                cut.run(within.modify_by(1, (quantity,), change))
                    .await
                    .map(unit)
            }
            "delete_by" => cut.run(within.delete_by(1, (quantity,))).await.map(unit),
            "a page of a list in a transaction" => {
                let page = within.find_all_by(1, (1_i64,)).limit(1);
                cut.run(page.into_future()).await.map(unit)
            }
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        };
        if let Some(Err(error)) = &outcome {
            panic!("{name} fails: {error}");
        }
        let left = Left::of(&outcome).row(Rows::Found, id);
        let mut left = left.row(Rows::Through, first);
        let name = finish(transaction, cut).await.then_some("new");
        left.acknowledged.push((Rows::Through, first, name));
        left
    }

    async fn run_otherwise(&self, name: &str, cut: Cut) -> Left {
        let (id, new) = (self.old_row().await, self.id());
        let (behind, row) = (&self.behind, |id| Behind::new(id, "new"));
        match name {
            "a page of a list"
            | "a page beyond what is cached of a list"
            | "a row whose tags are compared"
            | "a row whose tag was invalidated" => self.run_lookup(name, cut).await,
            "a page of a list in a transaction" => self.run_within_lookup(name, cut).await,
            "a read with a time to live" => {
                let read = self.items.find(id).ttl(Duration::from_secs(60));
                Left::of(&cut.run(read.into_future()).await).row(Rows::Items, id)
            }
            "a read with a maximum age" => {
                self.items.find(id).await.unwrap();
                let read = self.items.find(id).max_age(Duration::ZERO);
                Left::of(&cut.run(read.into_future()).await).row(Rows::Items, id)
            }
            "a read that refreshes" => {
                let read = self.items.find(id).refresh();
                Left::of(&cut.run(read.into_future()).await).row(Rows::Items, id)
            }
            "a read with a timeout" => {
                let read = self.items.find(id).timeout(self.patience);
                Left::of(&cut.run(read.into_future()).await).row(Rows::Items, id)
            }
            "a read that bypasses the cache" => {
                let read = self.items.find(id).bypass();
                Left::of(&cut.run(read.into_future()).await).row(Rows::Items, id)
            }
            "a read of a whole row" => {
                let read = self.secrets.find(1).complete();
                Left::of(&cut.run(read.into_future()).await)
            }
            "a save of a row without all columns" => {
                let row = Secret {
                    id: 1,
                    name: "one".to_owned(),
                    note: None,
                };
                let done = cut.run(self.secrets.save(&row)).await;
                if let Some(done) = &done {
                    assert!(done.is_ok(), "{done:?}");
                }
                let note = self.ask("SELECT note FROM secret_items").await;
                assert_eq!(note.as_deref(), Some("secret"));
                Left::of(&done)
            }
            "the id of the database is installed" => {
                Left::of(&cut.run(larder::schema::install(&self.pool)).await)
            }
            "insert into a queue" => {
                let done = cut.run(behind.insert(&row(new))).await;
                Left::of(&done).then(&done, Rows::Behind, new, Some("new"))
            }
            "save into a queue" => {
                let done = cut.run(behind.save(&row(new))).await;
                Left::of(&done).then(&done, Rows::Behind, new, Some("new"))
            }
            "update into a queue" => {
                let done = cut.run(behind.update(&row(id))).await;
                Left::of(&done).then(&done, Rows::Behind, id, Some("new"))
            }
            "delete into a queue" => {
                let done = cut.run(behind.delete(id)).await;
                Left::of(&done).then(&done, Rows::Behind, id, None)
            }
            "modify into a queue" => {
                let change = |row: &mut Behind| "new".clone_into(&mut row.name);
                let done = cut.run(behind.modify(id, change)).await;
                Left::of(&done).then(&done, Rows::Behind, id, Some("new"))
            }
            "a flusher that is dropped while it works" => {
                let flusher = behind.start_flushing().await.unwrap();
                behind.save(&row(new)).await.unwrap();
                // The dropped future belongs to another task, which proceeds as far as it can in the meantime.
                for _ in 0..cut.polls {
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                drop(flusher);
                let mut left = Left::default().row(Rows::Behind, new);
                left.dropped = cut.polls < 40;
                left.acknowledged.push((Rows::Behind, new, Some("new")));
                left
            }
            "a flush that meets refused rows" => {
                let refused = self.refused_row().await;
                let good = Checked {
                    id: new,
                    name: "new".to_owned(),
                    quantity: 1,
                };
                self.checked.save(&good).await.unwrap();
                let done = cut.run(self.checked.flush()).await;
                let mut left = Left::of(&done).row(Rows::Checked, new);
                left.acknowledged.push((Rows::Checked, new, Some("new")));
                left.row(Rows::Checked, refused)
            }
            "a raw statement in a transaction" | "a prepared raw statement in a transaction" => {
                let mut transaction = self.begun(new).await;
                let update = format!("UPDATE items SET name = 'raw' WHERE id = {id}");
                let update = AssertSqlSafe(update).into_sql_str();
                self.through
                    .within(&mut transaction)
                    .mark_changed(id)
                    .unwrap();
                let connection = transaction.connection();
                let done = if name.contains("prepared") {
                    let none = DB::Arguments::default();
                    cut.run(DB::execute(connection, update, none))
                        .await
                        .map(|done| done.map(drop))
                } else {
                    cut.run(DB::run(connection, update)).await
                };
                let left = Left::of(&done)
                    .row(Rows::Through, new)
                    .row(Rows::Through, id);
                self.ended(left, transaction, cut, new).await
            }
            "a raw statement with a parameter in a transaction"
            | "a raw statement with parameters in a transaction" => {
                let mut transaction = self.begun(new).await;
                let done = self
                    .raw(&mut transaction, name.contains("parameters"), id, cut)
                    .await;
                let left = Left::of(&done)
                    .row(Rows::Through, new)
                    .row(Rows::Through, id);
                self.ended(left, transaction, cut, new).await
            }
            "a raw statement with parameters before one of larder" => {
                let mut transaction = self.begun(new).await;
                let done = self.raw(&mut transaction, true, id, cut).await;
                let after = Through::new(self.id(), "after");
                // The transaction may only be able to roll back by now.
                let within = self.through.within(&mut transaction).insert(&after).await;
                let left = Left::of(&done)
                    .row(Rows::Through, new)
                    .row(Rows::Through, id)
                    .row(Rows::Through, after.id);
                match within {
                    Ok(_) => self.ended(left, transaction, cut, new).await,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::TransactionAborted, "{error}");
                        assert!(done.is_none(), "nothing was dropped");
                        transaction.rollback().await.unwrap();
                        left
                    }
                }
            }
            "a raw statement with parameters in a savepoint" => {
                let mut transaction = self.begun(new).await;
                let mut savepoint = transaction.savepoint().await.unwrap();
                let done = self.raw(&mut savepoint, true, id, cut).await;
                let ended = match cut.polls % 2 {
                    0 => savepoint.commit().await,
                    _ => savepoint.rollback().await,
                };
                assert!(ended.is_ok() || done.is_none(), "{ended:?}");
                let left = Left::of(&done)
                    .row(Rows::Through, new)
                    .row(Rows::Through, id);
                self.ended(left, transaction, cut, new).await
            }
            "commit of a savepoint" | "rollback of a savepoint" => {
                let mut transaction = self.begun(new).await;
                let mut savepoint = transaction.savepoint().await.unwrap();
                let mut within = self.through.within(&mut savepoint);
                within.update(&Through::new(id, "inner")).await.unwrap();
                let done = match name {
                    "commit of a savepoint" => cut.run(savepoint.commit()).await,
                    _ => cut.run(savepoint.rollback()).await,
                };
                let left = Left::of(&done)
                    .row(Rows::Through, new)
                    .row(Rows::Through, id);
                self.ended(left, transaction, cut, new).await
            }
            "insert with an id of the database" => {
                let row = Numbered {
                    id: 0,
                    name: "new".to_owned(),
                };
                Left::of(&cut.run(self.numbered.insert(&row)).await)
            }
            unknown => panic!("{unknown} is in the table, and no code runs it"),
        }
    }

    /// Runs a raw statement that is prepared each time, with one parameter or with several.
    async fn raw(
        &self,
        transaction: &mut Transaction<'_, DB>,
        has_many: bool,
        id: i64,
        cut: Cut,
    ) -> Option<Result<(), sqlx::Error>> {
        self.through.within(transaction).mark_changed(id).unwrap();
        let fresh = self.id();
        let text = match (DB::NAME, has_many) {
            ("PostgreSQL", false) => "id = $1",
            ("PostgreSQL", true) => "id = $1 AND $2 > 0 AND $3 > 0 AND $4 > 0 AND $5 > 0",
            (_, false) => "id = ?",
            (_, true) => "id = ? AND ? > 0 AND ? > 0 AND ? > 0 AND ? > 0",
        };
        let text = format!("UPDATE items SET name = 'raw' WHERE {fresh} = {fresh} AND {text}");
        let numbers = if has_many {
            &[id, 1, 1, 1, 1][..]
        } else {
            &[id][..]
        };
        let text = AssertSqlSafe(text).into_sql_str();
        let done = DB::execute(transaction.connection(), text, DB::numbers(numbers));
        cut.run(done).await.map(|done| done.map(drop))
    }

    /// Returns a transaction that has written a row.
    async fn begun(&self, id: i64) -> Transaction<'static, DB> {
        let mut transaction = Transaction::begin(&self.pool).await.unwrap();
        let mut within = self.through.within(&mut transaction);
        within.insert(&Through::new(id, "new")).await.unwrap();
        transaction
    }
}

fn unit<T>(result: Result<T, Error>) -> Result<(), Error> {
    result.map(drop)
}

/// Ends a transaction in one of the possible ways. Returns whether it was committed. An error must mean that it was not.
async fn finish<DB: Tested>(transaction: Transaction<'_, DB>, cut: Cut) -> bool {
    match cut.polls % 3 {
        0 => match transaction.commit().await {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => panic!("{error}"),
            Err(_) => false,
        },
        1 => {
            transaction.rollback().await.unwrap();
            false
        }
        _ => {
            drop(transaction);
            false
        }
    }
}

async fn ask<DB: Backend>(
    connection: &mut DB::Connection,
    text: String,
    arguments: DB::Arguments,
) -> Result<Option<String>, sqlx::Error> {
    let text = AssertSqlSafe(text).into_sql_str();
    let row = DB::fetch(connection, text, arguments).await?;
    row.as_ref().map_or(Ok(None), |row| DB::text(row, 0))
}

/// The first of the statements has begun a transaction.
async fn a_beginning_that_fails_half_way_leaves_no_transaction<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world, PATIENCE).await;
    for _ in 0..3 {
        let begun = Transaction::begin_with(&stage.pool, "BEGIN; UPDATE nowhere SET n = 1").await;
        assert!(begun.is_err(), "there is no such table");
        stage.audit(&Left::default()).await.unwrap();
    }
}

async fn a_future_that_is_dropped_at_any_poll_leaves_no_trace<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world, PATIENCE).await;
    let (mut operations, mut polls, mut drops) = (0, 0, 0);
    for group in [
        REPOSITORY,
        LOOKUPS,
        TAGS,
        QUERIES,
        WITHIN,
        WITHIN_LOOKUPS,
        TRANSACTION,
        ADOPTED,
        FLUSHER,
        DEAD_LETTERS,
        CACHE,
        OTHERWISE,
    ] {
        for name in group {
            operations += 1;
            for late in [false, true] {
                for count in 0.. {
                    assert!(count < MAX_POLLS, "{name} does not end");
                    let cut = Cut { polls: count, late };
                    let left = stage.run(group, name, cut).await;
                    if let Err(what) = stage.audit(&left).await {
                        panic!("{name}, {cut:?}, dropped: {}: {what}", left.dropped);
                    }
                    polls += count;
                    if !left.dropped {
                        break;
                    }
                    drops += 1;
                }
            }
        }
    }
    println!(
        "dropped: database={} store={:?} operations={operations} polls={polls} drops={drops}",
        DB::NAME,
        world.kind
    );
    assert!(drops >= operations, "most were never dropped");
    stage.pool.close().await;
    stage.outside.close().await;
}

/// How often a control tries. If the server answers before the poll ends, the drop leaves no operation half done.
const TRIES: usize = 100;

/// Drops a future in each way until the audit reports something. Returns that report.
async fn first_find<DB: Tested>(
    stage: &Stage<'_, DB>,
    mut plant: impl AsyncFnMut(Cut) -> Option<()>,
) -> Option<String> {
    for late in [false, true].repeat(TRIES) {
        for polls in 0..MAX_POLLS {
            let done = plant(Cut { polls, late }).await;
            let left = Left::of(&done);
            if let Err(what) = stage.audit(&left).await {
                return Some(what);
            }
            if done.is_some() {
                break;
            }
        }
    }
    None
}

/// The fault that [`Transaction::begin`] would have with plain sqlx.
async fn a_beginning_without_a_task_of_its_own_is_found<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world, IMPATIENCE).await;
    let found = first_find(&stage, async |cut| {
        cut.run(stage.pool.begin()).await.map(drop)
    });
    let found = found.await.expect("the hole is found");
    assert!(found.contains("transaction"), "{found}");
}

/// The fault without larder: a statement of a transaction is dropped, and its connection returns to the pool unchanged.
async fn a_connection_that_is_not_closed_is_found(world: &World<MySql>) {
    let stage = Stage::open(world, IMPATIENCE).await;
    let mut text = 0;
    let found = first_find(&stage, async |cut| {
        let mut transaction = stage.pool.begin().await.ok()?;
        text += 1;
        // Prepared each time.
        let query = sqlx::query(AssertSqlSafe(format!("SELECT {text}, ? FROM items")));
        let query = query.bind(1);
        let done = cut.run(query.execute(&mut *transaction)).await;
        done.map(drop)
    });
    let found = found.await.expect("the hole is found");
    assert!(found.contains("connection"), "{found}");
}

/// The audit also finds the effect on the next caller, without asking for open transactions.
async fn a_write_that_is_not_committed_is_found(world: &World<Postgres>) {
    let stage = Stage::open(world, IMPATIENCE).await;
    let begun = Cut {
        polls: 2,
        late: false,
    };
    let mut found = Ok(());
    for _ in 0..TRIES {
        if begun.run(stage.pool.begin()).await.is_none() {
            found = stage.next_write_commits().await;
        }
        if found.is_err() {
            break;
        }
    }
    let found = found.expect_err("the hole is found");
    assert!(found.contains("not committed"), "{found}");
}
