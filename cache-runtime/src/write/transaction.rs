//! A transaction over the rows of any number of repositories, with the cache kept right.
//!
//! A purge before the commit lets a reader put the old row back; a purge after it leaves a window and is lost with the
//! process. Here the cache learns of the writes just before the commit, and again just after it.
//!
//! 1. [`Transaction::begin`], or [`Transaction::begin_with`] for an isolation level of one's own.
//! 2. `repository.within(&mut transaction)` has the operations of the repository. They run on the connection of the
//!    transaction; nothing is read from the cache and nothing is stored there. Each write notes its key.
//! 3. [`Transaction::savepoint`] begins a transaction inside; rolled back, it takes its notes along.
//! 4. [`Transaction::commit`] places the intent on all noted keys in one round trip per store, gives the database a
//!    deadline below the life of that intent, commits, ends the intents, and then runs what was left with
//!    [`Transaction::after_commit`].
//!
//! Invariant: nothing of a transaction reaches the cache before its commit but intents, which keep readers off.
//! Invariant: a publication is the row as the last write of the transaction to it left it; whatever may have changed rows
//! unseen (raw SQL, a savepoint with raw SQL) takes back the publications noted before it.
//! Invariant: a statement that was dropped half-way may or may not have been run, so the transaction can only be rolled
//! back.
//! Invariant: a transaction that is dropped, or whose beginning is, leaves nothing behind (`open_transaction`).
//! Not here: the announcement (`announce`), and the writes (`write`).

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{Connection, Pool, SqlSafeStr};
use tracing::Instrument;

use crate::{
    context::Context,
    database::{
        self, Fate, Write,
        backend::Backend,
        dialect::Dialect,
        entity::Entity,
        open_transaction::{OpenTransaction, Statements},
    },
    detached,
    error::{Error, ErrorKind},
    policy::Policy,
    protocol::{key::Key, token::Token},
    write::{
        StagedFailure,
        announce::{Announcement, Ending, Site, Staging},
        bulk::{Batch, Done},
    },
};

/// A transaction, or a savepoint inside one. Dropped before it is committed, it is rolled back.
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
    level: Level<'c, DB>,
    scope: Scope,
}

enum Level<'c, DB: Backend> {
    Top(OpenTransaction<DB>),
    Savepoint {
        open: sqlx::Transaction<'c, DB>,
        parent: &'c mut Scope,
    },
}

/// What was noted at one level.
pub(crate) struct Scope {
    staging: Staging,
    callbacks: Vec<Callback>,
    /// A statement is under way, or was dropped half-way.
    is_running: bool,
    /// Statements have run here that larder has not seen.
    is_raw: bool,
    /// A statement has failed here. Postgres then answers a commit with a rollback, and calls that a success.
    has_failed: bool,
    /// What is known of the last statement on the connection. Shared by all levels.
    statements: Statements,
    /// In how many savepoints of the transaction this one lies, itself included.
    savepoints: usize,
    /// The database has rolled the whole transaction back. Shared by all levels.
    is_doomed: Arc<AtomicBool>,
}

type Callback = Pin<Box<dyn Future<Output = ()> + Send>>;

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
    /// Dropping the future leaves no transaction behind.
    pub async fn begin(pool: &Pool<DB>) -> Result<Self, Error> {
        Self::open(pool, None).await
    }

    /// As [`Transaction::begin`], with a statement of one's own in place of `BEGIN`, such as
    /// `BEGIN ISOLATION LEVEL SERIALIZABLE` or SQLite's `BEGIN IMMEDIATE`.
    ///
    /// # Errors
    ///
    /// Errors of the database, also when the statement begins no transaction.
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

    async fn open(pool: &Pool<DB>, statement: Option<sqlx::SqlStr>) -> Result<Self, Error> {
        let (begin, then) = match statement {
            None => (DB::DIALECT.begin(), None),
            Some(own) => (Some(own), DB::DIALECT.begun()),
        };
        let open = OpenTransaction::begin(pool, begin, then, None)
            .await
            .map_err(|error| failed("begin", error, Fate::Nothing))?;
        let scope = Scope::new(open.statements().clone(), Arc::default(), 0);
        Ok(Self {
            level: Level::Top(open),
            scope,
        })
    }
}

