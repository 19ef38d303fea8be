//! Every column type of the three databases under every Rust type that sqlx maps: what `check_schema` says of the pair, and
//! what happens. Both are on the page `docs/types.md`, which these tests compare, or write if `LARDER_PAGES=write` is set.
//!
//! 1. A table is made with one column of the type. Values of the Rust type are inserted through larder, and values of other
//!    programs by their SQL (`rust_types`, `column_types`).
//! 2. Each row is read from the database, and twice through the cache.
//! 3. If a usual value fails or comes back changed, the field does not fit. If only values at the edges do, it fits with a
//!    remark. Any other verdict of `check_schema` is a failure.
//!
//! Not counted: values that are too long for their column, NaN and infinity outside of Postgres, and U+0000 in the texts of
//! Postgres.

mod cell;
mod column_types;
mod page;
mod rust_types;

use std::{collections::BTreeMap, sync::Arc};

use larder::{Cache, Repository, writes::ToDatabase};
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, SqlSafeStr, Sqlite};

use self::{
    cell::{Cell, Matrix, RustType, Sample, Value},
    column_types::{ColumnType, Content},
};
use crate::world::{Kind, World};

/// How well a field fits a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Fits,
    Remark,
    Not,
}

/// What happened to one value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Same,
    /// The insert failed.
    Rejected,
    /// It came back as another value.
    Changed,
    /// It was stored and cannot be read.
    Unreadable,
}

/// What happened to the values of one pair.
struct Trial {
    column: &'static str,
    rust: &'static str,
    verdict: Fit,
    message: String,
    fates: Vec<(Attempt, Fate)>,
}

impl Trial {
    /// What the values say.
    fn outcome(&self) -> Fit {
        let failed = |usual: bool| {
            let mut fates = self.fates.iter();
            fates.any(|(attempt, fate)| attempt.is_usual == usual && *fate != Fate::Same)
        };
        match (failed(true), failed(false)) {
            (true, _) => Fit::Not,
            (false, true) => Fit::Remark,
            (false, false) => Fit::Fits,
        }
    }
}

/// A table of one column, and the rows that were tried in it.
struct Bench<'w, DB: Matrix>
where
    Cell<DB>: larder::Entity<Id = i64, Writes = ToDatabase>,
{
    pool: &'w Pool<DB>,
    cells: Repository<Cell<DB>, DB>,
    next_id: &'w mut i64,
}

impl<DB: Matrix> Bench<'_, DB>
where
    Cell<DB>: larder::Entity<Id = i64, Writes = ToDatabase>,
{
    async fn by_larder(&mut self, value: &Value) -> Fate {
        *self.next_id += 1;
        let cell = Cell::new(*self.next_id, value);
        match self.cells.insert(&cell).await {
            Err(_) => Fate::Rejected,
            Ok(_) => self.read(Some(value)).await,
        }
    }

    /// Returns nothing if the database does not take the value.
    async fn by_others(&mut self, sql: &str) -> Option<Fate> {
        *self.next_id += 1;
        let text = format!(
            "INSERT INTO cells (id, value) VALUES ({}, {sql})",
            self.next_id
        );
        run(self.pool, text).await.ok()?;
        let fate = self.read(None).await;
        if fate != Fate::Same {
            return Some(fate);
        }
        let read = self.cells.find_uncached(*self.next_id).await;
        let read = read.expect("it was read").expect("it exists");
        Some(if is_same(sql, &read.value) {
            fate
        } else {
            Fate::Changed
        })
    }

    /// Reads the last row from the database, and twice through the cache.
    async fn read(&self, expected: Option<&Value>) -> Fate {
        let Ok(row) = self.cells.find_uncached(*self.next_id).await else {
            return Fate::Unreadable;
        };
        let row = row.expect("the row exists");
        if expected.is_some_and(|expected| *expected != row.value) {
            return Fate::Changed;
        }
        for _ in 0..2 {
            let cached = self.cells.find(*self.next_id).await;
            let cached = cached.expect("it was read before").expect("the row exists");
            assert_eq!(
                cached.value, row.value,
                "the cache serves what the database has"
            );
        }
        Fate::Same
    }
}

