//! One flush in the database: a batch of queued writes and the position after them, in one transaction.
//!
//! If the position were moved before the rows, a crash would skip writes. If it were moved after them, a crash would repeat them.
//! One transaction does neither, and the comparison of the position stops a second flusher before it has touched a row.
//!
//! 1. The plain way: move the position by compare-and-set, then delete, insert and change rows. Of several writes of a row only
//!    the last one is sent (`last_writes`). The first statement locks the position, so that flushers of one partition wait for
//!    each other.
//! 2. If the database refuses a row (`row_error`), the careful way: the same transaction again, but one part of the batch after
//!    the other, each with a savepoint. After a refusal the parts are smaller, until the refused write is alone. It becomes a
//!    dead letter in the same transaction (`letters`). After several accepted parts they grow again (`parts`). When a transaction
//!    has used its share of statements, what was decided is committed, and the rest gets another transaction.
//! 3. If the database refuses at the commit, or ends the transaction with the refusal, a savepoint cannot hold it. Then each part
//!    has a transaction of its own.
//! 4. In each of these ways the written rows are read back, to be compared with what was to be written (`held`). The statement
//!    returns them. Where triggers of a later statement may change them, they are read at the end.
//!
//! Invariant: the careful ways leave in the table what the writes would leave there one by one, in their order. One thing
//! differs: a write is not refused if a later write of the same part has overwritten it.
//! Invariant: an error that is not about a row changes nothing, and no write becomes a dead letter because of it.
//! Not here: what one transaction does (`transaction`), the store, and when to try again (`flush`).

mod dead;
mod last_writes;
mod parts;
mod transaction;

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use sqlx::SqlStr;

use self::{parts::Pace, transaction::FlushTransaction};
use crate::{
    behind::{
        Batch,
        held::Held,
        row_error::{self, WrittenColumns},
    },
    database::{
        self, Database, backend::Backend, column::Role, dialect::Dialect, entity::Entity,
        open_transaction::OpenTransaction, stale_plan::Repetitions,
    },
};

/// What happens inside the transactions of a flush, and how long they get.
pub struct Hooks<'a> {
    /// Runs in each transaction before it commits.
    pub in_transaction: &'a (dyn Fn() + Send + Sync),
    /// After how many statements a transaction that splits its batch is committed.
    pub max_statements: u64,
}

/// What a flush did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The position that it moved to. It is that of the batch, unless a later transaction of it failed.
    pub to: u64,
    /// How many numbers up to there have no write.
    pub lost: u64,
    /// How many requests went to the database, those that begin and end transactions too.
    pub statements: u64,
    /// How many rows were deleted, inserted or changed.
    pub rows: u64,
    /// The writes that became dead letters, in the order of the queue.
    pub dead: Vec<Dead>,
    /// The writes whose row is, or may be, another one in the database than was written. Where rows are not compared, there
    /// are none.
    pub changed: Vec<u64>,
}

/// A write that became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its number in the queue.
    pub number: u64,
    /// Why the database refused it, or why it could not be read.
    pub error: String,
}

/// What a flush did, and what the database has returned of the rows that it has written.
pub(crate) struct Flushed<DB: Backend> {
    /// What it did. The saved rows are not compared yet, so they are not in `changed`.
    pub(crate) applied: Applied,
    /// The saved rows as the database holds them.
    pub(crate) held: Vec<Held<DB>>,
    /// The writes of the current transaction whose rows are still to be read.
    unread: Vec<u64>,
}

impl<DB: Backend> Flushed<DB> {
    fn nothing(to: u64, lost: u64) -> Self {
        Self {
            applied: Applied {
                to,
                lost,
                ..Applied::default()
            },
            held: Vec::new(),
            unread: Vec::new(),
        }
    }
}

impl<DB: Backend> Deref for Flushed<DB> {
    type Target = Applied;

    fn deref(&self) -> &Applied {
        &self.applied
    }
}

impl<DB: Backend> DerefMut for Flushed<DB> {
    fn deref_mut(&mut self) -> &mut Applied {
        &mut self.applied
    }
}

/// Why a batch was not applied.
#[derive(Debug)]
pub enum ApplyError {
    /// The position is another one, because a second flusher was faster, or the incarnation was closed or opened. Nothing was
    /// applied.
    Overtaken,
    /// The database failed. Nothing is known to be applied, but a commit may have reached it whose reply was lost. The position
    /// shows whether it did.
    Failed(sqlx::Error),
    /// The table of dead letters was created by an earlier version and lacks a column. Nothing was applied.
    Outdated(sqlx::Error),
}

/// Why a transaction was not committed.
enum TxError {
    ApplyError(ApplyError),
    /// The database refused a row.
    Refused(String),
}

/// How a transaction treats its writes.
enum ApplyMode<'r> {
    /// All together.
    Bulk,
    /// Part by part, each with a savepoint, until the transaction has used its share of statements.
    Bisect(&'r mut Pace),
    /// Not at all: they become dead letters for this reason.
    DeadLetter(&'r str),
}

/// About how many statements a transaction of the careful way may have. It holds the position and its rows, for which others
/// wait.
pub(crate) const MAX_STATEMENTS: u64 = 256;

impl Default for Hooks<'_> {
    fn default() -> Self {
        Self {
            in_transaction: &|| (),
            max_statements: MAX_STATEMENTS,
        }
    }
}

