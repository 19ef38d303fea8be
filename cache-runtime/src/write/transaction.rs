//! A transaction over the rows of any number of repositories, which also keeps the cache correct.
//!
//! If a writer dropped the entries only before the commit, a reader could cache the old row again. If it dropped them
//! only after the commit, readers would see old rows in between, and a crash would lose the drop. So a transaction
//! announces its writes just before the commit, and ends the announcement just after it.
//!
//! 1. [`Transaction::begin`], or [`Transaction::begin_with`] to choose an isolation level.
//! 2. `repository.within(&mut transaction)` has the operations of the repository. They run on the connection of the
//!    transaction and bypass the cache. Each write records its key.
//! 3. [`Transaction::savepoint`] begins a nested transaction. Rolling it back discards what it recorded.
//! 4. [`Transaction::commit`] places the intents on all recorded keys, in one round trip per store. It gives the
//!    database a deadline below the life of the intents, commits, ends the intents, and then runs the callbacks of
//!    [`Transaction::after_commit`].
//!
//! Invariant: before the commit, a transaction writes only intents to the cache. They stop reads from the cache.
//! Invariant: a cache update is the row as the last write of the transaction left it. Statements that larder does not
//! see (raw SQL, also in a savepoint) may have changed rows, so they withdraw the cache updates recorded before them.
//! Invariant: a statement that was dropped half-way may or may not have been executed, so the transaction can only be
//! rolled back.
//! Invariant: dropping a transaction, or the future that begins it, leaves no open transaction (`open_transaction`).
//! Not here: the announcement (`announce`), the commit with it (`commit`), and the writes (`write`).

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{Connection, Pool, SqlSafeStr, SqlStr};

use crate::{
    context::Context,
    database::{
        self, Write, WriteOutcome,
        backend::Backend,
        dialect::Dialect,
        entity::Entity,
        open_transaction::{OpenTransaction, Statements},
    },
    detached,
    error::{Error, ErrorKind},
    policy::Policy,
    protocol::{key::Key, tags::Tag, token::Token},
    read::{
        content::{self, Content, SelectError},
        lookup::LookupOf,
    },
    write::{
        StagedFailure,
        announce::{Announcement, PendingWrites, WriteEnd},
        bulk::{Batch, Done},
        commit::commit_announced,
        modify::{ChangeResult, Modified},
        target::WriteTarget,
    },
};

/// A transaction, or a savepoint inside one. If it is dropped before its commit, it is rolled back.
///
/// ```
/// # use larder_runtime::{Cache, Transaction};
/// # async fn example(pool: sqlx::SqlitePool) -> Result<(), larder_runtime::Error> {
/// let mut transaction = Transaction::begin(&pool).await?;
/// // flights.within(&mut transaction).update(&flight).await?;
/// // seats.within(&mut transaction).insert(&seat).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction<'c, DB: Backend> {
    pub(super) level: Level<'c, DB>,
    pub(super) scope: Scope,
}

pub(super) enum Level<'c, DB: Backend> {
    Top(OpenTransaction<DB>),
    Savepoint {
        open: sqlx::Transaction<'c, DB>,
        parent: &'c mut Scope,
    },
    /// A savepoint inside a transaction of the caller (`adopted`).
    Adopted(sqlx::Transaction<'c, DB>),
}

/// What was recorded at one level.
pub(crate) struct Scope {
    pub(super) staging: PendingWrites,
    pub(super) callbacks: Vec<Callback>,
    /// A statement is under way, or was dropped half-way.
    is_running: bool,
    /// Statements have run here that larder has not seen.
    is_raw: bool,
    /// A statement has failed here. Postgres then answers a commit with a rollback, and calls that a success.
    has_failed: bool,
    /// The state of the last statement on the connection. Shared by all levels.
    statements: Statements,
    /// How many savepoints are open at this level, including its own.
    savepoints: usize,
    /// The database has rolled the whole transaction back. Shared by all levels.
    is_doomed: Arc<AtomicBool>,
}

pub(super) type Callback = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<DB: Backend> fmt::Debug for Transaction<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("database", &DB::NAME)
            .field("savepoint", &matches!(self.level, Level::Savepoint { .. }))
            .finish_non_exhaustive()
    }
}

