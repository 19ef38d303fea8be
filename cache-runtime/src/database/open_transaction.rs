//! A transaction on a connection of a pool, and what happens to both when it is dropped.
//!
//! sqlx rolls back a transaction that is dropped, but not one whose `BEGIN` was dropped before its reply. On Postgres
//! and MySQL such a connection returns to the pool inside an open transaction. The writes of its next user are
//! acknowledged and never committed. And a MySQL connection whose statement was dropped while it was being prepared
//! never returns to the pool.
//!
//! 1. [`OpenTransaction::begin`] begins in a task of its own. If the caller's future was dropped, the transaction is
//!    rolled back.
//! 2. Code that runs a statement records its beginning and its end in [`Statements`].
//! 3. Dropping an open transaction rolls it back. On MySQL, a connection on which a statement may still be running is
//!    closed instead, which also rolls back, and frees its place in the pool.
//!
//! Invariant: a connection returns to its pool only without a transaction and ready for the next statement.
//! Not here: the statements (`transaction`, `behind/apply`).

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

use crate::{
    database::{backend::Backend, dialect::Dialect},
    detached,
};

/// How long a connection may take to reply if its last statement may have been dropped half-way.
const MAX_RECOVERY: Duration = Duration::from_secs(5);

/// An open transaction.
pub(crate) struct OpenTransaction<DB: Backend> {
    connection: PoolConnection<DB>,
    /// Whether it must be rolled back.
    is_open: bool,
    statements: Statements,
    /// The statement that resets the session after the transaction.
    reset: Option<SqlStr>,
}

/// The state of the last statement of a transaction. Shared with its savepoints.
#[derive(Clone, Default)]
pub(crate) struct Statements(Arc<LastStatement>);

#[derive(Default)]
struct LastStatement {
    /// A statement of larder has begun, and has not ended.
    is_running: AtomicBool,
    /// It was raw SQL, so it is unknown whether it has ended.
    is_raw: AtomicBool,
}

impl Statements {
    /// Records that a statement is about to be sent.
    pub(crate) fn begin(&self) {
        self.0.is_running.store(true, Ordering::Relaxed);
    }

    /// Records that it has ended, and so have all statements before it.
    pub(crate) fn end(&self) {
        self.0.is_running.store(false, Ordering::Relaxed);
        self.0.is_raw.store(false, Ordering::Relaxed);
    }

    /// Records that the user may send raw SQL.
    pub(crate) fn raw(&self) {
        self.0.is_raw.store(true, Ordering::Relaxed);
    }

    /// Returns whether a statement of larder was dropped half-way.
    pub(crate) fn is_running(&self) -> bool {
        self.0.is_running.load(Ordering::Relaxed)
    }

    fn is_raw(&self) -> bool {
        self.0.is_raw.load(Ordering::Relaxed)
    }
}

impl<DB: Backend> OpenTransaction<DB> {
    /// Begins a transaction with this statement instead of `BEGIN`, and then runs another one. A connection whose
    /// session was not reset with `reset` ([`OpenTransaction::reset`]) does not return to the pool.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no open transaction.
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
            // If the caller's future was dropped, the transaction is dropped here, and so rolled back.
            let _left = answer.send(begun);
        };
        detached::spawn(opened);
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

    /// Rolls back after a failed beginning: of several statements, the first may have begun a transaction.
    async fn undo_beginning(&mut self) {
        let undone = DB::run(&mut self.connection, SqlStr::from_static("ROLLBACK")).await;
        // Ignore an error: there may be no transaction.
        if undone.is_err_and(|error| error.as_database_error().is_none()) {
            self.connection.close_on_drop();
        }
    }

    /// Resets the session after the end of the transaction.
    pub(crate) async fn reset(&mut self) -> Result<(), sqlx::Error> {
        if let Some(reset) = self.reset.clone() {
            self.run(reset).await?;
            self.reset = None;
        }
        Ok(())
    }

    /// Returns the connection.
    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }

    /// Returns the record of the statements on the connection.
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

    /// Makes the connection ready for a statement of larder, if raw SQL may have been dropped half-way. If that fails,
    /// the connection will be closed.
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

    /// Commits. If the commit fails, dropping the transaction rolls it back.
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

/// Runs a statement and records its end. On MySQL, earlier raw SQL may have been dropped half-way, and then there may
/// be no reply: after some seconds without one, the connection is closed.
async fn answered<DB: Backend, T>(
    statements: &Statements,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let is_doubtful = DB::DIALECT == Dialect::MySql && statements.is_raw();
    statements.begin();
    let done = if is_doubtful {
        let answered = tokio::time::timeout(MAX_RECOVERY, statement).await;
        answered.map_err(|_| {
            sqlx::Error::Protocol(
                "a statement of the transaction was dropped before it had ended, so its connection is closed".to_owned(),
            )
        })?
    } else {
        statement.await
    };
    // The error may come from the reply to the dropped statement.
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