impl fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl<E: Entity> fmt::Debug for Batch<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("place", &self.place)
            .field("from", &self.from)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> Database<E, DB> {
    /// Applies a batch.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves no transaction open. The position shows whether one was committed.
    pub(crate) async fn apply_queued(
        &self,
        batch: &Batch<'_, E>,
        hooks: &Hooks<'_>,
    ) -> Result<Flushed<DB>, ApplyError> {
        let flush = Flush {
            database: self,
            hooks,
        };
        let mut applied = Flushed::nothing(batch.from, 0);
        let mut done = flush.transact(batch, ApplyMode::Bulk, &mut applied).await;
        if let Err(TxError::Refused(_)) = done {
            done = flush.apply_carefully(batch, &mut applied).await;
        }
        if let Err(TxError::Refused(_)) = done {
            done = flush.apply_in_parts(batch, &mut applied).await;
        }
        match done {
            Ok(()) => Ok(applied),
            // The next flush continues from there, and fails in the same way if the cause remains.
            Err(_) if applied.to > batch.from => Ok(applied),
            Err(TxError::ApplyError(unapplied)) => Err(unapplied),
            Err(TxError::Refused(error)) => Err(ApplyError::Failed(sqlx::Error::Protocol(error))),
        }
    }
}

/// A batch on its way through the three ways.
struct Flush<'a, E: Entity, DB: Backend> {
    database: &'a Database<E, DB>,
    hooks: &'a Hooks<'a>,
}

impl<E: Entity, DB: Backend> Flush<'_, E, DB> {
    /// Applies what is left of a batch in transactions of the careful way.
    async fn apply_carefully(
        &self,
        batch: &Batch<'_, E>,
        applied: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        // The whole batch was refused.
        let mut pace = Pace::after_refusal_of(batch.writes.len());
        while applied.to < batch.to {
            let rest = batch.between(applied.to, batch.to);
            self.transact(&rest, ApplyMode::Bisect(&mut pace), applied)
                .await?;
        }
        Ok(())
    }

    /// Applies what is left of a batch in parts that have transactions of their own. A write that is refused alone becomes a dead
    /// letter.
    async fn apply_in_parts(
        &self,
        batch: &Batch<'_, E>,
        applied: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        let left = batch.between(applied.to, batch.to).writes.len();
        let mut pace = Pace::after_refusal_of(left);
        while applied.to < batch.to {
            let rest = batch.between(applied.to, batch.to);
            let part = rest.of_the_first(pace.size);
            match self.transact(&part, ApplyMode::Bulk, applied).await {
                Err(TxError::Refused(error)) if part.writes.len() <= 1 => {
                    self.transact(&part, ApplyMode::DeadLetter(&error), applied)
                        .await?;
                    pace.refused();
                }
                Err(TxError::Refused(_)) => pace.refused(),
                done => {
                    done?;
                    pace.taken();
                }
            }
        }
        Ok(())
    }

    /// Runs one transaction, and runs it again if a statement was prepared before its table was altered.
    async fn transact(
        &self,
        batch: &Batch<'_, E>,
        mut mode: ApplyMode<'_>,
        applied: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        let mut repetitions = Repetitions::on(&self.database.pool);
        loop {
            match self.attempt(batch, &mut mode, applied).await {
                Err(TxError::ApplyError(ApplyError::Failed(error)))
                    if repetitions.allow(&error) => {}
                done => return done,
            }
        }
    }

    /// Runs one transaction. Its rows and dead letters are added to `applied` only if it was committed.
    async fn attempt(
        &self,
        batch: &Batch<'_, E>,
        mode: &mut ApplyMode<'_>,
        applied: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        let bounds = DB::DIALECT.flush();
        let mut done = Flushed::nothing(batch.to, batch.lost);
        let begin = SqlStr::from_static(bounds.begin);
        let open = OpenTransaction::begin(&self.database.pool, Some(begin), None, bounds.reset);
        let open = open.await;
        let mut open = open.map_err(TxError::failed)?;
        done.statements += 2;
        open.statements().begin();
        let mut transaction = FlushTransaction {
            database: self.database,
            hooks: self.hooks,
            connection: open.connection(),
            batch,
            done: &mut done,
        };
        let written = transaction.run(mode).await;
        open.statements().end();
        let ended = match written {
            Ok(()) => open
                .commit()
                .await
                .map_err(|error| TxError::of_statement(self.database, error)),
            Err(stop) => {
                // A refusal may have ended the transaction.
                database::restart_if_rolled_back::<DB>(open.connection(), 0).await;
                if let Err(error) = open.rollback().await {
                    tracing::debug!(%error, "a flush could not be rolled back; the database has done it, or its connection is lost");
                }
                Err(stop)
            }
        };
        done.statements += u64::from(DB::DIALECT == Dialect::MySql);
        if let Err(error) = open.reset().await {
            tracing::debug!(%error, "the connection of a flush is lost");
        }
        applied.statements += done.statements;
        if ended.is_ok() {
            applied.to = done.to;
            applied.lost += done.lost;
            applied.rows += done.rows;
            applied.dead.append(&mut done.dead);
            applied.changed.append(&mut done.changed);
            applied.held.append(&mut done.held);
        }
        ended
    }
}

impl TxError {
    /// An error that is not about a row.
    fn failed(error: sqlx::Error) -> Self {
        Self::ApplyError(ApplyError::Failed(error))
    }

    /// Returns what an error of a statement on the user's rows means.
    fn of_statement<E: Entity, DB: Backend>(
        database: &Database<E, DB>,
        error: sqlx::Error,
    ) -> Self {
        let columns = database.columns.iter();
        let given = WrittenColumns {
            table: E::SPEC.table,
            columns: columns
                .filter(|column| column.role != Role::Generated)
                .map(|column| column.name)
                .collect(),
        };
        if row_error::is_about_a_row(&error, &given) {
            Self::Refused(match error.as_database_error() {
                Some(row_error) => row_error.message().to_owned(),
                None => error.to_string(),
            })
        } else {
            Self::failed(error)
        }
    }
}