impl<DB: Backend> Transaction<'static, DB> {
    /// Begins a transaction on a connection of the pool.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no open transaction.
    pub async fn begin(pool: &Pool<DB>) -> Result<Self, Error> {
        Self::open(pool, None).await
    }

    /// As [`Transaction::begin`], with your own statement instead of `BEGIN`, such as
    /// `BEGIN ISOLATION LEVEL SERIALIZABLE` or SQLite's `BEGIN IMMEDIATE`.
    ///
    /// # Errors
    ///
    /// Errors of the database, also if the statement does not begin a transaction.
    ///
    /// # Cancel safety
    ///
    /// As [`Transaction::begin`].
    pub async fn begin_with(
        pool: &Pool<DB>,
        statement: impl SqlSafeStr + Send,
    ) -> Result<Self, Error> {
        Self::open(pool, Some(statement.into_sql_str())).await
    }

    async fn open(pool: &Pool<DB>, statement: Option<SqlStr>) -> Result<Self, Error> {
        let (begin, then) = match statement {
            None => (DB::DIALECT.begin(), None),
            Some(own) => (Some(own), DB::DIALECT.begun()),
        };
        let open = OpenTransaction::begin(pool, begin, then, None)
            .await
            .map_err(|error| failed("begin", error, WriteOutcome::Nothing))?;
        let scope = Scope::new(open.statements().clone(), Arc::default(), 0);
        Ok(Self {
            level: Level::Top(open),
            scope,
        })
    }
}

