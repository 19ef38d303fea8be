//! A transaction on a connection of a pool, and what becomes of both when it is dropped.
//!
//! sqlx rolls back a transaction that is dropped, but not one whose `BEGIN` was dropped before it was answered: on Postgres and
//! MySQL its connection goes back to the pool inside an open transaction, and what its next user writes is acknowledged and
//! never committed. And a connection of MySQL whose statement was dropped while it was prepared does not come back at all.
//!
//! 1. [`OpenTransaction::begin`] begins in a task of its own. If nobody waits for it any more, the transaction is rolled back.
//! 2. Whoever runs a statement notes its beginning and its end in [`Statements`].
//! 3. Dropped, an open transaction is rolled back. On MySQL a connection on which a statement may still be under way is closed
//!    instead, which rolls back as well and frees its place in the pool.
//!
//! Invariant: a connection goes back to its pool without a transaction, and ready for the next statement, or not at all.
//! Not here: what is run (`transaction`, `behind/apply`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{Pool, SqlStr, pool::PoolConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::{
    database::{backend::Backend, dialect::Dialect},
    detached,
};

/// How long a connection may take to answer whose last statement may have been dropped half-way.
const LONGEST_RECOVERY: Duration = Duration::from_secs(5);

/// An open transaction.
pub(crate) struct OpenTransaction<DB: Backend> {
    connection: PoolConnection<DB>,
    /// Whether it has to be rolled back.
    is_open: bool,
    statements: Statements,
    /// What puts the session in order again that the beginning has changed.
    reset: Option<SqlStr>,
}

/// What is known of the last statement of a transaction. Shared with its savepoints.
#[derive(Clone, Default)]
pub(crate) struct Statements(Arc<LastStatement>);

#[derive(Default)]
struct LastStatement {
    /// Larder has begun it, and it has not ended.
    is_running: AtomicBool,
    /// It was the user's own, so nobody knows whether it has ended.
    is_raw: AtomicBool,
}

impl Statements {
    /// A statement is about to be sent.
    pub(crate) fn begin(&self) {
        self.0.is_running.store(true, Ordering::Relaxed);
    }

    /// It has ended, and with it every statement before it.
    pub(crate) fn end(&self) {
        self.0.is_running.store(false, Ordering::Relaxed);
        self.0.is_raw.store(false, Ordering::Relaxed);
    }

    /// The user may send a statement.
    pub(crate) fn raw(&self) {
        self.0.is_raw.store(true, Ordering::Relaxed);
    }

    /// Whether a statement of larder was dropped half-way.
    pub(crate) fn is_running(&self) -> bool {
        self.0.is_running.load(Ordering::Relaxed)
    }

    fn is_raw(&self) -> bool {
        self.0.is_raw.load(Ordering::Relaxed)
    }
}

impl<DB: Backend> OpenTransaction<DB> {
    /// Begins a transaction with this statement in place of `BEGIN`, and runs another one behind it. A connection whose session
    /// was not put in order again by `reset` ([`OpenTransaction::reset`]) does not go back to the pool.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no transaction behind.
    pub(crate) async fn begin(
        pool: &Pool<DB>,
        statement: Option<SqlStr>,
        then: Option<SqlStr>,
        reset: Option<SqlStr>,
    ) -> Result<Self, sqlx::Error> {
        let pool = pool.clone();
        let (answer, begun) = oneshot::channel();
        let opened = async move {
            let begun = async {
                let connection = DB::acquire(&pool).await?;
                if answer.is_closed() {
                    return Err(sqlx::Error::PoolTimedOut);
                }
                Self::begin_on(connection, statement, then, reset).await
            };
            let begun = begun.await;
            // Whoever has left leaves the transaction to its drop.
            let _left = answer.send(begun);
        };
        tokio::spawn(opened.in_current_span());
        begun
            .await
            .unwrap_or_else(|stopped| Err(detached::stopped_half_way(&stopped)))
    }

