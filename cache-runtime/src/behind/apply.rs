//! One flush in the database: a batch of queued writes and the position behind them, in one transaction.
//!
//! A position that is moved before the rows skips writes after a crash, and one that is moved after them repeats them. Both
//! in one transaction do neither, and the comparison of the position stops a second flusher before it has touched a row.
//!
//! 1. The plain way: move the position by compare-and-set, delete, insert or change; of several images of a row only the
//!    last one (`coalesce`). Its first statement locks the position, so that flushers of one partition wait for each other.
//! 2. If the database refuses a row (`refusal`), the careful way: the same transaction anew, but each part of the batch
//!    behind a savepoint. A part that is refused is split in two, in the order of the queue, until the write that is refused
//!    stands alone; it becomes a dead letter in the same transaction (`letters`).
//! 3. If the database refuses at the commit, or ends the transaction with the refusal, a savepoint cannot hold it: then each
//!    write has a transaction of its own.
//!
//! Invariant: what the careful ways leave in the table is what the writes would leave there one by one, in their order, but
//! that a write does not die of a refusal that a later write of the same part has made pointless.
//! Invariant: an error that is not about a row changes nothing, and no write dies of it.
//! Not here: the store, and when to try again (`flush`).

use std::fmt;

use sqlx::SqlStr;

use crate::{
    backend::Backend,
    behind::{
        Image, Queued,
        letters::{self, Letter},
        offsets::{self, Place},
        refusal::{self, Given},
    },
    codec::Codec,
    column::Role,
    database::{self, Database},
    entity::Entity,
    open_transaction::OpenTransaction,
    statement::Dialect,
};

/// What a flush applies.
pub struct Batch<'a, E: Entity> {
    /// The incarnation of the queue.
    pub place: &'a Place,
    /// The position it is expected at.
    pub from: u64,
    /// The position it is moved to.
    pub to: u64,
    /// The writes in the order of the queue, numbered behind `from` up to `to`.
    pub writes: &'a [Queued<E>],
    /// How many numbers in between have no write: the store has lost them.
    pub lost: u64,
    /// Up to which number the loss of a closed incarnation has been counted. Its writes come too late, and all of them become
    /// dead letters.
    pub buried: Option<u64>,
    /// The codec that dead letters are written with.
    pub codec: Codec,
    /// The layout of the rows, for whoever reads them.
    pub layout: u32,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
}

/// What a test may see of a flush, and leave out.
pub struct Hooks<'a> {
    /// Runs in each transaction before it commits.
    pub in_transaction: &'a (dyn Fn() + Send + Sync),
    /// Whether the position is compared; without it a batch is applied by each flusher that has it.
    pub compares_position: bool,
    /// Whether the last image of a row wins; without it the first one does.
    pub keeps_order: bool,
}

/// What a flush did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many requests went to the database, those that begin and end transactions too.
    pub statements: u64,
    /// How many rows were deleted, inserted or changed.
    pub rows: u64,
    /// The writes that became dead letters, in the order of the queue.
    pub dead: Vec<Dead>,
}

/// A write that became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its number in the queue.
    pub number: u64,
    /// Why.
    pub error: String,
}

/// Why a batch was not applied.
#[derive(Debug)]
pub enum Unapplied {
    /// The position is another one: a second flusher was faster, or the incarnation has been closed or opened. Nothing was
    /// applied.
    Overtaken,
    /// The database failed. Mostly nothing was applied; but a commit may have reached it whose answer was lost, and of a
    /// batch whose writes had transactions of their own the first ones may have been applied. The position tells.
    Failed(sqlx::Error),
}

/// Why a transaction was not committed.
enum Stop {
    Unapplied(Unapplied),
    /// The database refused a row.
    Refused(String),
}

