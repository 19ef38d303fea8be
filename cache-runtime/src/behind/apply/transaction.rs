//! What one transaction of a flush does between its beginning and its commit.
//!
//! 1. It moves the position by compare-and-set. If another flusher was faster, it ends here.
//! 2. It applies the writes: together, or in parts with savepoints.
//! 3. It reads rows back that triggers may have changed, and makes dead letters of refused writes (`dead`).
//!
//! Invariant: the transaction keeps what it has done in `done`, and undoes it there when it undoes it in the database. Only after
//! the commit does it count.
//! Not here: how it begins and ends, and in which of its ways a batch is applied (`apply`).

use sqlx::SqlStr;

use super::{ApplyError, ApplyMode, Flushed, Hooks, TxError, last_writes::coalesce, parts::Pace};
use crate::{
    behind::{Batch, Image, Queued, held::Held, letters::unreadable, offsets},
    database::{Database, backend::Backend, dialect::Dialect, entity::Entity},
};

/// Why the writes of a closed incarnation become dead letters.
const TOO_LATE: &str = "the queue was closed before this write was read from it: the store had been away, or had lost its memory, and came \
     back with it";
/// Why a write becomes a dead letter that the database accepted and did not make.
const NOT_THERE: &str = "the database accepted the write and did not make it: a trigger suppressed it, the table holds its id in another \
     spelling, or another unique key holds its row off";

/// Keeps what was done since the savepoint, and sets another one.
const NEXT_PART: &str = "RELEASE SAVEPOINT larder_part; SAVEPOINT larder_part";
/// Undoes what was done since the savepoint. The savepoint stays.
const UNDO_PART: &str = "ROLLBACK TO SAVEPOINT larder_part";

/// An open transaction that applies a batch.
pub(super) struct FlushTransaction<'t, E: Entity, DB: Backend> {
    pub(super) database: &'t Database<E, DB>,
    pub(super) hooks: &'t Hooks<'t>,
    pub(super) connection: &'t mut DB::Connection,
    pub(super) batch: &'t Batch<'t, E>,
    /// What it has done so far.
    pub(super) done: &'t mut Flushed<DB>,
}

/// How the transaction of a flush begins, and how its session is reset afterwards.
pub(super) struct Bounds {
    pub(super) begin: &'static str,
    pub(super) reset: Option<SqlStr>,
}

