//! One flush in the database: a batch of queued writes and the position behind them, in one transaction.
//!
//! A position that is moved before the rows skips writes after a crash, and one that is moved after them repeats them. Both
//! in one transaction do neither, and the comparison of the position stops a second flusher before it has touched a row.
//!
//! 1. The plain way: move the position by compare-and-set, delete, insert or change; of several images of a row only the
//!    last one (`coalesce`). Its first statement locks the position, so that flushers of one partition wait for each other.
//! 2. If the database refuses a row (`row_error`), the careful way: the same transaction anew, but one part of the batch after
//!    the other, each behind a savepoint. After a refusal parts are smaller, until the write that is refused stands alone; it
//!    becomes a dead letter in the same transaction (`letters`). After some that were taken they grow again (`Pace`). When a
//!    transaction has taken its share of statements, what was decided is committed, and the rest has another one.
//! 3. If the database refuses at the commit, or ends the transaction with the refusal, a savepoint cannot hold it: then each
//!    part has a transaction of its own.
//! 4. Whatever the way, the rows that were written are read back with the statement, or at the end where triggers of a later one
//!    may change them, to be compared with what was to be written (`held`).
//!
//! Invariant: what the careful ways leave in the table is what the writes would leave there one by one, in their order, but
//! that a write does not die of a refusal that a later write of the same part has made pointless.
//! Invariant: an error that is not about a row changes nothing, and no write dies of it.
//! Not here: the store, and when to try again (`flush`).

use std::{
    collections::{HashMap, HashSet},
    fmt, iter,
    ops::{Deref, DerefMut},
};

use sqlx::SqlStr;

