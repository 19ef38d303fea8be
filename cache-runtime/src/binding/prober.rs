//! Identifies a database, once for each pool of a cache.
//!
//! 1. The options of the pool name the endpoint.
//! 2. The first operation asks the database for the rest, in a task of its own that ends even if the caller's future is
//!    dropped. All repositories over the pool share the answer.
//! 3. A transaction asks on its own connection, because its pool may have no other.
//!
//! The statements read the catalogue and larder's own table. None of them fails because something is missing: in
//! Postgres, a failed statement would end the transaction.
//!
//! Not here: what the answer means (`identity`).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr, SqlStr};
use tokio::sync::watch;

use super::identity::{Seen, Sign};
use crate::{
    clock::Deadline,
    database::{self, WriteOutcome, backend::Backend, dialect::Dialect},
    detached,
    error::Error,
    printed,
};

/// How long a read waits for the identity of a database, which may be unreachable while the row is cached.
const PATIENCE: Duration = Duration::from_secs(1);

/// Identifies the database of one pool.
pub(crate) struct Prober<DB: Backend> {
    pool: Pool<DB>,
    endpoint: String,
    attempt: Mutex<Option<Attempt>>,
}

type Answer = Option<Result<Arc<Seen>, Error>>;

/// One attempt to identify the database.
#[derive(Clone)]
struct Attempt {
    answer: watch::Receiver<Answer>,
    /// Until when a read waits for it.
    patience: Deadline,
}

impl Attempt {
    fn of(seen: Arc<Seen>) -> Self {
        let (_, answer) = watch::channel(Some(Ok(seen)));
        Self {
            answer,
            patience: Deadline::after(Duration::ZERO),
        }
    }
}

impl<DB: Backend> Prober<DB> {
    pub(crate) fn new(pool: Pool<DB>) -> Self {
        Self {
            endpoint: DB::endpoint(&pool),
            pool,
            attempt: Mutex::default(),
        }
    }

    /// Returns what the options of the pool say.
    pub(crate) fn at_first_sight(&self) -> Seen {
        Seen {
            system: DB::NAME,
            id: Sign::Unknown,
            endpoint: self.endpoint.clone(),
            cluster: Sign::Unknown,
            server: match DB::DIALECT {
                Dialect::Sqlite => Sign::Absent,
                Dialect::Postgres | Dialect::MySql => Sign::Unknown,
            },
        }
    }

    /// Returns the identity of the database. If `stale` is given, the answer is newer than that.
    pub(crate) async fn seen(&self, stale: Option<&Arc<Seen>>) -> Result<Arc<Seen>, Error> {
        let mut attempt = self.attempt(stale);
        let answered = attempt.answer.wait_for(Option::is_some).await;
        answered
            .ok()
            .and_then(|answer| answer.clone())
            .unwrap_or_else(|| Err(failed::<DB>(sqlx::Error::WorkerCrashed)))
    }

    /// As [`Prober::seen`], for a read. Returns `None` if the database does not answer soon.
    pub(crate) async fn seen_soon(&self, stale: Option<&Arc<Seen>>) -> Option<Arc<Seen>> {
        let mut attempt = self.attempt(stale);
        let answer = attempt.answer.borrow().clone();
        if let Some(answer) = answer {
            return answer.ok();
        }
        let answered = attempt.answer.wait_for(Option::is_some);
        let answer = attempt.patience.bound(answered).await?.ok()?.clone();
        answer?.ok()
    }

    /// Returns the identity of the database. If it is not known yet, asks on this connection.
    pub(crate) async fn seen_on(
        &self,
        connection: &mut DB::Connection,
        stale: Option<&Arc<Seen>>,
    ) -> Result<Arc<Seen>, Error> {
        if let Some(seen) = self.known(stale) {
            return Ok(seen);
        }
        let asked = ask::<DB>(connection, self.endpoint.clone()).await;
        let seen = asked.map_err(failed::<DB>)?;
        let seen = Arc::new(seen);
        *self.lock() = Some(Attempt::of(Arc::clone(&seen)));
        Ok(seen)
    }

    /// Returns the table of an entity, as [`resolve`] does, in a task that ends even if the caller's future is dropped.
    pub(crate) async fn resolve(&self, written: &'static str) -> Result<String, Error> {
        if written.contains('.') || DB::DIALECT == Dialect::Sqlite {
            return Ok(qualified(written, "main"));
        }
        let pool = self.pool.clone();
        let task = async move {
            let mut connection = DB::acquire(&pool).await.map_err(failed::<DB>)?;
            resolve::<DB>(&mut connection, written).await
        };
        let resolved = detached::run(task).await;
        resolved.unwrap_or_else(|_| Err(failed::<DB>(sqlx::Error::WorkerCrashed)))
    }

    /// Forgets the answer, so that the database is asked again.
    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    /// Returns whether the database is identified.
    pub(crate) fn is_known(&self) -> bool {
        self.known(None).is_some()
    }