impl<DB: Backend> Transaction<'_, DB> {
    /// Begins a transaction inside this one. It must be committed or rolled back before this one goes on.
    ///
    /// # Errors
    ///
    /// Errors of the database, after which this transaction can only be rolled back, and kind [`ErrorKind::Aborted`] if that
    /// was so before. On Postgres a statement that fails outside a savepoint leads there.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped half-way, this transaction can only be rolled back.
    pub async fn savepoint(&mut self) -> Result<Transaction<'_, DB>, Error> {
        self.recover().await?;
        let (connection, scope) = self.parts()?;
        // A savepoint that does not come about takes the whole transaction along: sqlx rolls back what is open then.
        scope.begin_statement();
        let open = connection.begin().await;
        let open = open.map_err(|error| failed("begin a savepoint in", error, Fate::Nothing))?;
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

    /// The connection of the transaction, for statements of one's own.
    ///
    /// Larder does not see what they change: name it with `within(..).touch(..)` or `within(..).touch_all()`, before or after,
    /// or old rows may be served until their time to live ends.
    pub fn connection(&mut self) -> &mut DB::Connection {
        // They may change rows that were written before, and only they know.
        self.scope.staging.unpublish();
        self.scope.is_raw = true;
        self.scope.statements.raw();
        self.level.connection()
    }

    /// Runs something once the transaction is committed and the cache has been told. A savepoint's is dropped with it when
    /// it is rolled back, and waits for the outermost commit otherwise.
    ///
    /// It runs also when the future of [`Transaction::commit`] is dropped. A panic in it is logged and stops nothing else.
    pub fn after_commit(&mut self, callback: impl Future<Output = ()> + Send + 'static) {
        self.scope.callbacks.push(Box::pin(callback));
    }

    /// Commits, or for a savepoint adds what was done to the transaction around it.
    ///
    /// # Errors
    ///
    /// Errors of the database. Kind [`ErrorKind::OutcomeUnknown`] when the connection was lost on the way: the rows stay
    /// uncached until it is certain that nothing can be committed any more. Kind [`ErrorKind::Store`] when an entity whose
    /// `on_outage` is `consistent` could not be announced, and kind [`ErrorKind::Aborted`] when a statement was dropped
    /// half-way or the database has rolled the transaction back: then nothing of it was committed.
    ///
    /// # Cancel safety
    ///
    /// A commit that has begun runs to its end, also when the future is dropped.
    pub async fn commit(self) -> Result<(), Error> {
        let Self { mut level, scope } = self;
        let recovered = OpenTransaction::<DB>::recover(level.connection(), &scope.statements);
        if recovered.await.is_err() {
            scope.check::<DB>()?;
        }
        if scope.is_raw && database::reopen::<DB>(level.connection(), scope.savepoints).await {
            scope.is_doomed.store(true, Ordering::Relaxed);
        }
        scope.check::<DB>()?;
        match level {
            Level::Top(open) => {
                let committed = detached::run(commit(open, scope));
                committed.await.unwrap_or_else(|stopped| {
                    Err(Error::with_source(
                        ErrorKind::Aborted,
                        "failed to commit a transaction: the task was stopped half-way",
                        stopped,
                    ))
                })
            }
            Level::Savepoint { open, parent } => {
                parent.begin_statement();
                let released = open.commit().await;
                parent.end_statement();
                // A savepoint that is gone elsewhere has gone with its transaction.
                parent.is_running = released.is_err() && DB::DIALECT != Dialect::Postgres;
                released.map_err(|error| failed("commit a savepoint of", error, Fate::Nothing))?;
                parent.absorb(scope);
                Ok(())
            }
        }
    }

    /// Undoes everything. The cache is as if nothing had happened.
    ///
    /// # Errors
    ///
    /// Errors of the database. Nothing is committed in any case.
    ///
    /// # Cancel safety
    ///
    /// As dropping the transaction.
    pub async fn rollback(self) -> Result<(), Error> {
        let Self { mut level, scope } = self;
        let recovered = OpenTransaction::<DB>::recover(level.connection(), &scope.statements);
        if scope.is_busy::<DB>() || recovered.await.is_err() {
            // The connection is in the middle of something, and its answer may never come: it is rolled back or closed when it
            // is dropped.
            return Ok(());
        }
        let rolled_back = match level {
            Level::Top(mut open) => {
                if scope.is_raw {
                    database::reopen::<DB>(open.connection(), 0).await;
                }
                let mut rolled_back = open.rollback().await;
                if scope.is_doomed() {
                    // The database has done it already, and may say so.
                    rolled_back = Ok(());
                }
                if DB::DIALECT != Dialect::Postgres && (scope.is_raw || scope.is_doomed()) {
                    // Where the database had rolled back by itself, what was written after that was committed. Postgres
                    // refuses it.
                    let staged = Announcement::new(Token::draw(), scope.staging);
                    staged.end(Ending::Undone).await;
                }
                rolled_back
            }
            Level::Savepoint { mut open, parent } => {
                parent.is_raw |= scope.is_raw;
                if scope.is_raw && database::reopen::<DB>(&mut open, scope.savepoints).await {
                    scope.is_doomed.store(true, Ordering::Relaxed);
                }
                parent.begin_statement();
                let rolled_back = open.rollback().await;
                parent.end_statement();
                rolled_back
            }
        };
        rolled_back.map_err(|error| failed("roll back", error, Fate::Nothing))
    }

    /// Sees to it that the connection is ready for a statement of larder.
    async fn recover(&mut self) -> Result<(), Error> {
        let (connection, scope) = self.parts()?;
        let recovered = OpenTransaction::<DB>::recover(connection, &scope.statements);
        if let Err(error) = recovered.await {
            tracing::debug!(%error, "the connection of a transaction does not answer as it should");
        }
        self.scope.check::<DB>()
    }

    /// Binds a repository on the connection of the transaction; its pool may have no other.
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

    /// Reads a row of a repository.
    pub(crate) async fn find<E: Entity>(
        &mut self,
        repository: &Context<E, DB>,
        id: &E::Id,
    ) -> Result<Option<Arc<E>>, Error> {
        let key = repository.key(id)?;
        self.bind(repository).await?;
        let (connection, scope) = self.parts()?;
        // A read that is dropped leaves nothing behind but, on MySQL, a connection that is of no use.
        scope.statements.begin();
        let found = repository.database.select(connection, id).await;
        scope.statements.end();
        scope.has_failed |= found.is_err();
        match found {
            Ok(row) => Ok(row.map(Arc::new)),
            Err(error) => {
                if database::dooms_transaction(&error) {
                    scope.is_doomed.store(true, Ordering::Relaxed);
                    let savepoints = self.scope.savepoints;
                    database::reopen::<DB>(self.level.connection(), savepoints).await;
                }
                let what = repository.what(&key);
                Err(database::describe("load", &what, error, Fate::Nothing))
            }
        }
    }

    /// Notes a key that statements of the user's own have changed or will change.
    pub(crate) fn touch<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        key: Key,
    ) -> Result<(), Error> {
        let (_, scope) = self.parts()?;
        let site = Arc::clone(repository) as Arc<dyn Site>;
        scope.staging.touch(site, key, None);
        Ok(())
    }

    /// Notes that statements of the user's own have changed or will change any row of a repository.
    pub(crate) fn touch_all<E: Entity>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
    ) -> Result<(), Error> {
        let (_, scope) = self.parts()?;
        let site = Arc::clone(repository) as Arc<dyn Site>;
        scope.staging.touch_all(site);
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
            database::reopen::<DB>(connection, scope.savepoints).await;
        }
        scope.settle(repository, written)
    }

    /// Runs a batch of a repository. After an error the transaction must be undone.
    pub(crate) async fn write_batch<E: Entity>(
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
            database::reopen::<DB>(connection, scope.savepoints).await;
        }
        scope.settle(repository, written)
    }

    /// The connection and what is noted, unless the transaction can only be rolled back.
    pub(crate) fn parts(&mut self) -> Result<(&mut DB::Connection, &mut Scope), Error> {
        self.scope.check::<DB>()?;
        Ok((self.level.connection(), &mut self.scope))
    }
}