/// Returns whether a number or NULL in SQL was read as the same. Other values count as the same.
fn is_same(sql: &str, value: &Value) -> bool {
    if sql == "NULL" {
        return value.json().is_null();
    }
    let written = sql.parse::<f64>();
    let read = match value.json() {
        serde_json::Value::Bool(flag) => Some(f64::from(u8::from(flag))),
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.parse().ok(),
        // JSON has no infinity.
        serde_json::Value::Null if written.is_ok() => Some(f64::INFINITY),
        _ => None,
    };
    match (written, read) {
        (Ok(written), Some(read)) => written == read,
        _ => true,
    }
}

async fn run<DB: Matrix>(pool: &Pool<DB>, text: String) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    DB::run(&mut connection, AssertSqlSafe(text).into_sql_str()).await
}

/// Tries one pair.
async fn try_pair<DB: Matrix>(
    pool: &Pool<DB>,
    cache: &Cache,
    next_id: &mut i64,
    column: &ColumnType,
    rust: &Arc<RustType<DB>>,
) -> Trial
where
    Cell<DB>: larder::Entity<Id = i64, Writes = ToDatabase>,
{
    *DB::chosen().lock().expect("no holder panics") = Some(Arc::clone(rust));
    let cells = Repository::new(cache, pool.clone());
    let report = cells
        .check_schema()
        .await
        .expect("the table can be checked");
    let of_value = |list: &[larder::schema::Difference]| {
        let mut list = list.iter();
        let difference = list.find(|difference| difference.column.as_deref() == Some("value"));
        difference.map(|difference| difference.message.clone())
    };
    let (verdict, message) = match (of_value(&report.differences), of_value(&report.remarks)) {
        (Some(message), _) => (Fit::Not, message),
        (None, Some(message)) => (Fit::Remark, message),
        (None, None) => (Fit::Fits, String::new()),
    };
    let mut bench = Bench {
        pool,
        cells,
        next_id,
    };
    let mut fates = Vec::new();
    for attempt in attempts(column, rust) {
        let fate = match &attempt.value {
            Ok(value) => Some(bench.by_larder(value).await),
            Err(sql) => bench.by_others(sql).await,
        };
        let is_own = matches!(column.content, Content::Own { .. });
        assert!(
            fate.is_some() || !is_own,
            "{} takes {}",
            column.name,
            attempt.shown()
        );
        let is_decided = attempt.is_usual && fate.as_ref().is_some_and(|fate| *fate != Fate::Same);
        fates.extend(fate.map(|fate| (attempt, fate)));
        // Later values cannot change the outcome.
        if is_decided {
            break;
        }
    }
    Trial {
        column: column.name,
        rust: rust.name,
        verdict,
        message,
        fates,
    }
}

/// One value to try.
struct Attempt {
    /// A value to insert through larder, or the SQL of another program.
    value: Result<Value, &'static str>,
    is_usual: bool,
}

impl Attempt {
    fn shown(&self) -> String {
        let usual = if self.is_usual { "usual " } else { "" };
        match &self.value {
            Ok(value) => format!("{usual}{value:?}"),
            Err(sql) => format!("{usual}SQL {sql}"),
        }
    }
}

/// Returns the values to try in a column, usual ones first.
fn attempts<DB: Matrix>(column: &ColumnType, rust: &RustType<DB>) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let own = match column.content {
        Content::Own { usual, .. } => usual.iter().filter_map(|sql| rust.written(sql)).collect(),
        _ => Vec::new(),
    };
    let has_own = !own.is_empty();
    attempts.extend(own.into_iter().map(|value| Attempt {
        value: Ok(value),
        is_usual: true,
    }));
    for Sample {
        value,
        is_usual,
        text,
        natural,
    } in &rust.samples
    {
        let is_usual = *is_usual;
        if !(has_own && column.is_checked) || value.json().is_null() {
            attempts.push(Attempt {
                value: Ok(value.clone()),
                is_usual: is_usual && !has_own,
            });
        }
        let sql = match column.content {
            Content::Own { .. } => None,
            Content::Texts => *text,
            Content::Anything => *natural,
        };
        attempts.extend(sql.map(|sql| Attempt {
            value: Err(sql),
            is_usual,
        }));
    }
    if let Content::Own { usual, edge } = column.content {
        attempts.extend(usual.iter().map(|sql| Attempt {
            value: Err(sql),
            is_usual: true,
        }));
        attempts.extend(edge.iter().map(|sql| Attempt {
            value: Err(sql),
            is_usual: false,
        }));
    }
    attempts.sort_by_key(|attempt| !attempt.is_usual);
    attempts
}

/// The Rust types whose values are texts of some form, or bytes of some form.
const FORMS: &[&str] = &["chrono::", "time::", "uuid::", "Json<T>", "an enum"];