    async fn begin_on(
        connection: PoolConnection<DB>,
        statement: Option<SqlStr>,
        then: Option<SqlStr>,
        reset: Option<SqlStr>,
    ) -> Result<Self, sqlx::Error> {
        let mut open = Self {
            connection,
            is_open: false,
            statements: Statements::default(),
            reset,
        };
        open.statements.begin();
        if let Err(error) = DB::TransactionManager::begin(&mut open.connection, statement).await {
            open.undo_beginning().await;
            return Err(error);
        }
        open.is_open = true;
        if let Some(then) = then {
            DB::run(&mut open.connection, then).await?;
        }
        open.statements.end();
        Ok(open)
    }

    /// Of several statements that were to begin a transaction, the first may have begun one.
    async fn undo_beginning(&mut self) {
        let undone = DB::run(&mut self.connection, SqlStr::from_static("ROLLBACK")).await;
        // Where there is no transaction, a database may say so.
        if undone.is_err_and(|error| error.as_database_error().is_none()) {
            self.connection.close_on_drop();
        }
    }

    /// Puts the session in order again, behind the end of the transaction.
    pub(crate) async fn reset(&mut self) -> Result<(), sqlx::Error> {
        if let Some(reset) = self.reset.clone() {
            self.run(reset).await?;
            self.reset = None;
        }
        Ok(())
    }

    /// The connection.
    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }

    /// Where the statements on the connection are noted.
    pub(crate) fn statements(&self) -> &Statements {
        &self.statements
    }

    /// Runs a statement without parameters.
    pub(crate) async fn run(&mut self, statement: SqlStr) -> Result<(), sqlx::Error> {
        let Self {
            connection,
            statements,
            ..
        } = self;
        answered::<DB, _>(statements, DB::run(connection, statement)).await
    }

    /// Sees to it that the connection is ready for a statement of larder, if one of the user's own may have been dropped before
    /// it had ended. Fails, and the connection is closed, if it is not.
    pub(crate) async fn recover(
        connection: &mut DB::Connection,
        statements: &Statements,
    ) -> Result<(), sqlx::Error> {
        if DB::DIALECT == Dialect::MySql && statements.is_raw() {
            let nothing = DB::run(connection, SqlStr::from_static("DO 0"));
            answered::<DB, _>(statements, nothing).await?;
        }
        Ok(())
    }

    /// Commits. What fails to commit is rolled back when this is dropped.
    pub(crate) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        let Self {
            connection,
            statements,
            ..
        } = self;
        let commit = DB::TransactionManager::commit(connection);
        let committed = answered::<DB, _>(statements, commit).await;
        self.is_open = committed.is_err();
        committed
    }

    /// Rolls back.
    pub(crate) async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        let Self {
            connection,
            statements,
            ..
        } = self;
        let rollback = DB::TransactionManager::rollback(connection);
        let undone = answered::<DB, _>(statements, rollback).await;
        self.is_open = undone.is_err();
        undone
    }
}

/// Runs a statement and notes its end. On MySQL one of the user's own before it may have been dropped half-way, and then there
/// may be no reply to wait for: after some seconds without one the connection is given up.
async fn answered<DB: Backend, T>(
    statements: &Statements,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let is_doubtful = DB::DIALECT == Dialect::MySql && statements.is_raw();
    statements.begin();
    let done = if is_doubtful {
        let answered = tokio::time::timeout(LONGEST_RECOVERY, statement).await;
        answered.map_err(|_| {
            sqlx::Error::Protocol(
                "a statement of the transaction was dropped before it had ended, so its connection is closed".to_owned(),
            )
        })?
    } else {
        statement.await
    };
    // An error may be what the reply to the dropped one looked like.
    if done.is_ok() || !is_doubtful {
        statements.end();
    }
    done
}

impl<DB: Backend> Drop for OpenTransaction<DB> {
    fn drop(&mut self) {
        let is_busy = self.statements.is_running() || self.statements.is_raw();
        let is_altered = self.reset.is_some();
        if DB::DIALECT == Dialect::MySql && (is_busy || is_altered) {
            self.connection.close_on_drop();
        } else if self.is_open {
            DB::TransactionManager::start_rollback(&mut self.connection);
        }
    }
}