impl<DB: Backend> Level<'_, DB> {
    fn connection(&mut self) -> &mut DB::Connection {
        match self {
            Self::Top(open) => open.connection(),
            Self::Savepoint { open, .. } => open,
        }
    }
}

impl Scope {
    fn new(statements: Statements, is_doomed: Arc<AtomicBool>, savepoints: usize) -> Self {
        Self {
            staging: Staging::default(),
            callbacks: Vec::new(),
            is_running: false,
            is_raw: false,
            has_failed: false,
            statements,
            savepoints,
            is_doomed,
        }
    }

    /// The scope of a savepoint inside this one.
    fn of_savepoint(&self) -> Self {
        Self::new(
            self.statements.clone(),
            Arc::clone(&self.is_doomed),
            self.savepoints + 1,
        )
    }

    /// A statement is about to be sent whose effect is unknown unless it ends.
    fn begin_statement(&mut self) {
        self.is_running = true;
        self.statements.begin();
    }

    /// It has ended.
    fn end_statement(&mut self) {
        self.is_running = false;
        self.statements.end();
    }

    /// Whether a statement was dropped half-way: of this level, or on MySQL, whose connections are of no use then, of any.
    fn is_busy<DB: Backend>(&self) -> bool {
        self.is_running || (DB::DIALECT == Dialect::MySql && self.statements.is_running())
    }

