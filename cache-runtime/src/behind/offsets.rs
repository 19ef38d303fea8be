//! How far each queue has been applied: the statements on `larder_offsets`.
//!
//! The database is the one place that knows it. A position that lay in the store would be lost with it, or come back older
//! than the rows, and writes would be applied twice.
//!
//! 1. [`register`] gives a queue its next incarnation, with the next epoch and a nonce of its own.
//! 2. `advance` moves its position, in the transaction that applies the writes.
//! 3. Both a flush that finds numbers missing between its writes (`advance`) and a process that remembers more of them than
//!    a closed incarnation had ([`count_lost`]) add to its count of lost writes; each number is added once.
//! 4. [`close`] ends it for good: what a store that was cut off still holds of it is never applied.
//!
//! Invariant: a position moves from the value that its mover has seen, or not at all.
//! Invariant: no two incarnations of a queue have one epoch, though rows of the table were deleted, as long as the store or a
//! dead letter knows the later one; and the nonce tells two claims to an epoch apart.
//! Not here: the tables themselves (`tables`), and what is done with the rows (`apply`).

#[cfg(any(feature = "metrics", feature = "tools"))]
use std::collections::HashMap;
use std::sync::Arc;

use sqlx::Pool;

use crate::{
    database::{
        backend::Backend,
        tables::{self, Value},
    },
    error::{Error, ErrorKind},
    protocol::{queue_position::Incarnation, token},
};

/// How many times a registration gives way to another one before something else must be wrong.
const MAX_RIVALS: usize = 1_000;

/// One incarnation of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueIncarnation {
    /// The name of the queue.
    pub queue: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// The incarnation.
    pub incarnation: Incarnation,
}

/// An incarnation that may have writes to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenIncarnation {
    /// The incarnation.
    pub incarnation: Incarnation,
    /// The number of the last write that was applied; zero before the first.
    pub position: u64,
}

impl QueueIncarnation {
    /// The values that tell the row, in the order of [`IS_PLACE`].
    fn values(&self) -> [Value<'_>; 3] {
        [
            Value::Text(&self.queue),
            Value::Integer(self.partition.into()),
            Value::Integer(self.incarnation.epoch),
        ]
    }

    fn what(&self) -> String {
        format!(
            "incarnation {} of partition {} of the queue {}",
            self.incarnation, self.partition, self.queue
        )
    }
}

/// What tells a row but for its nonce.
const IS_PLACE: &str = "queue = ? AND partition_no = ? AND epoch = ?";

/// The incarnations of a partition that are not closed, in the order of their epochs.
pub async fn open_incarnations<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    partition: u16,
) -> Result<Vec<OpenIncarnation>, Error> {
    let text = "SELECT epoch, nonce, position FROM larder_offsets \
                WHERE queue = ? AND partition_no = ? AND closed = 0 ORDER BY epoch";
    let values = [Value::Text(queue), Value::Integer(partition.into())];
    let rows = tables::fetch(pool, text, &values).await;
    rows.and_then(|rows| rows.iter().map(|row| open::<DB>(row, 0)).collect())
        .map_err(|error| failed::<DB>("load the positions of", queue, error))
}

/// The incarnations of all partitions that are not closed, each with its partition, in their order.
pub async fn open_of_queue<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
) -> Result<Vec<(u16, OpenIncarnation)>, Error> {
    let text = "SELECT partition_no, epoch, nonce, position FROM larder_offsets \
                WHERE queue = ? AND closed = 0 ORDER BY partition_no, epoch";
    let rows = tables::fetch(pool, text, &[Value::Text(queue)]).await;
    rows.and_then(|rows| {
        rows.iter()
            .map(|row| Ok((partition::<DB>(row, 0)?, open::<DB>(row, 1)?)))
            .collect()
    })
    .map_err(|error| failed::<DB>("load the positions of", queue, error))
}

/// The position of an incarnation, and whether it is closed; `None` if it was never registered.
pub async fn position_of<DB: Backend>(
    pool: &Pool<DB>,
    place: &QueueIncarnation,
) -> Result<Option<(u64, bool)>, Error> {
    let found = async {
        let row = find(pool, "position, closed", place).await?;
        row.map(|row| Ok((number::<DB>(&row, 0)?, number::<DB>(&row, 1)? != 0)))
            .transpose()
    };
    found
        .await
        .map_err(|error| tables::describe::<DB>("load the position of", &place.what(), error))
}