impl<DB: Backend> Transaction<'_, DB> {
    /// Begins a transaction inside this one. It must be committed or rolled back before this one continues.
    ///
    /// # Errors
    ///
    /// Errors of the database. After one, this transaction can only be rolled back. Kind
    /// [`ErrorKind::TransactionAborted`] if it could only be rolled back before the call. On Postgres, any statement
    /// that fails outside a savepoint has that effect.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, this transaction can only be rolled back.
    pub async fn savepoint(&mut self) -> Result<Transaction<'_, DB>, Error> {
        self.recover().await?;
        let (connection, scope) = self.parts()?;
        // If the savepoint cannot be created, sqlx rolls back the whole transaction.
        scope.begin_statement();
        let open = connection.begin().await;
        let open =
            open.map_err(|error| failed("begin a savepoint in", error, WriteOutcome::Nothing))?;
        scope.end_statement();
        let inner = scope.of_savepoint();
        Ok(Transaction {
            level: Level::Savepoint {
                open,
                parent: scope,
            },
            scope: inner,
        })
    }

    /// Returns the connection of the transaction, for raw SQL.
    ///
    /// larder does not see what raw SQL changes. Mark the changed rows with `within(..).mark_changed(..)`, or all of
    /// them with `within(..).mark_all_changed()`, before or after the statement. Otherwise old rows may be served until
    /// their time to live ends.
    pub fn connection(&mut self) -> &mut DB::Connection {
        // Raw SQL may change rows that this transaction has written before.
        self.scope.staging.cancel_updates();
        self.scope.is_raw = true;
        self.scope.statements.raw();
        self.level.connection()
    }

    /// Runs a future after the transaction has committed and its intents have ended. A callback of a savepoint runs
    /// after the outermost commit. Rolling back the savepoint drops it.
    ///
    /// The callback runs even if the future of [`Transaction::commit`] is dropped. A panic in it is logged and does not
    /// stop the other callbacks.
    pub fn after_commit(&mut self, callback: impl Future<Output = ()> + Send + 'static) {
        self.scope.callbacks.push(Box::pin(callback));
    }

    /// Commits the transaction. A savepoint hands its writes over to the enclosing transaction.
    ///
    /// # Errors
    ///
    /// Errors of the database, and these kinds:
    ///
    /// - [`ErrorKind::OutcomeUnknown`] if the connection was lost during the commit. The rows stay uncached until the
    ///   commit can no longer take effect.
    /// - [`ErrorKind::CacheUnavailable`] if the store could not be reached and the `on_outage` of an entity is
    ///   `consistent`. Nothing was committed.
    /// - [`ErrorKind::TransactionAborted`] if a statement was dropped half-way, or the database has rolled the
    ///   transaction back. Nothing was committed.
    ///
    /// # Cancel safety
    ///
    /// A commit that has begun runs to its end even if the future is dropped.
    pub async fn commit(self) -> Result<(), Error> {
        let Self { level, scope } = self.checked().await?;
        match level {
            Level::Top(open) => {
                let committed = detached::run(commit(open, scope));
                committed.await.unwrap_or_else(|stopped| {
                    Err(Error::with_source(
                        ErrorKind::OutcomeUnknown,
                        "failed to commit a transaction: its task panicked or its runtime shut down, so it may or may not be \
                         committed",
                        stopped,
                    ))
                })
            }
            Level::Savepoint { open, parent } => {
                parent.begin_statement();
                let released = open.commit().await;
                parent.end_statement();
                // Except on Postgres, a savepoint that no longer exists means that its transaction was rolled back.
                parent.is_running = released.is_err() && DB::DIALECT != Dialect::Postgres;
                released.map_err(|error| {
                    failed("commit a savepoint of", error, WriteOutcome::Nothing)
                })?;
                parent.absorb(scope);
                Ok(())
            }
            Level::Adopted(_) => Err(Error::new(
                ErrorKind::Configuration,
                "failed to commit an adopted transaction: announce it, and commit the transaction that it was adopted from",
            )),
        }
    }

    /// Makes the connection ready for the end of the transaction. Fails if it can only be rolled back.
    pub(super) async fn checked(mut self) -> Result<Self, Error> {
        let (level, scope) = (&mut self.level, &mut self.scope);
        let recovered = OpenTransaction::<DB>::recover(level.connection(), &scope.statements);
        if recovered.await.is_err() {
            scope.check::<DB>()?;
        }
        if scope.is_raw
            && database::restart_if_rolled_back::<DB>(level.connection(), scope.savepoints).await
        {
            scope.is_doomed.store(true, Ordering::Relaxed);
        }
        scope.check::<DB>()?;
        Ok(self)
    }

    /// Rolls back the transaction, or the savepoint. The cache does not change.
    ///
    /// # Errors
    ///
    /// Errors of the database. Nothing is committed in any case.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is the same as dropping the transaction.
    pub async fn rollback(self) -> Result<(), Error> {
        let Self { mut level, scope } = self;
        let recovered = OpenTransaction::<DB>::recover(level.connection(), &scope.statements);
        if scope.is_busy::<DB>() || recovered.await.is_err() {
            // A statement is still running on the connection and may never be answered. Dropping the connection rolls
            // it back or closes it.
            return Ok(());
        }
        let rolled_back = match level {
            Level::Top(mut open) => {
                if scope.is_raw {
                    database::restart_if_rolled_back::<DB>(open.connection(), 0).await;
                }
                let mut rolled_back = open.rollback().await;
                if scope.is_doomed() {
                    // The database has already rolled back, and may report that as an error.
                    rolled_back = Ok(());
                }
                if DB::DIALECT != Dialect::Postgres && (scope.is_raw || scope.is_doomed()) {
                    // If the database had rolled back by itself, later statements were committed one by one, so drop
                    // their keys. Postgres rejects such statements.
                    let staged = Announcement::new(Token::draw(), scope.staging);
                    staged.end(WriteEnd::Undone).await;
                }
                rolled_back
            }
            Level::Savepoint { mut open, parent } => {
                parent.is_raw |= scope.is_raw;
                if scope.is_raw
                    && database::restart_if_rolled_back::<DB>(&mut open, scope.savepoints).await
                {
                    scope.is_doomed.store(true, Ordering::Relaxed);
                }
                parent.begin_statement();
                let rolled_back = open.rollback().await;
                parent.end_statement();
                rolled_back
            }
            Level::Adopted(mut open) => {
                if scope.is_raw
                    && database::restart_if_rolled_back::<DB>(&mut open, scope.savepoints).await
                {
                    scope.is_doomed.store(true, Ordering::Relaxed);
                }
                let rolled_back = open.rollback().await;
                // The caller would otherwise commit what is left of its own statements.
                scope.check_doomed()?;
                rolled_back
            }
        };
        rolled_back.map_err(|error| failed("roll back", error, WriteOutcome::Nothing))
    }

    /// Makes the connection ready for a statement of larder.
    async fn recover(&mut self) -> Result<(), Error> {
        let (connection, scope) = self.parts()?;
        let recovered = OpenTransaction::<DB>::recover(connection, &scope.statements);
        if let Err(error) = recovered.await {
            tracing::debug!(%error, "failed to prepare the connection of a transaction for the next statement");
        }
        self.scope.check::<DB>()
    }

    /// Binds a repository on the connection of the transaction. Its pool may have no other connection.
    async fn bind<E: Entity>(&mut self, repository: &Context<E, DB>) -> Result<(), Error> {
        self.recover().await?;
        let (connection, scope) = self.parts()?;
        if repository.is_bound() {
            return Ok(());
        }
        scope.begin_statement();
        let bound = repository.bind_within(connection).await;
        scope.end_statement();
        scope.has_failed |= bound.is_err();
        bound
    }

    /// Reads keys of a repository.
    pub(crate) async fn read<E: Entity, C: Content<E, DB>>(
        &mut self,
        repository: &Context<E, DB>,
        wanted: &[(Key, C)],
    ) -> Result<HashMap<Key, C::Value>, Error> {
        let keys: Vec<_> = wanted.iter().map(|(key, content)| (key, content)).collect();
        let described = content::describe(repository, &keys);
        self.query(repository, &described, async |connection| {
            C::select(repository, connection, &keys).await
        })
        .await
    }

    /// Runs a statement that reads rows of a repository.
    pub(crate) async fn query<E: Entity, T>(
        &mut self,
        repository: &Context<E, DB>,
        described: &str,
        read: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, SelectError>,
    ) -> Result<T, Error> {
        self.bind(repository).await?;
        let (connection, scope) = self.parts()?;
        // A dropped read changes nothing, but on MySQL it makes the connection unusable.
        scope.statements.begin();
        let found = read(connection).await;
        self.end_read("load", described, found).await
    }

    /// Records how a read has ended.
    async fn end_read<T>(
        &mut self,
        verb: &str,
        described: &str,
        found: Result<T, SelectError>,
    ) -> Result<T, Error> {
        self.scope.statements.end();
        let error = match found {
            Ok(found) => return Ok(found),
            Err(SelectError::Refused(error)) => return Err(error),
            Err(SelectError::Database(error)) => error,
        };
        self.scope.has_failed = true;
        if database::aborts_transaction(&error) {
            self.scope.is_doomed.store(true, Ordering::Relaxed);
            let savepoints = self.scope.savepoints;
            database::restart_if_rolled_back::<DB>(self.level.connection(), savepoints).await;
        }
        Err(database::describe(
            verb,
            described,
            error,
            WriteOutcome::Nothing,
        ))
    }

    /// Reads a row of a repository under a lock, changes it, and writes the columns that differ.
    pub(crate) async fn modify<E: Entity, R: ChangeResult>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        id: &E::Id,
        change: &mut (impl FnMut(&mut E) -> R + Send),
    ) -> Result<Modified<E, R::Value>, Error> {
        let key = repository.key(id)?;
        self.bind(repository).await?;
        let (connection, scope) = self.parts()?;
        scope.statements.begin();
        let found = repository.database.select_locked(connection, id).await;
        let described = repository.describe_row(&key);
        let found = found.map_err(SelectError::from);
        let found = self.end_read("modify", &described, found).await?;
        let old = Arc::new(found.ok_or_else(|| repository.nothing_to_modify(&key))?);
        let (row, value) = repository.changed(&key, &old, change)?;
        let write = Write::Modify(row, Arc::clone(&old));
        if repository.database.is_unchanged(&write) {
            let row = repository.database.without_omitted(old);
            return Ok(Modified { row, value });
        }
        let written = self.write(repository, &write).await?;
        let row = written.or_else(|| repository.row_of(write));
        let row = row.expect("a modification has a row");
        Ok(Modified { row, value })
    }

    /// Reads the rows of a repository that a lookup finds, under a lock, in the order of their ids.
    pub(super) async fn lock_found<E: Entity>(
        &mut self,
        repository: &Context<E, DB>,
        found: &LookupOf,
    ) -> Result<Vec<E>, Error> {
        self.bind(repository).await?;
        let (connection, scope) = self.parts()?;
        scope.statements.begin();
        let database = &repository.database;
        let rows = database.select_found_locked(connection, found.lookup, &*found.values);
        let rows = rows.await.map_err(SelectError::from);
        let described = format!("rows of {}", E::SPEC.name);
        self.end_read("modify", &described, rows).await
    }

    /// Records rows that raw SQL has changed or will change, or delete.
    pub(crate) fn mark_changed<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        ids: &[E::Id],
    ) -> Result<(), Error> {
        let keys = ids.iter().map(|id| repository.key(id));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let (_, scope) = self.parts()?;
        for (key, id) in keys.into_iter().zip(ids) {
            let target = Arc::clone(repository) as Arc<dyn WriteTarget>;
            scope.staging.mark_changed(target, key, None);
            repository.mark_cascades(&mut scope.staging, Some(id));
            repository.mark_twins(&mut scope.staging, id);
        }
        Ok(())
    }

    /// Records that raw SQL has changed or will change unknown rows of a repository.
    pub(crate) fn mark_all_changed<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
    ) -> Result<(), Error> {
        let (_, scope) = self.parts()?;
        let target = Arc::clone(repository) as Arc<dyn WriteTarget>;
        scope.staging.mark_all_changed(target);
        repository.mark_all_beside(&mut scope.staging);
        Ok(())
    }

    /// Records that raw SQL has changed or will change the rows with some tags of a repository.
    pub(crate) fn mark_tags_changed<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        tags: Vec<Tag>,
    ) -> Result<(), Error> {
        let (_, scope) = self.parts()?;
        let target = Arc::clone(repository) as Arc<dyn WriteTarget>;
        scope.staging.mark_tags_changed(target, tags);
        repository.mark_all_beside(&mut scope.staging);
        Ok(())
    }

    /// Runs a write of a repository.
    pub(crate) async fn write<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        write: &Write<E>,
    ) -> Result<Option<Arc<E>>, Error> {
        self.bind(repository).await?;
        let (connection, scope) = self.parts()?;
        scope.begin_statement();
        let written = repository
            .write_staged(connection, &mut scope.staging, write)
            .await;
        if written.as_ref().is_err_and(|failure| failure.dooms) {
            database::restart_if_rolled_back::<DB>(connection, scope.savepoints).await;
        }
        let written = scope.finish_statement(written);
        repository.count(&written);
        written
    }

    /// Runs a batch of a repository. After an error the transaction must be undone.
    pub(crate) async fn write_batch<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        batch: Batch<E>,
    ) -> Result<Done<E>, Error> {
        let written = self.write_batch_uncounted(repository, batch).await;
        repository.count(&written);
        written
    }

    /// As [`Transaction::write_batch`], for the rows of several callers, each of whom counts its own.
    pub(crate) async fn write_batch_uncounted<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        batch: Batch<E>,
    ) -> Result<Done<E>, Error> {
        self.bind(repository).await?;
        let (connection, scope) = self.parts()?;
        scope.begin_statement();
        let written = repository
            .write_batch_staged(connection, &mut scope.staging, batch)
            .await;
        if written.as_ref().is_err_and(|failure| failure.dooms) {
            database::restart_if_rolled_back::<DB>(connection, scope.savepoints).await;
        }
        scope.finish_statement(written)
    }

    /// Returns the connection and the scope. Fails if the transaction can only be rolled back.
    pub(crate) fn parts(&mut self) -> Result<(&mut DB::Connection, &mut Scope), Error> {
        self.scope.check::<DB>()?;
        Ok((self.level.connection(), &mut self.scope))
    }
}