/// Returns whether the texts of a column may be those of the Rust type: no one stores dates in a column of times. The longest
/// text of a column of four characters is no uuid and no JSON.
fn means_the_same(column: &ColumnType, rust: &str) -> bool {
    let has_form = FORMS.iter().any(|form| rust.contains(form));
    let is_short =
        column.sql.starts_with("CHAR(4)") || column.sql == "BINARY(16)" && rust != "uuid::Uuid";
    match column.meant {
        Some(meant) => !has_form || meant.contains(&rust),
        None => !(is_short && ["uuid::", "Json<T>"].iter().any(|form| rust.contains(form))),
    }
}

/// Tries all pairs of a database.
async fn try_all<DB: Matrix>(
    connect: impl AsyncFn() -> Pool<DB>,
    columns: &[ColumnType],
    rust_types: Vec<RustType<DB>>,
) -> Vec<Trial>
where
    Cell<DB>: larder::Entity<Id = i64, Writes = ToDatabase>,
{
    let rust_types: Vec<_> = rust_types.into_iter().map(Arc::new).collect();
    let mut next_id = 0;
    let mut trials = Vec::new();
    for column in columns {
        // A pool of its own: the tables of all columns have one name, and a connection remembers the types of its statements.
        let pool = &connect().await;
        let cache = Cache::builder().build().expect("the options are valid");
        let null = if column.sql.ends_with("NULL") {
            ""
        } else {
            " NOT NULL"
        };
        for text in [
            "DROP TABLE IF EXISTS cells".to_owned(),
            format!(
                "CREATE TABLE cells (id BIGINT NOT NULL PRIMARY KEY, value {}{null}){}",
                column.sql, column.table_options
            )
            .replace(
                "id BIGINT",
                if column.table_options.is_empty() {
                    "id BIGINT"
                } else {
                    "id INTEGER"
                },
            ),
        ] {
            run(pool, text)
                .await
                .unwrap_or_else(|error| panic!("{}: {error}", column.name));
        }
        for rust in rust_types
            .iter()
            .filter(|rust| means_the_same(column, rust.name))
        {
            trials.push(try_pair(pool, &cache, &mut next_id, column, rust).await);
        }
        pool.close().await;
    }
    trials
}

/// Fails if `check_schema` and the values disagree on a pair, and lists all such pairs.
fn compare(trials: &[Trial]) {
    let mut wrong = Vec::new();
    for trial in trials {
        let outcome = trial.outcome();
        if outcome == trial.verdict {
            continue;
        }
        let mut failed = BTreeMap::<_, Vec<_>>::new();
        for (attempt, fate) in &trial.fates {
            if *fate != Fate::Same {
                failed.entry(fate).or_default().push(attempt.shown());
            }
        }
        wrong.push(format!(
            "{} over {}: says {:?} ({}), but {outcome:?}: {failed:?}",
            trial.rust, trial.column, trial.verdict, trial.message
        ));
    }
    assert!(
        wrong.is_empty(),
        "{} pairs:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_schema_is_right_about_every_type_of_postgres() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    for text in [
        "CREATE EXTENSION citext",
        "CREATE TYPE mood AS ENUM ('happy', 'grumpy')",
        "CREATE DOMAIN label AS TEXT CHECK (length(value) < 100)",
        "CREATE DOMAIN positive AS BIGINT",
    ] {
        world.sql(text).await;
    }
    // One text is prepared with parameters of several types, which Postgres fixes when it prepares it.
    let options = world.database.outside_options().statement_cache_capacity(0);
    let connect = async || {
        Pool::connect_with(options.clone())
            .await
            .expect("the server accepts connections")
    };
    let trials = try_all(connect, column_types::POSTGRES, rust_types::postgres()).await;
    page::compare("PostgreSQL", &trials);
    compare(&trials);
    world.database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_schema_is_right_about_every_type_of_mysql() {
    let world = World::<MySql>::open(Kind::Memory).await;
    let connect = async || world.database.outside_pool().await;
    let trials = try_all(connect, column_types::MYSQL, rust_types::mysql()).await;
    page::compare("MySQL and MariaDB", &trials);
    compare(&trials);
    world.database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_schema_is_right_about_every_type_of_sqlite() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let connect = async || world.database.outside_pool().await;
    let trials = try_all(connect, column_types::SQLITE, rust_types::sqlite()).await;
    page::compare("SQLite", &trials);
    compare(&trials);
    world.database.close().await;
}