    fn known(&self, stale: Option<&Arc<Seen>>) -> Option<Arc<Seen>> {
        let attempt = self.lock();
        let answer = attempt.as_ref()?.answer.borrow();
        match &*answer {
            Some(Ok(seen)) if !stale.is_some_and(|stale| Arc::ptr_eq(stale, seen)) => {
                Some(Arc::clone(seen))
            }
            _ => None,
        }
    }

    /// Returns the attempt that is under way or has succeeded, or starts another one.
    fn attempt(&self, stale: Option<&Arc<Seen>>) -> Attempt {
        let mut attempt = self.lock();
        let mut patience = PATIENCE;
        if let Some(known) = &*attempt {
            let answer = known.answer.borrow().clone();
            match answer {
                Some(Ok(seen)) if !stale.is_some_and(|stale| Arc::ptr_eq(stale, &seen)) => {
                    return known.clone();
                }
                None if known.answer.has_changed().is_ok() => return known.clone(),
                // The last attempt failed. Reads have waited for it once, and do not wait again.
                Some(Err(_)) => patience = Duration::ZERO,
                Some(Ok(_)) | None => {}
            }
        }
        let (sender, answer) = watch::channel(None);
        let (pool, endpoint) = (self.pool.clone(), self.endpoint.clone());
        let task = async move {
            let asked = async {
                let mut connection = DB::acquire(&pool).await?;
                ask::<DB>(&mut connection, endpoint).await
            };
            let answer = asked.await.map(Arc::new).map_err(failed::<DB>);
            // All callers may have been dropped.
            let _unheard = sender.send(Some(answer));
        };
        detached::spawn(task);
        let begun = Attempt {
            answer,
            patience: Deadline::after(patience),
        };
        attempt.insert(begun).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Attempt>> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask<DB: Backend>(
    connection: &mut DB::Connection,
    endpoint: String,
) -> Result<Seen, sqlx::Error> {
    let said = signs::<DB>(connection).await;
    let Said {
        id,
        cluster,
        server,
    } = match said {
        Err(error) if is_not_understood(&error) => {
            tracing::warn!(
                endpoint,
                error = printed::chain(&error),
                "failed to identify the database, because it rejected the query; it is identified by its address only"
            );
            Said {
                id: Sign::Unknown,
                cluster: Sign::Absent,
                server: Sign::Absent,
            }
        }
        said => said?,
    };
    Ok(Seen {
        system: DB::NAME,
        id,
        endpoint,
        cluster,
        server,
    })
}

/// Returns whether a database does not support the query, or forbids it: it is only compatible with the one it claims
/// to be.
fn is_not_understood(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(refusal) = error else {
        return false;
    };
    let code = refusal.code().unwrap_or_default();
    code.starts_with("42") || code.starts_with("0A")
}

/// Returns whether an error of MySQL means that a table does not exist.
fn is_missing_table(error: &sqlx::Error) -> bool {
    let refusal = error.as_database_error();
    refusal.is_some_and(|refusal| refusal.code().as_deref() == Some("42S02"))
}

/// The signs that a database reports.
struct Said {
    id: Sign,
    cluster: Sign,
    server: Sign,
}

async fn signs<DB: Backend>(connection: &mut DB::Connection) -> Result<Said, sqlx::Error> {
    match DB::DIALECT {
        Dialect::Postgres => postgres::<DB>(connection).await,
        Dialect::MySql => mysql::<DB>(connection).await,
        Dialect::Sqlite => sqlite::<DB>(connection).await,
    }
}

/// Returns the installed id of the database, or whether it is absent or unknown.
async fn id<DB: Backend>(connection: &mut DB::Connection) -> Result<Sign, sqlx::Error> {
    let text = "SELECT id FROM larder_database WHERE one = 1";
    let rows = rows::<DB>(connection, text).await?;
    let id = rows.first().map(|row| DB::text(row, 0)).transpose()?;
    Ok(id.flatten().map_or(Sign::Absent, Sign::Known))
}

/// Returns the table of an entity with the schema in which statements find it. If it does not exist, returns it with
/// the schema in which it would be created.
pub(crate) async fn resolve<DB: Backend>(
    connection: &mut DB::Connection,
    written: &str,
) -> Result<String, Error> {
    let schema = match DB::DIALECT {
        _ if written.contains('.') => return Ok(written.to_owned()),
        Dialect::Sqlite => return Ok(qualified(written, "main")),
        Dialect::Postgres => {
            let text = "SELECT COALESCE((SELECT n.nspname::text FROM pg_catalog.pg_class c \
                        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                        WHERE c.oid = to_regclass(quote_ident($1))), current_schema()::text)";
            let mut arguments = DB::Arguments::default();
            let added = DB::add_text(&mut arguments, Some(written));
            added.map_err(|error| failed::<DB>(sqlx::Error::Encode(error)))?;
            DB::fetch(connection, SqlStr::from_static(text), arguments).await
        }
        Dialect::MySql => {
            let text = "SELECT CAST(DATABASE() AS CHAR) FROM information_schema.schemata LIMIT 1";
            let arguments = DB::Arguments::default();
            DB::fetch(connection, SqlStr::from_static(text), arguments).await
        }
    };
    let schema = match schema {
        Err(error) if is_not_understood(&error) => return Ok(written.to_owned()),
        schema => schema.and_then(|row| row.map_or(Ok(None), |row| DB::text(&row, 0))),
    };
    let schema = schema.map_err(failed::<DB>)?;
    Ok(qualified(written, &schema.unwrap_or_default()))
}

fn qualified(written: &str, schema: &str) -> String {
    if written.contains('.') {
        written.to_owned()
    } else {
        format!("{schema}.{written}")
    }
}

async fn postgres<DB: Backend>(connection: &mut DB::Connection) -> Result<Said, sqlx::Error> {
    // A table that is not found may be in a schema that this user cannot see.
    let text = "SELECT current_database()::text, \
                CASE WHEN has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()')::oid, 'EXECUTE') \
                THEN 'yes' END, \
                CASE WHEN to_regclass('larder_database') IS NOT NULL THEN \
                CASE WHEN has_table_privilege(to_regclass('larder_database')::oid, 'SELECT') THEN 'yes' ELSE 'hidden' END \
                WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE relname = 'larder_database' AND relkind = 'r' \
                AND NOT has_schema_privilege(relnamespace, 'USAGE')) THEN 'hidden' ELSE 'no' END";
    let said = rows::<DB>(connection, text).await?;
    let said = said.first().ok_or(sqlx::Error::RowNotFound)?;
    let text = |index| DB::text(said, index);
    let (database, tells, has_id) = (text(0)?.unwrap_or_default(), text(1)?, text(2)?);
    let id = match has_id.as_deref() {
        Some("yes") => id::<DB>(connection).await?,
        Some("hidden") => Sign::Unknown,
        _ => Sign::Absent,
    };
    let (mut cluster, mut server) = (Sign::Absent, Sign::Absent);
    if tells.is_some() {
        // A copy of the disk has the identifier of the system, but no other server started in the same microsecond.
        let text = "SELECT system_identifier::text, \
                    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text \
                    FROM pg_catalog.pg_control_system()";
        let rows = rows::<DB>(connection, text).await?;
        if let Some(row) = rows.first() {
            let [system, started] = [0, 1].map(|index| DB::text(row, index));
            if let (Some(system), Some(started)) = (system?, started?) {
                server = Sign::Known(format!("{system}@{started}/{database}"));
                cluster = Sign::Known(system);
            }
        }
    }
    Ok(Said {
        id,
        cluster,
        server,
    })
}

async fn mysql<DB: Backend>(connection: &mut DB::Connection) -> Result<Said, sqlx::Error> {
    let id = match id::<DB>(connection).await {
        Err(error) if is_missing_table(&error) => Sign::Absent,
        Err(error) if is_not_understood(&error) => Sign::Unknown,
        id => id?,
    };
    let text = "SELECT CAST(DATABASE() AS CHAR) FROM information_schema.schemata LIMIT 1";
    let said = rows::<DB>(connection, text).await?;
    let said = said.first().ok_or(sqlx::Error::RowNotFound)?;
    let database = DB::text(said, 0)?.unwrap_or_default();
    // MySQL has a `server_uuid`, which a copy of the disk has as well; MariaDB has none.
    let text = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'hostname', 'port', 'datadir')";
    let rows = rows::<DB>(connection, text).await?;
    let mut variables = Vec::with_capacity(rows.len());
    for row in &rows {
        let text = |index| DB::text(row, index).map(Option::unwrap_or_default);
        variables.push((text(0)?.to_ascii_lowercase(), text(1)?));
    }
    let value = |name: &str| {
        let found = variables.iter().find(|(variable, _)| variable == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    let [uuid, host, port, folder] = ["server_uuid", "hostname", "port", "datadir"].map(value);
    let server = if uuid.is_empty() && host.is_empty() {
        Sign::Absent
    } else {
        Sign::Known(format!("{uuid}{host}:{port}{folder} {database}"))
    };
    Ok(Said {
        id,
        cluster: Sign::Absent,
        server,
    })
}

async fn sqlite<DB: Backend>(connection: &mut DB::Connection) -> Result<Said, sqlx::Error> {
    let text = "SELECT CASE WHEN COUNT(*) = 0 THEN 'no' ELSE 'yes' END FROM sqlite_master \
                WHERE type = 'table' AND name = 'larder_database'";
    let said = rows::<DB>(connection, text).await?;
    let has_id = said.first().map(|row| DB::text(row, 0)).transpose()?;
    let id = match has_id.flatten().as_deref() {
        Some("yes") => id::<DB>(connection).await?,
        _ => Sign::Absent,
    };
    Ok(Said {
        id,
        cluster: Sign::Absent,
        server: Sign::Absent,
    })
}

async fn rows<DB: Backend>(
    connection: &mut DB::Connection,
    text: &'static str,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let text = AssertSqlSafe(text).into_sql_str();
    DB::fetch_all(connection, text, DB::Arguments::default()).await
}

fn failed<DB: Backend>(error: sqlx::Error) -> Error {
    let what = format!("the identity of the {} database", DB::NAME);
    database::describe("load", &what, error, WriteOutcome::Nothing)
}