impl<DB: Backend> Level<'_, DB> {
    fn connection(&mut self) -> &mut DB::Connection {
        match self {
            Self::Top(open) => open.connection(),
            Self::Savepoint { open, .. } | Self::Adopted(open) => open,
        }
    }
}

impl Scope {
    pub(super) fn new(
        statements: Statements,
        is_doomed: Arc<AtomicBool>,
        savepoints: usize,
    ) -> Self {
        Self {
            staging: PendingWrites::default(),
            callbacks: Vec::new(),
            is_running: false,
            is_raw: false,
            has_failed: false,
            statements,
            savepoints,
            is_doomed,
        }
    }

    /// Returns the scope of a savepoint inside this one.
    fn of_savepoint(&self) -> Self {
        Self::new(
            self.statements.clone(),
            Arc::clone(&self.is_doomed),
            self.savepoints + 1,
        )
    }

    /// Records that a statement is about to be sent. Until it ends, its effect is unknown.
    fn begin_statement(&mut self) {
        self.is_running = true;
        self.statements.begin();
    }

    /// Records that the statement has ended.
    fn end_statement(&mut self) {
        self.is_running = false;
        self.statements.end();
    }

    /// Returns whether a statement of this level was dropped half-way. On MySQL, a statement of any level counts,
    /// because it makes the connection unusable.
    fn is_busy<DB: Backend>(&self) -> bool {
        self.is_running || (DB::DIALECT == Dialect::MySql && self.statements.is_running())
    }