impl<E: Entity, DB: Backend> FlushTransaction<'_, E, DB> {
    /// Moves the position, applies the writes, and makes dead letters of those that cannot be applied.
    pub(super) async fn run(&mut self, mode: &mut ApplyMode<'_>) -> Result<(), TxError> {
        let batch = self.batch;
        self.done.statements += 1;
        let moved = offsets::advance::<DB>(
            self.connection,
            batch.place,
            batch.from,
            batch.to,
            batch.lost,
            batch.lost_counted_to,
        );
        if !moved.await.map_err(TxError::failed)? {
            return Err(TxError::ApplyError(ApplyError::Overtaken));
        }
        let mut readable = Vec::with_capacity(batch.writes.len());
        let mut dead = Vec::new();
        let all_die = match &*mode {
            ApplyMode::DeadLetter(reason) => Some(*reason),
            _ if batch.lost_counted_to.is_some() => Some(TOO_LATE),
            _ => None,
        };
        for write in batch.writes {
            match (all_die, &write.image) {
                (Some(why), Image::Unreadable { reason, .. }) => {
                    dead.push((write, format!("{why}; {}", unreadable(reason))));
                }
                (Some(why), _) => dead.push((write, why.to_owned())),
                (None, Image::Unreadable { reason, .. }) => {
                    dead.push((write, unreadable(reason)));
                }
                (None, Image::Row(_) | Image::Deletion(_)) => readable.push(write),
            }
        }
        if let ApplyMode::Bisect(pace) = mode {
            let parts = self.write_carefully(&readable, pace);
            let (refused, cut) = parts.await?;
            dead.extend(refused);
            if let Some(to) = cut {
                let decided = batch.between(batch.from, to);
                self.done.statements += 1;
                let shortened = offsets::cut_short::<DB>(
                    self.connection,
                    batch.place,
                    (batch.to, to),
                    batch.lost - decided.lost,
                );
                shortened.await.map_err(TxError::failed)?;
                (self.done.to, self.done.lost) = (to, decided.lost);
                dead.retain(|(write, _)| write.number <= to);
            }
            dead.sort_by_key(|(write, _)| write.number);
        } else {
            self.write(&readable).await?;
        }
        self.read_back().await?;
        self.insert_letters(dead).await?;
        (self.hooks.in_transaction)();
        Ok(())
    }

    /// Reads the rows that triggers of later statements may have changed. There are no later statements now.
    async fn read_back(&mut self) -> Result<(), TxError> {
        let batch = self.batch;
        let numbers = std::mem::take(&mut self.done.unread);
        let written = numbers.iter().filter_map(|number| {
            let at = batch
                .writes
                .binary_search_by_key(number, |write| write.number);
            batch.writes[at.ok()?].id()
        });
        let ids: Vec<_> = written.collect();
        if !ids.is_empty() {
            let read = self.database.select_ids(self.connection, &ids).await;
            let read = read.map_err(TxError::failed)?;
            self.done.statements += read.sent.statements;
            let rows = read.rows;
            self.done.held.push(Held { numbers, rows });
        }
        Ok(())
    }

    /// Applies writes in parts. Returns those that the database refuses. If the transaction has used its share of statements before
    /// the end, it also returns the number up to which the writes are decided.
    async fn write_carefully<'w>(
        &mut self,
        writes: &[&'w Queued<E>],
        pace: &mut Pace,
    ) -> Result<(Vec<(&'w Queued<E>, String)>, Option<u64>), TxError> {
        let mut dead = Vec::new();
        let mut rest = writes;
        self.control(DB::DIALECT.careful()).await?;
        while !rest.is_empty() {
            let (part, later) = rest.split_at(pace.size.min(rest.len()));
            let (rows, changed, held) = (
                self.done.rows,
                self.done.changed.len(),
                self.done.held.len(),
            );
            let unread = self.done.unread.len();
            match self.write(part).await {
                Ok(()) => {
                    rest = later;
                    pace.taken();
                    if !rest.is_empty() {
                        self.control(NEXT_PART).await?;
                    }
                }
                Err(TxError::Refused(error)) => {
                    self.control(UNDO_PART).await?;
                    self.done.rows = rows;
                    self.done.changed.truncate(changed);
                    self.done.held.truncate(held);
                    self.done.unread.truncate(unread);
                    if let [alone] = part {
                        dead.push((*alone, error));
                        rest = later;
                    }
                    pace.refused();
                }
                Err(stop) => return Err(stop),
            }
            let decided = writes.len() - rest.len();
            if self.done.statements >= self.hooks.max_statements && decided > 0 && !rest.is_empty()
            {
                return Ok((dead, Some(writes[decided - 1].number)));
            }
        }
        Ok((dead, None))
    }

    /// Runs a statement about savepoints. If the database refuses it, the transaction has ended, and the savepoint with it.
    pub(super) async fn control(&mut self, statement: &'static str) -> Result<(), TxError> {
        self.done.statements += 1;
        let run = DB::run(self.connection, SqlStr::from_static(statement)).await;
        run.map_err(|error| match error {
            sqlx::Error::Database(_) => TxError::Refused(error.to_string()),
            _ => TxError::failed(error),
        })
    }

    /// Applies writes together.
    async fn write(&mut self, writes: &[&Queued<E>]) -> Result<(), TxError> {
        let compares = self.batch.compares;
        let effects = coalesce(writes);
        let (deletions, deleted): (Vec<_>, Vec<_>) = effects.deleted.into_iter().unzip();
        let (saves, saved): (Vec<_>, Vec<_>) = effects.saved.into_iter().unzip();
        if !deleted.is_empty() {
            let sent = self.database.delete_ids(self.connection, &deleted).await;
            let sent = sent.map_err(|error| TxError::of_statement(self.database, error))?;
            self.done.statements += sent.statements;
            self.done.rows += sent.rows;
            if compares && sent.rows < deleted.len() as u64 {
                // The database does not report which of them were missing, and which a trigger has kept.
                self.done.changed.extend(&deletions);
            }
        }
        if !saved.is_empty() {
            let upserted = self.database.upsert_rows(self.connection, &saved, compares);
            let upserted = upserted
                .await
                .map_err(|error| TxError::of_statement(self.database, error))?;
            let sent = upserted.sent;
            self.done.statements += sent.statements;
            self.done.rows += sent.rows;
            if sent.rows < saved.len() as u64 {
                return Err(TxError::Refused(NOT_THERE.to_owned()));
            }
            if upserted.is_unread {
                self.done.unread.extend(saves);
            } else if compares {
                self.done.held.push(Held {
                    numbers: saves,
                    rows: upserted.rows,
                });
            }
        }
        Ok(())
    }
}

impl Dialect {
    /// Returns how a flush begins. In the same round trip it asks the database to end the transaction if this process stops or is
    /// cut off half-way, because the transaction holds the position, for which all other flushers of the partition wait.
    pub(super) const fn flush(self) -> Bounds {
        match self {
            Self::Postgres => Bounds {
                begin: "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '15s'; SET LOCAL statement_timeout = '120s'",
                reset: None,
            },
            // The server bounds how long a statement may wait for a lock.
            Self::MySql => Bounds {
                begin: "BEGIN; SET @larder_wait_timeout = @@SESSION.wait_timeout, SESSION wait_timeout = 15",
                reset: Some(SqlStr::from_static(
                    "SET SESSION wait_timeout = @larder_wait_timeout",
                )),
            },
            // A deferred transaction would read first, and could not write if another process had written meanwhile. A process
            // that stops here blocks the others, as in every transaction that writes to SQLite.
            Self::Sqlite => Bounds {
                begin: "BEGIN IMMEDIATE",
                reset: None,
            },
        }
    }

    /// Returns how the careful way begins. Where the database allows it, constraints are checked at each statement.
    const fn careful(self) -> &'static str {
        match self {
            Self::Postgres => "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT larder_part",
            Self::MySql | Self::Sqlite => "SAVEPOINT larder_part",
        }
    }
}