/// How many epochs the database can have given and forgotten: each is a start of the store, or of larder.
const MAX_FORGOTTEN: u64 = 1 << 20;

/// Returns an epoch that the store names, or zero if the database, which knows this one, cannot have given it.
pub(crate) fn plausible(known: u64, named: u64) -> u64 {
    match named.saturating_sub(known) > MAX_FORGOTTEN {
        true => 0,
        false => named,
    }
}

/// Returns whether the database can have given this epoch, though it may not know it any more.
pub(crate) async fn may_have_given<DB: Backend>(
    pool: &Pool<DB>,
    place: &QueueIncarnation,
) -> Result<bool, Error> {
    let known = async {
        let (queue, partition) = (&*place.queue, place.partition);
        last_epoch(pool, queue, partition).await
    };
    let known = known
        .await
        .map_err(|error| tables::describe::<DB>("look for", &place.what(), error))?;
    let epoch = place.incarnation.epoch;
    Ok(plausible(known, epoch) == epoch)
}

/// Gives a partition its next incarnation, with an epoch after `last`, which is the last one that the store knows.
pub async fn register<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    partition: u16,
    last: u64,
) -> Result<Incarnation, Error> {
    let registered = async {
        for _ in 0..MAX_RIVALS {
            if let Some(incarnation) = claim(pool, queue, partition, last).await? {
                return Ok(Some(incarnation));
            }
        }
        Ok(None)
    };
    let registered = registered
        .await
        .map_err(|error| failed::<DB>("register an incarnation of", queue, error))?;
    registered.ok_or_else(|| {
        Error::new(
            ErrorKind::Database,
            format!(
                "failed to register an incarnation of the queue {queue}: each epoch was taken by somebody else"
            ),
        )
    })
}