/// How a transaction treats its writes.
enum Way<'r> {
    /// All at once.
    Plain,
    /// Behind savepoints.
    Careful,
    /// Not at all: they become dead letters, because of this.
    Dead(&'r str),
}

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
            compares_position: true,
            keeps_order: true,
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
    ) -> Result<Applied, Unapplied> {
        let flush = Flush {
            database: self,
            hooks,
        };
        let mut applied = Applied::default();
        let mut done = flush.transact(batch, Way::Plain, &mut applied).await;
        if let Err(Stop::Refused(_)) = done {
            done = flush.transact(batch, Way::Careful, &mut applied).await;
        }
        if let Err(Stop::Refused(_)) = done {
            done = flush.apply_each(batch, &mut applied).await;
        }
        match done {
            Ok(()) => Ok(applied),
            Err(Stop::Unapplied(unapplied)) => Err(unapplied),
            Err(Stop::Refused(error)) => Err(Unapplied::Failed(sqlx::Error::Protocol(error))),
        }
    }
}

struct Flush<'a, E: Entity, DB: Backend> {
    database: &'a Database<E, DB>,
    hooks: &'a Hooks<'a>,
}

impl<E: Entity, DB: Backend> Flush<'_, E, DB> {
    /// Applies each write in a transaction of its own, or puts it aside in one.
    async fn apply_each(&self, batch: &Batch<'_, E>, applied: &mut Applied) -> Result<(), Stop> {
        let mut from = batch.from;
        let mut lost = batch.lost;
        for (at, write) in batch.writes.iter().enumerate() {
            let is_last = at + 1 == batch.writes.len();
            let alone = Batch {
                from,
                to: if is_last { batch.to } else { write.number },
                writes: std::slice::from_ref(write),
                lost,
                ..*batch
            };
            match self.transact(&alone, Way::Plain, applied).await {
                Err(Stop::Refused(error)) => {
                    self.transact(&alone, Way::Dead(&error), applied).await?;
                }
                done => done?,
            }
            (from, lost) = (alone.to, 0);
        }
        Ok(())
    }

    /// Runs one transaction. Only if it was committed are its rows and dead letters added.
    async fn transact(
        &self,
        batch: &Batch<'_, E>,
        way: Way<'_>,
        applied: &mut Applied,
    ) -> Result<(), Stop> {
        let bounds = DB::DIALECT.flush();
        let mut done = Applied::default();
        let begin = SqlStr::from_static(bounds.begin);
        let open = OpenTransaction::begin(&self.database.pool, Some(begin), None).await;
        let mut open = open.map_err(Stop::failed)?;
        done.statements += 2;
        open.statements().begin();
        let written = self.run(open.connection(), batch, way, &mut done).await;
        open.statements().end();
        let ended = match written {
            Ok(()) => open.commit().await.map_err(|error| self.stop(error)),
            Err(stop) => {
                // A refusal may have ended the transaction.
                database::reopen::<DB>(open.connection(), 0).await;
                if let Err(error) = open.rollback().await {
                    tracing::debug!(%error, "a flush could not be rolled back; the database has done it, or its connection is lost");
                }
                Err(stop)
            }
        };
        if let Some(reset) = bounds.reset {
            done.statements += 1;
            if let Err(error) = open.run(reset).await {
                tracing::debug!(%error, "the connection of a flush is lost");
            }
        }
        applied.statements += done.statements;
        if ended.is_ok() {
            applied.rows += done.rows;
            applied.dead.append(&mut done.dead);
        }
        ended
    }

    /// What a transaction does between its beginning and its commit.
    async fn run(
        &self,
        connection: &mut DB::Connection,
        batch: &Batch<'_, E>,
        way: Way<'_>,
        done: &mut Applied,
    ) -> Result<(), Stop> {
        done.statements += 1;
        let moved = offsets::advance::<DB>(
            connection,
            batch.place,
            batch.from,
            batch.to,
            batch.lost,
            batch.buried,
            self.hooks.compares_position,
        );
        if !moved.await.map_err(Stop::failed)? {
            return Err(Stop::Unapplied(Unapplied::Overtaken));
        }
        let mut readable = Vec::with_capacity(batch.writes.len());
        let mut dead = Vec::new();
        for write in batch.writes {
            match (&way, &write.image) {
                (Way::Dead(reason), _) => dead.push((write, (*reason).to_owned())),
                _ if batch.buried.is_some() => dead.push((write, TOO_LATE.to_owned())),
                (_, Image::Unreadable { reason, .. }) => {
                    dead.push((write, format!("it cannot be read: {reason}")));
                }
                (_, Image::Row(_) | Image::Deletion(_)) => readable.push(write),
            }
        }
        if let Way::Careful = way {
            let refused = self.write_carefully(connection, &readable, done).await?;
            dead.extend(refused);
            dead.sort_by_key(|(write, _)| write.number);
        } else {
            self.write(connection, &readable, done).await?;
        }
        let letters: Vec<_> = dead
            .iter()
            .map(|(write, error)| Letter::new(self.database, write, batch, error))
            .collect();
        // A letter that is refused is no row of the user's.
        let inserted = letters::insert::<DB>(connection, batch.place, &letters, batch.now_ms).await;
        done.statements += inserted.map_err(Stop::failed)?;
        done.dead = dead
            .into_iter()
            .map(|(write, error)| Dead {
                number: write.number,
                error,
            })
            .collect();
        (self.hooks.in_transaction)();
        Ok(())
    }

    /// Applies writes in parts, and returns those that the database refuses.
    async fn write_carefully<'w>(
        &self,
        connection: &mut DB::Connection,
        writes: &[&'w Queued<E>],
        done: &mut Applied,
    ) -> Result<Vec<(&'w Queued<E>, String)>, Stop> {
        let mut dead = Vec::new();
        // The last part is the next in the order of the queue. The whole has been refused, so it begins with halves.
        let mut parts = vec![writes];
        if writes.len() > 1 {
            split(&mut parts);
        }
        self.control(connection, DB::DIALECT.careful(), done)
            .await?;
        while let Some(&part) = parts.last() {
            let rows = done.rows;
            match self.write(connection, part, done).await {
                Ok(()) => {
                    parts.pop();
                    if !parts.is_empty() {
                        self.control(connection, NEXT_PART, done).await?;
                    }
                }
                Err(Stop::Refused(error)) => {
                    self.control(connection, UNDO_PART, done).await?;
                    done.rows = rows;
                    if let [alone] = part {
                        dead.push((*alone, error));
                        parts.pop();
                    } else {
                        split(&mut parts);
                    }
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(dead)
    }

    /// Runs a statement about savepoints. One that the database refuses has gone with its transaction.
    async fn control(
        &self,
        connection: &mut DB::Connection,
        statement: &'static str,
        done: &mut Applied,
    ) -> Result<(), Stop> {
        done.statements += 1;
        let run = DB::run(connection, SqlStr::from_static(statement)).await;
        run.map_err(|error| match error {
            sqlx::Error::Database(_) => Stop::Refused(error.to_string()),
            _ => Stop::failed(error),
        })
    }

    /// Applies writes at once.
    async fn write(
        &self,
        connection: &mut DB::Connection,
        writes: &[&Queued<E>],
        done: &mut Applied,
    ) -> Result<(), Stop> {
        let Effects { deleted, saved } = coalesce(writes, self.hooks.keeps_order);
        if !deleted.is_empty() {
            let sent = self.database.delete_ids(connection, &deleted).await;
            let sent = sent.map_err(|error| self.stop(error))?;
            done.statements += sent.statements;
            done.rows += sent.rows;
        }
        if !saved.is_empty() {
            let sent = self.database.upsert_rows(connection, &saved).await;
            let sent = sent.map_err(|error| self.stop(error))?;
            done.statements += sent.statements;
            done.rows += sent.rows;
            if sent.rows < saved.len() as u64 {
                return Err(Stop::Refused(NOT_THERE.to_owned()));
            }
        }
        Ok(())
    }

    /// What an error of a statement on the user's rows means.
    fn stop(&self, error: sqlx::Error) -> Stop {
        let columns = self.database.columns.iter();
        let given = Given {
            table: E::SPEC.table,
            columns: columns
                .filter(|column| column.role != Role::Generated)
                .map(|column| column.name)
                .collect(),
        };
        if refusal::is_about_a_row(&error, &given) {
            Stop::Refused(match error.as_database_error() {
                Some(refusal) => refusal.message().to_owned(),
                None => error.to_string(),
            })
        } else {
            Stop::failed(error)
        }
    }
}

impl Stop {
    fn failed(error: sqlx::Error) -> Self {
        Self::Unapplied(Unapplied::Failed(error))
    }
}

/// Replaces the next part by its halves, so that the first one comes first.
fn split<T>(parts: &mut Vec<&[T]>) {
    if let Some(part) = parts.pop() {
        let (first, second) = part.split_at(part.len() / 2);
        parts.push(second);
        parts.push(first);
    }
}

/// What a number of writes makes of the table.
struct Effects<'a, E: Entity> {
    deleted: Vec<E::Id>,
    saved: Vec<&'a E>,
}

/// What writes make of the table, if of each row the last image wins, or the first.
fn coalesce<'a, E: Entity>(writes: &[&'a Queued<E>], last_wins: bool) -> Effects<'a, E> {
    let mut effects: Effects<'a, E> = Effects {
        deleted: Vec::new(),
        saved: Vec::new(),
    };
    for write in winners(writes, |write| write.key.as_bytes(), last_wins) {
        match &write.image {
            Image::Row(row) => effects.saved.push(row),
            Image::Deletion(id) => effects.deleted.push(id.clone()),
            Image::Unreadable { .. } => {}
        }
    }
    effects
}