    fn check<DB: Backend>(&self) -> Result<(), Error> {
        self.check_doomed()?;
        match self.is_busy::<DB>() {
            true => Err(aborted(
                "one of its statements or savepoints was dropped half-way or failed, so it is unknown what was executed; \
                 roll the transaction back",
            )),
            false => Ok(()),
        }
    }

    fn check_doomed(&self) -> Result<(), Error> {
        match self.is_doomed() {
            true => Err(aborted(ROLLED_BACK)),
            false => Ok(()),
        }
    }

    fn is_doomed(&self) -> bool {
        self.is_doomed.load(Ordering::Relaxed)
    }

    /// Records how a write has ended.
    fn finish_statement<T>(&mut self, written: Result<T, StagedFailure>) -> Result<T, Error> {
        self.end_statement();
        self.has_failed |= written.is_err();
        written.map_err(|failure| {
            if failure.dooms {
                self.is_doomed.store(true, Ordering::Relaxed);
            }
            failure.error
        })
    }

    /// Adds what a committed savepoint recorded.
    fn absorb(&mut self, savepoint: Self) {
        if savepoint.is_raw {
            self.staging.cancel_updates();
            self.is_raw = true;
        }
        self.staging.absorb(savepoint.staging);
        self.callbacks.extend(savepoint.callbacks);
    }
}