/// Claims the next epoch; `None` if another one was faster. An epoch is next if nothing is left of it or of a later one:
/// where rows were deleted, dead letters and the store may still name theirs.
async fn claim<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    partition: u16,
    last: u64,
) -> Result<Option<Incarnation>, sqlx::Error> {
    let known = last_epoch(pool, queue, partition).await?;
    let partition = Value::Integer(partition.into());
    let incarnation = Incarnation {
        epoch: known.max(plausible(known, last)).saturating_add(1),
        nonce: token::random(),
    };
    let text = "INSERT INTO larder_offsets (queue, partition_no, epoch, nonce, position, closed, lost, lost_counted_to) \
                VALUES (?, ?, ?, ?, 0, 0, 0, 0)";
    let nonce = nonce_text(incarnation);
    let values = [
        Value::Text(queue),
        partition,
        Value::Integer(incarnation.epoch),
        Value::Text(&nonce),
    ];
    match tables::execute(pool, text, &values).await {
        Ok(_) => Ok(Some(incarnation)),
        Err(sqlx::Error::Database(database_error)) if database_error.is_unique_violation() => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the last epoch of a partition that the database knows; zero if it knows none.
async fn last_epoch<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    partition: u16,
) -> Result<u64, sqlx::Error> {
    let partition = Value::Integer(partition.into());
    let text = "SELECT COALESCE(MAX(epoch), 0) FROM (\
                SELECT epoch FROM larder_offsets WHERE queue = ? AND partition_no = ? UNION ALL \
                SELECT epoch FROM larder_dead_letters WHERE queue = ? AND partition_no = ?) AS known";
    let place = [Value::Text(queue), partition, Value::Text(queue), partition];
    let rows = tables::fetch(pool, text, &place).await?;
    let known = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    number::<DB>(known, 0)
}

/// Closes an incarnation that stands at a position. Whether it was open and stood there.
pub async fn close<DB: Backend>(
    pool: &Pool<DB>,
    place: &QueueIncarnation,
    position: u64,
) -> Result<bool, Error> {
    let text = format!(
        "UPDATE larder_offsets SET closed = 1 WHERE {IS_PLACE} AND nonce = ? AND position = ? AND closed = 0"
    );
    let [queue, partition, epoch] = place.values();
    let nonce = nonce_text(place.incarnation);
    let values = [
        queue,
        partition,
        epoch,
        Value::Text(&nonce),
        Value::Integer(position),
    ];
    update(pool, &text, &values)
        .await
        .map_err(|error| tables::describe::<DB>("close", &place.what(), error))
}

/// Counts the writes of a closed incarnation that are lost behind its position, up to this one, unless they have been
/// counted. How many there were.
pub async fn count_lost<DB: Backend>(
    pool: &Pool<DB>,
    place: &QueueIncarnation,
    last: u64,
) -> Result<u64, Error> {
    let counted = async {
        loop {
            let Some(row) = find(pool, "position, lost_counted_to", place).await? else {
                return Ok(0);
            };
            let (position, lost_counted_to) = (number::<DB>(&row, 0)?, number::<DB>(&row, 1)?);
            let lost = last.saturating_sub(position.max(lost_counted_to));
            if lost == 0 {
                return Ok(0);
            }
            // Whoever changes them meanwhile raises them, so this ends.
            let text = format!(
                "UPDATE larder_offsets SET lost = lost + ?, lost_counted_to = ? \
                 WHERE {IS_PLACE} AND nonce = ? AND position = ? AND lost_counted_to = ?"
            );
            let [queue, partition, epoch] = place.values();
            let nonce = nonce_text(place.incarnation);
            let values = [
                Value::Integer(lost),
                Value::Integer(last),
                queue,
                partition,
                epoch,
                Value::Text(&nonce),
                Value::Integer(position),
                Value::Integer(lost_counted_to),
            ];
            if update(pool, &text, &values).await? {
                return Ok(lost);
            }
        }
    };
    counted
        .await
        .map_err(|error| tables::describe::<DB>("count what was lost of", &place.what(), error))
}

/// Returns how many writes of each partition were lost, of those that have lost any.
#[cfg(any(feature = "metrics", feature = "tools"))]
pub(crate) async fn lost_of_queue<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
) -> Result<HashMap<u16, u64>, Error> {
    let text = "SELECT partition_no, lost FROM larder_offsets WHERE queue = ? AND lost > 0";
    let rows = tables::fetch(pool, text, &[Value::Text(queue)]).await;
    let lost = rows.and_then(|rows| {
        let mut lost = HashMap::<u16, u64>::new();
        for row in &rows {
            *lost.entry(partition::<DB>(row, 0)?).or_default() += number::<DB>(row, 1)?;
        }
        Ok(lost)
    });
    lost.map_err(|error| failed::<DB>("load what was lost of", queue, error))
}

/// Up to which number [`count_lost`] has counted the writes of an incarnation; zero if it has not.
pub(crate) async fn counted_of<DB: Backend>(
    pool: &Pool<DB>,
    place: &QueueIncarnation,
) -> Result<u64, Error> {
    let found = async {
        let row = find(pool, "lost_counted_to", place).await?;
        row.map_or(Ok(0), |row| number::<DB>(&row, 0))
    };
    found
        .await
        .map_err(|error| tables::describe::<DB>("load what was lost of", &place.what(), error))
}

/// The names of the queues that have been registered and begin so.
pub async fn queues_like<DB: Backend>(pool: &Pool<DB>, family: &str) -> Result<Vec<String>, Error> {
    let text = "SELECT DISTINCT queue FROM larder_offsets ORDER BY queue";
    let rows = tables::fetch(pool, text, &[]).await;
    let names = rows.and_then(|rows| {
        let names = rows.iter().map(|row| tables::text::<DB>(row, 0));
        names.collect::<Result<Vec<_>, _>>()
    });
    let mut names = names.map_err(|error| failed::<DB>("look for", family, error))?;
    names.retain(|name| name.starts_with(family));
    Ok(names)
}