/// The last write of each key, or the first, shorter keys before longer ones and otherwise in the order of their bytes, which
/// is that of numbers: two transactions that lock the same rows lock them in one order, and rows that stand together in the
/// table are written together.
fn winners<'a, T>(writes: &[&'a T], key: fn(&T) -> &[u8], last_wins: bool) -> Vec<&'a T> {
    let mut winners = writes.to_vec();
    if last_wins {
        winners.reverse();
    }
    // Stable, so that the winner of a key stays the first of it, and the first is what is kept.
    winners.sort_by(|one, other| {
        let (one, other) = (key(one), key(other));
        one.len().cmp(&other.len()).then_with(|| one.cmp(other))
    });
    winners.dedup_by(|one, other| key(one) == key(other));
    winners
}

/// Keeps what was done behind the savepoint, and begins another one.
const NEXT_PART: &str = "RELEASE SAVEPOINT larder_part; SAVEPOINT larder_part";
/// Takes back what was done behind the savepoint, which stays.
const UNDO_PART: &str = "ROLLBACK TO SAVEPOINT larder_part";

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

    fn won(keys: &str, last_wins: bool) -> Vec<(char, usize)> {
        let writes: Vec<_> = (0..)
            .zip(keys.bytes())
            .map(|(at, key)| (at, [key]))
            .collect();
        let writes: Vec<&(usize, [u8; 1])> = writes.iter().collect();
        let winners = winners(&writes, |(_, key)| key, last_wins);
        winners
            .iter()
            .map(|(at, [key])| (char::from(*key), *at))
            .collect()
    }

    #[test]
    fn the_last_write_of_each_key_wins_in_the_order_of_the_keys() {
        assert_eq!(won("bacab", true), [('a', 3), ('b', 4), ('c', 2)]);
        assert_eq!(won("", true), []);
    }

    #[test]
    fn numbers_are_written_in_their_order() {
        let keys = ["i:10", "i:9", "i:100"];
        let keys: Vec<&&str> = keys.iter().collect();
        let winners = winners(&keys, |key| key.as_bytes(), true);
        assert_eq!(winners, [&"i:9", &"i:10", &"i:100"]);
    }

    #[test]
    fn without_the_order_of_the_queue_the_first_write_wins() {
        assert_eq!(won("bacab", false), [('a', 1), ('b', 0), ('c', 2)]);
    }

    /// Whatever is split, the parts that are left are the rest of the queue, the next one last.
    #[test]
    fn parts_stay_in_the_order_of_the_queue() {
        let writes: Vec<_> = (0..11).collect();
        let mut parts = vec![writes.as_slice()];
        let mut taken: Vec<i32> = Vec::new();
        while let Some(&part) = parts.last() {
            if part.len() > 1 {
                split(&mut parts);
            } else {
                taken.extend(parts.pop().expect("it was there"));
            }
        }
        assert_eq!(taken, writes);
    }
}