    fn check<DB: Backend>(&self) -> Result<(), Error> {
        let why = if self.is_doomed() {
            "the database has rolled it back, because of a deadlock or another failure that ends a transaction; begin a new one"
        } else if self.is_busy::<DB>() {
            "a statement or savepoint of it was dropped half-way or has failed, so nobody knows what was run; \
             roll the transaction back"
        } else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Aborted,
            format!("a transaction cannot go on: {why}"),
        ))
    }

    fn is_doomed(&self) -> bool {
        self.is_doomed.load(Ordering::Relaxed)
    }

    /// Takes note of how a write has ended.
    fn settle<E: Entity, DB: Backend, T>(
        &mut self,
        repository: &Context<E, DB>,
        written: Result<T, StagedFailure>,
    ) -> Result<T, Error> {
        self.end_statement();
        self.has_failed |= written.is_err();
        repository.count(&written);
        written.map_err(|failure| {
            if failure.dooms {
                self.is_doomed.store(true, Ordering::Relaxed);
            }
            failure.error
        })
    }

    /// Takes over what was noted in a savepoint.
    fn absorb(&mut self, savepoint: Self) {
        if savepoint.is_raw {
            self.staging.unpublish();
            self.is_raw = true;
        }
        self.staging.absorb(savepoint.staging);
        self.callbacks.extend(savepoint.callbacks);
    }
}

/// Commits the outermost transaction, announced.
async fn commit<DB: Backend>(open: OpenTransaction<DB>, scope: Scope) -> Result<(), Error> {
    let is_seen = !scope.is_raw && !scope.has_failed && scope.callbacks.is_empty();
    commit_announced(open, scope.staging, is_seen).await?;
    for callback in scope.callbacks {
        if let Err(stopped) = tokio::spawn(callback.in_current_span()).await {
            tracing::error!(%stopped, "a callback after a commit failed; the transaction is committed");
        }
    }
    Ok(())
}

/// Commits. `is_seen` says that no statement was run but those that were staged.
async fn commit_announced<DB: Backend>(
    mut open: OpenTransaction<DB>,
    staging: Staging,
    is_seen: bool,
) -> Result<(), Error> {
    let ttl = staging.intent_ttl();
    // Also where nothing is announced: it tells whether the transaction is still open.
    let ttl = ttl.or((!is_seen).then_some(Policy::DEFAULT.intent_ttl));
    let deadline = ttl.and_then(|ttl| DB::DIALECT.deadline(ttl));
    let mut announcement = Announcement::new(Token::draw(), staging);
    // The intent is placed and the deadline set at the same time.
    let (limited, ()) = tokio::join!(
        async {
            match &deadline {
                Some(deadline) => open.run(deadline.set.clone()).await,
                None => Ok(()),
            }
        },
        announcement.begin()
    );
    let reset = deadline.and_then(|deadline| deadline.reset);
    if let Err(error) = limited {
        // Postgres refuses every statement after one that failed, and would answer a commit by rolling back. On MySQL what
        // was written after a rollback by the database is committed, so its keys are dropped.
        announcement.end(Ending::Undone).await;
        return Err(failed("commit", error, Fate::Nothing));
    }
    announcement.confirm().await;
    if let Err(refusal) = announcement.refusal("commit") {
        announcement.end(Ending::Undone).await;
        undo(open, reset).await;
        return Err(refusal);
    }
    let committed = announcement.during(open.commit()).await;
    let is_committed = committed.is_ok();
    let concluded = conclude(announcement, committed);
    if is_committed && reset.is_none() {
        // The next user of the connection need not wait for the cache.
        drop(open);
        return concluded.await;
    }
    let (concluded, ()) = tokio::join!(concluded, undo(open, reset));
    concluded
}

/// Ends the announcement as the commit ended.
async fn conclude(
    announcement: Announcement,
    committed: Result<(), sqlx::Error>,
) -> Result<(), Error> {
    let Err(error) = committed else {
        announcement.end(Ending::Committed).await;
        return Ok(());
    };
    let fate = Fate::of(&error);
    announcement.end(fate.into()).await;
    Err(failed("commit", error, fate))
}

/// Rolls back what is still open, and puts the session in order for the next user of the connection.
async fn undo<DB: Backend>(mut open: OpenTransaction<DB>, reset: Option<sqlx::SqlStr>) {
    let undone = async {
        if let Some(reset) = reset {
            open.run(reset).await?;
        }
        open.rollback().await
    };
    if let Err(error) = undone.await {
        tracing::debug!(%error, "a transaction could not be rolled back; its connection is given up");
    }
}

fn failed(verb: &str, error: sqlx::Error, fate: Fate) -> Error {
    database::describe(verb, "a transaction", error, fate)
}
