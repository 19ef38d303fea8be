//! The commit of a transaction whose writes are announced: larder's own, and one that the caller has begun with sqlx.
//!
//! 1. Place the intents, and at the same time set a deadline in the database, after which it aborts a commit.
//! 2. Commit.
//! 3. End the intents as the commit has ended, and reset the deadline for the next user of the connection.
//!
//! Invariant: no commit is sent before all intents are placed.
//! Not here: what is recorded for the announcement (`transaction`), and the announcement itself (`announce`).

use std::time::Duration;

use sqlx::SqlStr;

use crate::{
    database::{
        WriteOutcome, backend::Backend, dialect::DeadlineSql, open_transaction::OpenTransaction,
    },
    error::Error,
    write::{
        announce::{Announcement, WriteEnd},
        transaction::failed,
    },
};

/// A transaction that is about to be committed.
pub(super) trait Committable: Send {
    /// Returns the statement that sets a deadline for the commit.
    fn deadline(intent_ttl: Duration) -> Option<DeadlineSql>;

    /// Runs a statement without parameters.
    fn run(&mut self, statement: SqlStr) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Commits. If the commit fails, dropping the transaction rolls it back.
    fn commit(&mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Rolls back.
    fn rollback(&mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

impl<DB: Backend> Committable for OpenTransaction<DB> {
    fn deadline(intent_ttl: Duration) -> Option<DeadlineSql> {
        DB::DIALECT.deadline(intent_ttl)
    }

    async fn run(&mut self, statement: SqlStr) -> Result<(), sqlx::Error> {
        Self::run(self, statement).await
    }

    async fn commit(&mut self) -> Result<(), sqlx::Error> {
        Self::commit(self).await
    }

    async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        Self::rollback(self).await
    }
}

/// Commits. With a `ttl`, the database aborts a commit that comes later than intents with this life allow.
pub(super) async fn commit_announced<T: Committable>(
    mut open: T,
    mut announcement: Announcement,
    ttl: Option<Duration>,
) -> Result<(), Error> {
    let deadline = ttl.and_then(T::deadline);
    // The intent is placed and the deadline set at the same time.
    let (limited, ()) = tokio::join!(
        async {
            match &deadline {
                Some(deadline) => open.run(deadline.set.clone()).await,
                None => Ok(()),
            }
        },
        announcement.begin_once()
    );
    let reset = deadline.and_then(|deadline| deadline.reset);
    if let Err(error) = limited {
        // After a failed statement, Postgres rejects every other one, and a commit would roll back. On MySQL,
        // statements after a rollback by the database are committed, so drop their keys.
        announcement.end(WriteEnd::Undone).await;
        return Err(failed("commit", error, WriteOutcome::Nothing));
    }
    let (committed, announcement) = match announcement.attempt("commit", open.commit()).await {
        Ok(attempted) => attempted,
        Err(reason) => {
            undo(open, reset).await;
            return Err(reason);
        }
    };
    let is_committed = committed.is_ok();
    let concluded = conclude(announcement, committed);
    if is_committed && reset.is_none() {
        // Return the connection to the pool before waiting for the cache.
        drop(open);
        return concluded.await;
    }
    let (concluded, ()) = tokio::join!(concluded, undo(open, reset));
    concluded
}

/// Ends the announcement according to the outcome of the commit.
async fn conclude(
    announcement: Announcement,
    committed: Result<(), sqlx::Error>,
) -> Result<(), Error> {
    let Err(error) = committed else {
        announcement.end(WriteEnd::Committed).await;
        return Ok(());
    };
    let fate = WriteOutcome::of(&error);
    announcement.end(fate.into()).await;
    Err(failed("commit", error, fate))
}

/// Rolls back what is still open, and resets the session for the next user of the connection.
async fn undo(mut open: impl Committable, reset: Option<SqlStr>) {
    let undone = async {
        if let Some(reset) = reset {
            open.run(reset).await?;
        }
        open.rollback().await
    };
    if let Err(error) = undone.await {
        tracing::debug!(%error, "failed to roll back a transaction; closing its connection");
    }
}