use crate::{
    behind::{
        Batch, Image, Queued, canonical,
        held::Held,
        letters::{self, Found, Letter},
        offsets,
        row_error::{self, WrittenColumns},
    },
    database::{
        self, Database, backend::Backend, column::Role, dialect::Dialect, entity::Entity,
        open_transaction::OpenTransaction, tables,
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
    /// Why.
    pub error: String,
}

/// What a flush did, and what it was told of the rows that it has written.
pub(crate) struct Flushed<DB: Backend> {
    /// What it did. Of the rows that were saved, `changed` does not tell yet.
    pub(crate) applied: Applied,
    /// What tells it.
    pub(crate) held: Vec<Held<DB>>,
    /// The writes of a transaction that is not over whose rows are still to be read.
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
    /// The position is another one: a second flusher was faster, or the incarnation has been closed or opened. Nothing was
    /// applied.
    Overtaken,
    /// The database failed, and nothing is known to be applied; but a commit may have reached it whose answer was lost. The
    /// position tells.
    Failed(sqlx::Error),
    /// The table of dead letters was made by an earlier version, and lacks a column. Nothing was applied.
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
    /// All at once.
    Bulk,
    /// Part by part, behind savepoints, until its share of statements is used up.
    Bisect(&'r mut Pace),
    /// Not at all: they become dead letters, because of this.
    DeadLetter(&'r str),
}

/// How many statements a transaction of the careful way may have, about: it holds the position and its rows while others wait.
pub(crate) const MAX_STATEMENTS: u64 = 256;

/// Why the writes of a closed incarnation die.
const TOO_LATE: &str = "the queue was closed before this write was read from it: the store had been away, or had lost its memory, and came \
     back with it";
/// Why a write dies that the database accepted and did not make.
const NOT_THERE: &str = "the database accepted the write and did not make it: a trigger suppressed it, the table holds its id in another \
     spelling, or another unique key holds its row off";

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
    /// Dropping the future leaves no transaction open; whether one was committed, the position tells.
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
            // What is left is met again by whoever goes on from there.
            Err(_) if applied.to > batch.from => Ok(applied),
            Err(TxError::ApplyError(unapplied)) => Err(unapplied),
            Err(TxError::Refused(error)) => Err(ApplyError::Failed(sqlx::Error::Protocol(error))),
        }
    }
}

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
        // The whole has been refused.
        let mut pace = Pace::after_refusal_of(batch.writes.len());
        while applied.to < batch.to {
            let rest = batch.between(applied.to, batch.to);
            self.transact(&rest, ApplyMode::Bisect(&mut pace), applied)
                .await?;
        }
        Ok(())
    }

    /// Applies what is left of a batch in parts that have transactions of their own, and puts aside what is refused alone.
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

    /// Runs one transaction. Only if it was committed are its rows and dead letters added.
    async fn transact(
        &self,
        batch: &Batch<'_, E>,
        way: ApplyMode<'_>,
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
        let written = self.run(open.connection(), batch, way, &mut done).await;
        open.statements().end();
        let ended = match written {
            Ok(()) => open.commit().await.map_err(|error| self.stop(error)),
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

    /// What a transaction does between its beginning and its commit.
    async fn run(
        &self,
        connection: &mut DB::Connection,
        batch: &Batch<'_, E>,
        way: ApplyMode<'_>,
        done: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        done.statements += 1;
        let moved = offsets::advance::<DB>(
            connection,
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
        for write in batch.writes {
            match (&way, &write.image) {
                (ApplyMode::DeadLetter(reason), _) => dead.push((write, (*reason).to_owned())),
                _ if batch.lost_counted_to.is_some() => dead.push((write, TOO_LATE.to_owned())),
                (_, Image::Unreadable { reason, .. }) => {
                    dead.push((write, format!("it cannot be read: {reason}")));
                }
                (_, Image::Row(_) | Image::Deletion(_)) => readable.push(write),
            }
        }
        if let ApplyMode::Bisect(pace) = way {
            let parts = self.write_carefully(connection, batch, &readable, pace, done);
            let (refused, cut) = parts.await?;
            dead.extend(refused);
            if let Some(to) = cut {
                let decided = batch.between(batch.from, to);
                done.statements += 1;
                let shortened = offsets::cut_short::<DB>(
                    connection,
                    batch.place,
                    (batch.to, to),
                    batch.lost - decided.lost,
                );
                shortened.await.map_err(TxError::failed)?;
                (done.to, done.lost) = (to, decided.lost);
                dead.retain(|(write, _)| write.number <= to);
            }
            dead.sort_by_key(|(write, _)| write.number);
        } else {
            self.write(connection, batch.compares, &readable, done)
                .await?;
        }
        self.read_back(connection, batch, done).await?;
        self.count_loss(connection, batch, dead, done).await?;
        (self.hooks.in_transaction)();
        Ok(())
    }

    /// Reads the rows that triggers of later statements may have changed, now that there are no more.
    async fn read_back(
        &self,
        connection: &mut DB::Connection,
        batch: &Batch<'_, E>,
        done: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        let numbers = std::mem::take(&mut done.unread);
        let written = numbers.iter().filter_map(|number| {
            let at = batch
                .writes
                .binary_search_by_key(number, |write| write.number);
            batch.writes[at.ok()?].id()
        });
        let ids: Vec<_> = written.collect();
        if !ids.is_empty() {
            let read = self.database.select_ids(connection, &ids).await;
            let read = read.map_err(TxError::failed)?;
            done.statements += read.sent.statements;
            let rows = read.rows;
            done.held.push(Held { numbers, rows });
        }
        Ok(())
    }

    /// Puts writes aside as dead letters.
    async fn count_loss(
        &self,
        connection: &mut DB::Connection,
        batch: &Batch<'_, E>,
        dead: Vec<(&Queued<E>, String)>,
        done: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        let decided = batch.between(batch.from, done.to);
        let found = self.found(connection, &decided, &dead, done).await?;
        let letters: Vec<_> = dead
            .iter()
            .zip(found)
            .map(|((write, error), found)| Letter::new(self.database, write, batch, error, found))
            .collect();
        // A letter that is refused is no row of the user's.
        let inserted = letters::insert::<DB>(connection, batch.place, &letters, batch.now_ms).await;
        done.statements += inserted.map_err(|error| {
            TxError::ApplyError(if tables::is_missing_column(&error) {
                ApplyError::Outdated(error)
            } else {
                ApplyError::Failed(error)
            })
        })?;
        done.dead = dead
            .into_iter()
            .map(|(write, error)| Dead {
                number: write.number,
                error,
            })
            .collect();
        Ok(())
    }

    /// What the table holds of the rows of dead writes, now that the others have been made.
    async fn found(
        &self,
        connection: &mut DB::Connection,
        decided: &Batch<'_, E>,
        dead: &[(&Queued<E>, String)],
        done: &mut Flushed<DB>,
    ) -> Result<Vec<Found>, TxError> {
        if dead.is_empty() || decided.lost_counted_to.is_some() {
            // Writes that came too late: what followed them may be in the table already.
            return Ok(dead.iter().map(|_| Found::Unknown).collect());
        }
        let is_dead: HashSet<u64> = dead.iter().map(|(write, _)| write.number).collect();
        // Of each row that was written, the last write that was made.
        let mut made = HashMap::new();
        for write in decided.writes {
            if !is_dead.contains(&write.number) {
                made.insert(write.key.as_bytes(), write.number);
            }
        }
        let ids: Vec<_> = dead.iter().filter_map(|(write, _)| write.id()).collect();
        let read = self.rows_at(connection, &ids, done).await?;
        let rows = read.iter().map(self.database.binding.from_row);
        let rows: HashMap<_, _> = rows
            .filter_map(|row| {
                let row = row.ok()?;
                Some((canonical::of(&row.id()).ok()?, row))
            })
            .collect();
        let told = dead.iter().map(|(write, _)| {
            let Some(id) = write.id() else {
                return Found::Unknown;
            };
            let last = made.get(write.key.as_bytes());
            if last.is_some_and(|last| *last > write.number) {
                return Found::Later;
            }
            let row = canonical::of(&id).ok().map(|id| rows.get(&id));
            match row {
                Some(Some(row)) => Found::row(row),
                // One that was read under another spelling of its id, or not at all, may be this one.
                Some(None) if rows.len() == read.len() => Found::Nothing,
                _ => Found::Unknown,
            }
        });
        Ok(told.collect())
    }

    /// The rows at some ids. There is none at an id that the database refuses to look for: a text that it cannot hold, or a
    /// label that its enum does not have.
    async fn rows_at(
        &self,
        connection: &mut DB::Connection,
        ids: &[E::Id],
        done: &mut Flushed<DB>,
    ) -> Result<Vec<DB::Row>, TxError> {
        self.control(connection, LOOK, done).await?;
        let mut rows = Vec::new();
        // Each by itself, if not all can be looked for together.
        for part in iter::once(ids).chain(ids.chunks(1)) {
            match self.database.select_ids(connection, part).await {
                Ok(read) => {
                    done.statements += read.sent.statements;
                    rows.extend(read.rows);
                    if part.len() == ids.len() {
                        break;
                    }
                }
                Err(error) => match self.stop(error) {
                    TxError::Refused(_) => self.control(connection, UNDO_LOOK, done).await?,
                    stop => return Err(stop),
                },
            }
        }
        Ok(rows)
    }

    /// Applies writes in parts. Returns those that the database refuses, and the number up to which it came, if that is not
    /// the end.
    async fn write_carefully<'w>(
        &self,
        connection: &mut DB::Connection,
        batch: &Batch<'_, E>,
        writes: &[&'w Queued<E>],
        pace: &mut Pace,
        done: &mut Flushed<DB>,
    ) -> Result<(Vec<(&'w Queued<E>, String)>, Option<u64>), TxError> {
        let mut dead = Vec::new();
        let mut rest = writes;
        self.control(connection, DB::DIALECT.careful(), done)
            .await?;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(pace.size.min(rest.len()));
            let (rows, changed, held) = (done.rows, done.changed.len(), done.held.len());
            let unread = done.unread.len();
            match self.write(connection, batch.compares, part, done).await {
                Ok(()) => {
                    rest = behind;
                    pace.taken();
                    if !rest.is_empty() {
                        self.control(connection, NEXT_PART, done).await?;
                    }
                }
                Err(TxError::Refused(error)) => {
                    self.control(connection, UNDO_PART, done).await?;
                    done.rows = rows;
                    done.changed.truncate(changed);
                    done.held.truncate(held);
                    done.unread.truncate(unread);
                    if let [alone] = part {
                        dead.push((*alone, error));
                        rest = behind;
                    }
                    pace.refused();
                }
                Err(stop) => return Err(stop),
            }
            let decided = writes.len() - rest.len();
            if done.statements >= self.hooks.max_statements && decided > 0 && !rest.is_empty() {
                return Ok((dead, Some(writes[decided - 1].number)));
            }
        }
        Ok((dead, None))
    }

    /// Runs a statement about savepoints. One that the database refuses has gone with its transaction.
    async fn control(
        &self,
        connection: &mut DB::Connection,
        statement: &'static str,
        done: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        done.statements += 1;
        let run = DB::run(connection, SqlStr::from_static(statement)).await;
        run.map_err(|error| match error {
            sqlx::Error::Database(_) => TxError::Refused(error.to_string()),
            _ => TxError::failed(error),
        })
    }

    /// Applies writes at once.
    async fn write(
        &self,
        connection: &mut DB::Connection,
        compares: bool,
        writes: &[&Queued<E>],
        done: &mut Flushed<DB>,
    ) -> Result<(), TxError> {
        let effects = coalesce(writes);
        let (deletions, deleted): (Vec<_>, Vec<_>) = effects.deleted.into_iter().unzip();
        let (saves, saved): (Vec<_>, Vec<_>) = effects.saved.into_iter().unzip();
        if !deleted.is_empty() {
            let sent = self.database.delete_ids(connection, &deleted).await;
            let sent = sent.map_err(|error| self.stop(error))?;
            done.statements += sent.statements;
            done.rows += sent.rows;
            if compares && sent.rows < deleted.len() as u64 {
                // Which of them were not there, and which a trigger has kept, is not told.
                done.changed.extend(&deletions);
            }
        }
        if !saved.is_empty() {
            let upserted = self.database.upsert_rows(connection, &saved, compares);
            let upserted = upserted.await.map_err(|error| self.stop(error))?;
            let sent = upserted.sent;
            done.statements += sent.statements;
            done.rows += sent.rows;
            if sent.rows < saved.len() as u64 {
                return Err(TxError::Refused(NOT_THERE.to_owned()));
            }
            if upserted.is_unread {
                done.unread.extend(saves);
            } else if compares {
                done.held.push(Held {
                    numbers: saves,
                    rows: upserted.rows,
                });
            }
        }
        Ok(())
    }

    /// What an error of a statement on the user's rows means.
    fn stop(&self, error: sqlx::Error) -> TxError {
        let columns = self.database.columns.iter();
        let given = WrittenColumns {
            table: E::SPEC.table,
            columns: columns
                .filter(|column| column.role != Role::Generated)
                .map(|column| column.name)
                .collect(),
        };
        if row_error::is_about_a_row(&error, &given) {
            TxError::Refused(match error.as_database_error() {
                Some(row_error) => row_error.message().to_owned(),
                None => error.to_string(),
            })
        } else {
            TxError::failed(error)
        }
    }
}

impl TxError {
    fn failed(error: sqlx::Error) -> Self {
        Self::ApplyError(ApplyError::Failed(error))
    }
}

impl<'a, E: Entity> Batch<'a, E> {
    /// What of it is numbered behind `from` up to `to`. Numbers without a write that were counted once are not counted again.
    fn between(&self, from: u64, to: u64) -> Self {
        let first = self.writes.partition_point(|write| write.number <= from);
        let end = self.writes.partition_point(|write| write.number <= to);
        let counted = from.max(self.lost_counted_to.unwrap_or(0));
        let numbers = self.writes[first..end].iter();
        let found = numbers.filter(|write| write.number > counted).count() as u64;
        let lost = to.saturating_sub(counted).saturating_sub(found);
        Self {
            from,
            to,
            writes: &self.writes[first..end],
            // No more than were to be counted at all.
            lost: lost.min(self.lost),
            ..*self
        }
    }

    /// The first so many writes of it; its end, too, if these are all.
    fn of_the_first(&self, count: usize) -> Self {
        match self.writes.get(count.saturating_sub(1)) {
            Some(last) if count < self.writes.len() => self.between(self.from, last.number),
            _ => self.between(self.from, self.to),
        }
    }
}

/// How many writes are tried at once. Where refusals are dense one by one costs least, and where they are sparse few tries of
/// many.
#[derive(Clone, Copy, Debug)]
struct Pace {
    size: usize,
    /// How many parts of this size were taken.
    taken: u32,
}

impl Pace {
    /// How many parts have to be taken before larger ones are tried. If every second write is refused, it never happens.
    const TRUSTED: u32 = 4;

    fn after_refusal_of(size: usize) -> Self {
        let mut pace = Self { size, taken: 0 };
        pace.refused();
        pace
    }

    fn refused(&mut self) {
        *self = Self {
            size: (self.size / 2).max(1),
            taken: 0,
        };
    }

    fn taken(&mut self) {
        self.taken += 1;
        if self.taken == Self::TRUSTED {
            *self = Self {
                size: self.size.saturating_mul(2),
                taken: 0,
            };
        }
    }
}

/// What a number of writes makes of the table, each with the number of its write.
struct Effects<'a, E: Entity> {
    deleted: Vec<(u64, E::Id)>,
    saved: Vec<(u64, &'a E)>,
}

/// What writes make of the table: of each row the last image wins.
fn coalesce<'a, E: Entity>(writes: &[&'a Queued<E>]) -> Effects<'a, E> {
    let mut effects: Effects<'a, E> = Effects {
        deleted: Vec::new(),
        saved: Vec::new(),
    };
    for write in last_write_per_row(writes, |write| write.key.as_bytes()) {
        match &write.image {
            Image::Row(row) => effects.saved.push((write.number, row)),
            Image::Deletion(id) => effects.deleted.push((write.number, id.clone())),
            Image::Unreadable { .. } => {}
        }
    }
    effects
}