/// Why a transaction cannot continue that the database has ended.
pub(super) const ROLLED_BACK: &str = "the database has rolled it back, because of a deadlock or another failure that ends a transaction; \
                                      begin a new transaction";

/// Returns the error of a transaction that can only be rolled back.
pub(super) fn aborted(why: &str) -> Error {
    Error::new(
        ErrorKind::TransactionAborted,
        format!("failed to continue a transaction: {why}"),
    )
}

/// Commits the outermost transaction, announced.
async fn commit<DB: Backend>(open: OpenTransaction<DB>, scope: Scope) -> Result<(), Error> {
    let is_seen = !scope.is_raw && !scope.has_failed && scope.callbacks.is_empty();
    let ttl = scope.staging.intent_ttl();
    // Set a deadline even if nothing is announced: the statement shows whether the transaction is still open.
    let ttl = ttl.or((!is_seen).then_some(Policy::DEFAULT.intent_ttl));
    let announcement = Announcement::new(Token::draw(), scope.staging);
    commit_announced(open, announcement, ttl).await?;
    run_callbacks(scope.callbacks).await;
    Ok(())
}

/// Runs the callbacks of a committed transaction.
pub(super) async fn run_callbacks(callbacks: Vec<Callback>) {
    for callback in callbacks {
        if let Err(stopped) = detached::spawn(callback).await {
            tracing::error!(%stopped, "an `after_commit` callback panicked; the transaction is committed");
        }
    }
}

pub(super) fn failed(verb: &str, error: sqlx::Error, fate: WriteOutcome) -> Error {
    database::describe(verb, "a transaction", error, fate)
}