/// Moves the position of an incarnation, and adds to what it has lost. Whether it stood at `from` and was closed, or open,
/// as expected; of a closed one, `lost_counted_to` says up to which number its loss was counted, which is compared as well.
pub(crate) async fn advance<DB: Backend>(
    connection: &mut DB::Connection,
    place: &QueueIncarnation,
    from: u64,
    to: u64,
    lost: u64,
    lost_counted_to: Option<u64>,
) -> Result<bool, sqlx::Error> {
    let counted = lost_counted_to.map_or("", |_| " AND lost_counted_to = ?");
    let text = format!(
        "UPDATE larder_offsets SET position = ?, lost = lost + ? \
         WHERE {IS_PLACE} AND nonce = ? AND closed = ? AND position = ?{counted}"
    );
    let [queue, partition, epoch] = place.values();
    let nonce = nonce_text(place.incarnation);
    let mut values = vec![
        Value::Integer(to),
        Value::Integer(lost),
        queue,
        partition,
        epoch,
        Value::Text(&nonce),
        Value::Integer(lost_counted_to.is_some().into()),
        Value::Integer(from),
    ];
    values.extend(lost_counted_to.map(Value::Integer));
    Ok(tables::execute_within::<DB>(connection, &text, &values).await? > 0)
}

/// Takes back a part of what [`advance`] did before in the same transaction: the position, and so many of those it counted as
/// lost.
pub(crate) async fn cut_short<DB: Backend>(
    connection: &mut DB::Connection,
    place: &QueueIncarnation,
    (from, to): (u64, u64),
    lost: u64,
) -> Result<(), sqlx::Error> {
    let text = format!(
        "UPDATE larder_offsets SET position = ?, lost = lost - ? WHERE {IS_PLACE} AND nonce = ? AND position = ?"
    );
    let [queue, partition, epoch] = place.values();
    let nonce = nonce_text(place.incarnation);
    let values = [
        Value::Integer(to),
        Value::Integer(lost),
        queue,
        partition,
        epoch,
        Value::Text(&nonce),
        Value::Integer(from),
    ];
    tables::execute_within::<DB>(connection, &text, &values).await?;
    Ok(())
}

async fn find<DB: Backend>(
    pool: &Pool<DB>,
    columns: &str,
    place: &QueueIncarnation,
) -> Result<Option<DB::Row>, sqlx::Error> {
    let text = format!("SELECT {columns} FROM larder_offsets WHERE {IS_PLACE} AND nonce = ?");
    let [queue, partition, epoch] = place.values();
    let nonce = nonce_text(place.incarnation);
    let rows = tables::fetch(pool, &text, &[queue, partition, epoch, Value::Text(&nonce)]).await?;
    Ok(rows.into_iter().next())
}

/// Runs an update of one row. Whether it matched.
async fn update<DB: Backend>(
    pool: &Pool<DB>,
    text: &str,
    values: &[Value<'_>],
) -> Result<bool, sqlx::Error> {
    Ok(tables::execute(pool, text, values).await? > 0)
}

/// The nonce as it is written in the table, and in the names of the store.
fn nonce_text(incarnation: Incarnation) -> String {
    format!("{:016x}", incarnation.nonce)
}

/// Reads an epoch, a nonce and a position, from a column on.
fn open<DB: Backend>(row: &DB::Row, first: usize) -> Result<OpenIncarnation, sqlx::Error> {
    let nonce = tables::text::<DB>(row, first + 1)?;
    let nonce =
        u64::from_str_radix(&nonce, 16).map_err(|error| misread(first + 1, error.into()))?;
    Ok(OpenIncarnation {
        incarnation: Incarnation {
            epoch: number::<DB>(row, first)?,
            nonce,
        },
        position: number::<DB>(row, first + 2)?,
    })
}

fn partition<DB: Backend>(row: &DB::Row, index: usize) -> Result<u16, sqlx::Error> {
    let partition = number::<DB>(row, index)?;
    u16::try_from(partition).map_err(|error| misread(index, error.into()))
}

fn number<DB: Backend>(row: &DB::Row, index: usize) -> Result<u64, sqlx::Error> {
    tables::number::<DB>(row, index)
}

fn misread(index: usize, source: sqlx::error::BoxDynError) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: index.to_string(),
        source,
    }
}

fn failed<DB: Backend>(verb: &str, queue: &str, error: sqlx::Error) -> Error {
    tables::describe::<DB>(verb, &format!("the queue {queue}"), error)
}