/// The last write of each key, shorter keys before longer ones and otherwise in the order of their bytes, which
/// is that of numbers: two transactions that lock the same rows lock them in one order, and rows that stand together in the
/// table are written together.
fn last_write_per_row<'a, T>(writes: &[&'a T], key: fn(&T) -> &[u8]) -> Vec<&'a T> {
    let mut last = writes.to_vec();
    last.reverse();
    // Stable, so that the winner of a key stays the first of it, and the first is what is kept.
    last.sort_by(|one, other| {
        let (one, other) = (key(one), key(other));
        one.len().cmp(&other.len()).then_with(|| one.cmp(other))
    });
    last.dedup_by(|one, other| key(one) == key(other));
    last
}

/// Keeps what was done behind the savepoint, and begins another one.
const NEXT_PART: &str = "RELEASE SAVEPOINT larder_part; SAVEPOINT larder_part";
/// Takes back what was done behind the savepoint, which stays.
const UNDO_PART: &str = "ROLLBACK TO SAVEPOINT larder_part";

/// What was refused to be looked for takes nothing along.
const LOOK: &str = "SAVEPOINT larder_look";
const UNDO_LOOK: &str = "ROLLBACK TO SAVEPOINT larder_look";

/// How the transaction of a flush begins, and what puts its session in order again.
struct Bounds {
    begin: &'static str,
    reset: Option<SqlStr>,
}

impl Dialect {
    /// The beginning of a flush: in the same round trip the database is told to end the transaction if its process stops or is
    /// cut off half-way, because it holds the position, for which all other flushers of the partition wait.
    const fn flush(self) -> Bounds {
        match self {
            Self::Postgres => Bounds {
                begin: "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '15s'; SET LOCAL statement_timeout = '120s'",
                reset: None,
            },
            // How long a statement may wait for a lock is bounded by the server.
            Self::MySql => Bounds {
                begin: "BEGIN; SET @larder_wait_timeout = @@SESSION.wait_timeout, SESSION wait_timeout = 15",
                reset: Some(SqlStr::from_static(
                    "SET SESSION wait_timeout = @larder_wait_timeout",
                )),
            },
            // It would read before it writes, and could not write if somebody else had meanwhile. A process that stops here
            // holds up the others, as it does wherever it writes to SQLite.
            Self::Sqlite => Bounds {
                begin: "BEGIN IMMEDIATE",
                reset: None,
            },
        }
    }

    /// The beginning of the careful way: constraints speak up at each statement, where a database can be told so.
    const fn careful(self) -> &'static str {
        match self {
            Self::Postgres => "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT larder_part",
            Self::MySql | Self::Sqlite => "SAVEPOINT larder_part",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn won(keys: &str) -> Vec<(char, usize)> {
        let writes: Vec<_> = (0..)
            .zip(keys.bytes())
            .map(|(at, key)| (at, [key]))
            .collect();
        let writes: Vec<&(usize, [u8; 1])> = writes.iter().collect();
        let last = last_write_per_row(&writes, |(_, key)| key);
        last.iter()
            .map(|(at, [key])| (char::from(*key), *at))
            .collect()
    }

    #[test]
    fn the_last_write_of_each_key_wins_in_the_order_of_the_keys() {
        assert_eq!(won("bacab"), [('a', 3), ('b', 4), ('c', 2)]);
        assert_eq!(won(""), []);
    }

    #[test]
    fn numbers_are_written_in_their_order() {
        let keys = ["i:10", "i:9", "i:100"];
        let keys: Vec<&&str> = keys.iter().collect();
        let last = last_write_per_row(&keys, |key| key.as_bytes());
        assert_eq!(last, [&"i:9", &"i:10", &"i:100"]);
    }

    /// How many tries it takes until all writes are decided, of which every n-th is refused.
    fn tries(writes: usize, every: usize) -> usize {
        let mut pace = Pace::after_refusal_of(writes);
        let (mut at, mut tries) = (0, 0);
        while at < writes {
            let size = pace.size.min(writes - at);
            tries += 1;
            if (at..at + size).any(|write| write % every == 0) {
                at += usize::from(size == 1);
                pace.refused();
            } else {
                at += size;
                pace.taken();
            }
        }
        tries
    }

    #[test]
    fn dense_refusals_are_met_one_by_one_and_sparse_ones_in_few_tries() {
        assert!(tries(1_000, 1) <= 1_010);
        assert!(tries(1_000, 2) <= 1_010);
        assert!(tries(1_000, 3) <= 1_010);
        assert!(tries(1_000, 10) <= 1_010);
        assert!(tries(1_000, 100) <= 350);
        assert!(tries(1_000, 1_000) <= 50);
    }
}
