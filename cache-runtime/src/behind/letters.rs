//! Dead letters: acknowledged writes that the database rejects permanently.
//!
//! A write that fails on every retry would block all later writes of its partition, and dropping it would lose an
//! acknowledged write. So the flush stores it as a dead letter, with the error, in the transaction that advances the
//! position (`insert`). A person then corrects the cause and replays it, or discards it. The letter also stores a
//! digest of the row that the table contained at that moment, so that a replay knows whether the row was written since
//! (`replay`).
//!
//! Invariant: a letter stores the payload of the queue, in the codec that wrote it. A program that cannot read it can
//! still list it and discard it.
//! Not here: which writes become dead letters (`apply`).

use std::{
    fmt, iter,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sqlx::Pool;

use crate::{
    behind::{
        Batch, Image, Queued, canonical,
        letter_seal::{Coded, LetterSeals, SealedPlace},
        offsets::QueueIncarnation,
    },
    database::{
        Database,
        backend::Backend,
        chunks,
        entity::Entity,
        tables::{self, Value},
    },
    error::Error,
    policy::Codec,
    printed::Printed,
    protocol::row_change::RowChange,
};

/// The maximum number of letters in one statement.
const LETTERS_AT_ONCE: usize = 100;
/// The maximum length of a stored error, in bytes.
const MAX_ERROR: usize = 2_000;
/// What is said of a write in a queue that larder has not stored: the reason begins with it, and the error of the letter has it.
pub(crate) const NOT_WRITTEN: &str = "not written by larder";
/// The number of no codec: none could encode the write.
const NO_CODEC: u8 = 0;

/// Returns the error of a queued write that cannot be read.
pub(crate) fn unreadable(reason: &str) -> String {
    format!("it cannot be read: {reason}")
}

/// An acknowledged write that the database has rejected, or that could not be read.
///
/// It stays in the table until it is replayed or discarded.
pub struct DeadLetter<E: Entity> {
    queue: Arc<str>,
    partition: u16,
    epoch: u64,
    number: u64,
    key: String,
    is_deletion: bool,
    content: Result<RowChange<Arc<E>, E::Id>, String>,
    error: String,
    failed_at: SystemTime,
}

impl<E: Entity> DeadLetter<E> {
    /// Returns the key of the row in the store: its namespace, its entity and its id.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the id of the row, or `None` if the letter cannot be read.
    #[must_use]
    pub fn id(&self) -> Option<E::Id> {
        match self.content.as_ref().ok()? {
            RowChange::Row(row) => Some(row.id()),
            RowChange::Deletion(id) => Some(id.clone()),
        }
    }

    /// Returns whether larder has not stored the write that the letter holds.
    #[cfg(feature = "redis")]
    pub(crate) fn is_forged(&self) -> bool {
        self.error.contains(&unreadable(NOT_WRITTEN))
    }

    /// Returns whether the write was a delete. Otherwise it was a save.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.is_deletion
    }

    /// Returns the row to save, or `None` for a delete and for a letter that cannot be read.
    #[must_use]
    pub fn row(&self) -> Option<&E> {
        match self.content.as_ref().ok()? {
            RowChange::Row(row) => Some(row),
            RowChange::Deletion(_) => None,
        }
    }

    /// Returns why this program cannot read the letter, or `None` if it can. Usually another version of the program has
    /// written it. This program cannot replay it.
    #[must_use]
    pub fn decode_error(&self) -> Option<&str> {
        self.content.as_ref().err().map(String::as_str)
    }

    /// Returns why the write was rejected, usually the error message of the database.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.error
    }

    /// Returns when the write was rejected, by the clock of the process that flushed it.
    #[must_use]
    pub fn failed_at(&self) -> SystemTime {
        self.failed_at
    }

    /// Returns the partition of the queue that contained the write.
    #[must_use]
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// Returns the epoch of the incarnation that contained the write.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the number of the write in that incarnation. [`DeadLetter::partition`], [`DeadLetter::epoch`] and the
    /// number together identify the letter.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the write that a replay queues again, or `None` if the letter cannot be read.
    #[doc(hidden)]
    #[must_use]
    pub fn image(&self) -> Option<Image<E>> {
        Some(match self.content.as_ref().ok()? {
            RowChange::Row(row) => Image::Row(Arc::clone(row)),
            RowChange::Deletion(id) => Image::Deletion(id.clone()),
        })
    }

    fn place(&self) -> [Value<'_>; 4] {
        [
            Value::Text(&self.queue),
            Value::Integer(self.partition.into()),
            Value::Integer(self.epoch),
            Value::Integer(self.number),
        ]
    }
}

/// For messages.
impl<E: Entity> fmt::Display for DeadLetter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the dead letter {}/{}/{} of {} with key {}",
            self.partition,
            self.epoch,
            self.number,
            E::SPEC.name,
            Printed::new(&self.key)
        )
    }
}

impl<E: Entity> fmt::Debug for DeadLetter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("key", &self.key)
            .field("partition", &self.partition)
            .field("epoch", &self.epoch)
            .field("number", &self.number)
            .field("is_deletion", &self.is_deletion)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// What the table contained of a row when a write of it was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Unknown.
    Unknown,
    /// No row.
    Nothing,
    /// A row, by its digest.
    Row(String),
    /// The result of a later write of the same batch.
    Later,
    /// A replay has begun, and its outcome is not recorded.
    Replayed,
}

impl Found {
    /// A row.
    pub(crate) fn row<E: Entity>(row: &E) -> Self {
        canonical::digest(row).map_or(Self::Unknown, Self::Row)
    }

    /// A row, or none.
    pub(crate) fn of<E: Entity>(row: Option<&E>) -> Self {
        row.map_or(Self::Nothing, Self::row)
    }

    /// Returns the value of the `found` column.
    fn text(&self) -> &str {
        match self {
            Self::Unknown => "",
            Self::Nothing => "none",
            Self::Row(digest) => digest,
            Self::Later => "later",
            Self::Replayed => "replayed",
        }
    }

    fn from_text(text: String) -> Self {
        match &*text {
            "" => Self::Unknown,
            "none" => Self::Nothing,
            "later" => Self::Later,
            "replayed" => Self::Replayed,
            _ => Self::Row(text),
        }
    }
}

/// A write on its way to the table.
pub(crate) struct Letter {
    number: u64,
    found: Found,
    key: String,
    is_deletion: bool,
    codec: u8,
    layout: u32,
    payload: Vec<u8>,
    error: String,
    /// Whether larder has stored the write in the queue.
    is_own: bool,
}

impl Letter {
    /// Returns the letter of a rejected write. It is encoded with the codec of the batch, or with another one if that
    /// codec does not reproduce it.
    pub(crate) fn new<E: Entity, DB: Backend>(
        database: &Database<E, DB>,
        write: &Queued<E>,
        batch: &Batch<'_, E>,
        error: &str,
        found: Found,
    ) -> Self {
        let codecs = || iter::once(batch.codec).chain(Codec::all());
        let (is_deletion, carried) = match &write.image {
            Image::Row(row) => {
                let carry = |codec| Some((codec, database.carry(codec, row).ok()?.bytes));
                let unlike = || batch.codec.encode(&**row);
                (false, codecs().find_map(carry).ok_or_else(unlike))
            }
            Image::Deletion(id) => {
                let carry = |codec| Some((codec, database.carry_id(codec, id).ok()?.bytes));
                let unlike = || batch.codec.encode(id);
                (true, codecs().find_map(carry).ok_or_else(unlike))
            }
            Image::Unreadable {
                is_deletion,
                codec,
                layout,
                payload,
                reason,
            } => {
                let error = shortened(error).to_owned();
                let payload = payload.clone();
                return Self {
                    is_own: !reason.starts_with(NOT_WRITTEN),
                    ..Self::of(write, *is_deletion, *codec, *layout, payload, error, found)
                };
            }
        };
        let mut error = shortened(error).to_owned();
        let (codec, payload) = match carried {
            Ok((codec, payload)) => (codec.number(), payload),
            Err(Ok(unlike)) => {
                error.push_str(
                    "; its content is for people only and cannot be replayed, because no codec reproduces it exactly",
                );
                (NO_CODEC, unlike)
            }
            Err(Err(failure)) => {
                error.push_str(&format!(
                    "; its content is lost, because it cannot be encoded: {failure}"
                ));
                (NO_CODEC, Vec::new())
            }
        };
        Self::of(
            write,
            is_deletion,
            codec,
            batch.layout,
            payload,
            error,
            found,
        )
    }

    fn of<E: Entity>(
        write: &Queued<E>,
        is_deletion: bool,
        codec: u8,
        layout: u32,
        payload: Vec<u8>,
        error: String,
        found: Found,
    ) -> Self {
        Self {
            number: write.number,
            found,
            key: write.key.to_string(),
            is_deletion,
            codec,
            layout,
            payload,
            error,
            is_own: true,
        }
    }
}

impl Letter {
    /// Returns its payload, sealed if it is larder's and there is a key.
    fn coded(&self, place: &QueueIncarnation, seals: LetterSeals<'_>) -> Coded {
        let own = SealedPlace {
            queue: &place.queue,
            partition: place.partition,
            epoch: place.incarnation.epoch,
            number: self.number,
            operation: operation(self.is_deletion),
            key: &self.key,
        };
        let sealed = self
            .is_own
            .then(|| seals.close(own, self.layout, self.codec, &self.payload));
        sealed.flatten().unwrap_or_else(|| Coded {
            codec: self.codec.into(),
            payload: self.payload.clone(),
        })
    }

    /// Returns its approximate size in a message to the database, in bytes.
    fn size(&self) -> usize {
        self.payload.len() + self.key.len() + self.error.len() + 512
    }
}

/// Inserts letters into the table, in the transaction that advances the position. Returns the number of statements.
pub(crate) async fn insert<DB: Backend>(
    connection: &mut DB::Connection,
    place: &QueueIncarnation,
    seals: LetterSeals<'_>,
    letters: &[Letter],
    now_ms: u64,
) -> Result<u64, sqlx::Error> {
    let mut statements = 0;
    let mut rest = letters;
    while let Some(first) = rest.first() {
        let mut bytes = first.size();
        let behind = rest[1..].iter().take(LETTERS_AT_ONCE - 1);
        let more = behind.take_while(|letter| {
            bytes += letter.size();
            bytes <= DB::DIALECT.most_bytes()
        });
        let letters;
        (letters, rest) = rest.split_at(1 + more.count());
        if letters.len() == 1 {
            // A write that cannot become a dead letter must not be skipped: the queue waits until the server accepts
            // it.
            let what = format!("the dead letter of write {}", first.number);
            chunks::check_size::<DB>(connection, &what, first.size()).await?;
        }
        let rows = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; letters.len()];
        let text = format!(
            "INSERT INTO larder_dead_letters \
             (queue, partition_no, epoch, number, row_key, operation, codec, schema_hash, payload, error, failed_at, found) VALUES {}",
            rows.join(", ")
        );
        let coded: Vec<_> = letters
            .iter()
            .map(|letter| letter.coded(place, seals))
            .collect();
        let values: Vec<_> = letters
            .iter()
            .zip(&coded)
            .flat_map(|(letter, coded)| {
                [
                    Value::Text(&place.queue),
                    Value::Integer(place.partition.into()),
                    Value::Integer(place.incarnation.epoch),
                    Value::Integer(letter.number),
                    Value::Text(&letter.key),
                    Value::Text(operation(letter.is_deletion)),
                    Value::Integer(coded.codec),
                    Value::Integer(letter.layout.into()),
                    Value::Bytes(&coded.payload),
                    Value::Text(&letter.error),
                    Value::Integer(now_ms),
                    Value::Text(letter.found.text()),
                ]
            })
            .collect();
        tables::execute_within::<DB>(connection, &text, &values).await?;
        statements += 1;
    }
    Ok(statements)
}

/// Returns at most `limit` dead letters of a queue, ordered by partition, epoch and number. `layout` is the fingerprint
/// of this program's rows.
pub async fn list<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    layout: u32,
    seals: LetterSeals<'_>,
    limit: u32,
) -> Result<Vec<DeadLetter<E>>, Error> {
    let text = "SELECT partition_no, epoch, number, row_key, operation, codec, schema_hash, payload, error, failed_at \
                FROM larder_dead_letters WHERE queue = ? ORDER BY partition_no, epoch, number LIMIT ?";
    let values = [Value::Text(queue), Value::Integer(limit.into())];
    load(pool, queue, layout, seals, text, &values).await
}

/// Returns the letter at a place, if there is one.
#[cfg(feature = "redis")]
pub(crate) async fn at<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    layout: u32,
    seals: LetterSeals<'_>,
    (partition, epoch, number): (u16, u64, u64),
) -> Result<Option<DeadLetter<E>>, Error> {
    let text = "SELECT partition_no, epoch, number, row_key, operation, codec, schema_hash, payload, error, failed_at \
                FROM larder_dead_letters WHERE queue = ? AND partition_no = ? AND epoch = ? AND number = ?";
    let values = [
        Value::Text(queue),
        Value::Integer(partition.into()),
        Value::Integer(epoch),
        Value::Integer(number),
    ];
    Ok(load(pool, queue, layout, seals, text, &values).await?.pop())
}

async fn load<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    layout: u32,
    seals: LetterSeals<'_>,
    text: &'static str,
    values: &[Value<'_>],
) -> Result<Vec<DeadLetter<E>>, Error> {
    let name = Arc::<str>::from(queue);
    let rows = tables::fetch(pool, text, values).await;
    rows.and_then(|rows| {
        rows.iter()
            .map(|row| read::<E, DB>(row, &name, layout, seals))
            .collect()
    })
    .map_err(|error| failed::<DB>("load", queue, error))
}

/// Returns how many dead letters a queue has.
#[cfg(feature = "metrics")]
pub(crate) async fn count<DB: Backend>(pool: &Pool<DB>, queue: &str) -> Result<u64, Error> {
    let text = "SELECT COUNT(*) FROM larder_dead_letters WHERE queue = ?";
    let rows = tables::fetch(pool, text, &[Value::Text(queue)]).await;
    let count = rows.and_then(|rows| {
        let count = rows.first().map(|row| tables::number::<DB>(row, 0));
        count.transpose()
    });
    count
        .map(Option::unwrap_or_default)
        .map_err(|error| failed::<DB>("count", queue, error))
}

/// Removes a letter. Returns whether it existed.
pub async fn discard<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    letter: &DeadLetter<E>,
) -> Result<bool, Error> {
    let place = (letter.partition, letter.epoch, letter.number);
    discard_at(pool, &letter.queue, place).await
}

/// As [`discard`], by the place of the letter: its partition, its epoch and its number.
pub(crate) async fn discard_at<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    (partition, epoch, number): (u16, u64, u64),
) -> Result<bool, Error> {
    let text = "DELETE FROM larder_dead_letters WHERE queue = ? AND partition_no = ? AND epoch = ? AND number = ?";
    let values = [
        Value::Text(queue),
        Value::Integer(partition.into()),
        Value::Integer(epoch),
        Value::Integer(number),
    ];
    match tables::execute(pool, text, &values).await {
        Ok(rows) => Ok(rows > 0),
        Err(error) => Err(failed::<DB>("discard", queue, error)),
    }
}

/// Returns what the table contained of the row when the write was rejected, or `None` if the letter no longer exists.
pub(crate) async fn found<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    letter: &DeadLetter<E>,
) -> Result<Option<Found>, Error> {
    let text = "SELECT found FROM larder_dead_letters WHERE queue = ? AND partition_no = ? AND epoch = ? AND number = ?";
    let rows = tables::fetch(pool, text, &letter.place()).await;
    let found = rows.and_then(|rows| {
        let row = rows.first();
        row.map(|row| tables::text::<DB>(row, 0).map(Found::from_text))
            .transpose()
    });
    found.map_err(|error| failed::<DB>("load", &letter.queue, error))
}

/// Replaces the `found` column of a letter, with compare-and-set. Returns whether it had the expected value.
pub(crate) async fn note_found<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    letter: &DeadLetter<E>,
    (from, to): (&Found, &Found),
) -> Result<bool, Error> {
    let text = "UPDATE larder_dead_letters SET found = ? WHERE found = ? AND queue = ? AND partition_no = ? AND epoch = ? AND number = ?";
    let mut values = vec![Value::Text(to.text()), Value::Text(from.text())];
    values.extend(letter.place());
    match tables::execute(pool, text, &values).await {
        Ok(rows) => Ok(rows > 0),
        Err(error) => Err(failed::<DB>("replay", &letter.queue, error)),
    }
}

fn read<E: Entity, DB: Backend>(
    row: &DB::Row,
    queue: &Arc<str>,
    layout: u32,
    seals: LetterSeals<'_>,
) -> Result<DeadLetter<E>, sqlx::Error> {
    let number = |index| tables::number::<DB>(row, index);
    let key = tables::text::<DB>(row, 3)?;
    let written = tables::text::<DB>(row, 4)?;
    let is_deletion = written == operation(true);
    let place = SealedPlace {
        queue,
        partition: u16::try_from(number(0)?).unwrap_or(u16::MAX),
        epoch: number(1)?,
        number: number(2)?,
        operation: &written,
        key: &key,
    };
    let coded = Coded {
        codec: number(5)?,
        payload: DB::bytes(row, 7)?,
    };
    let is_own_layout = number(6)? == u64::from(layout);
    let opened = seals.open(place, coded).map_err(str::to_owned);
    let content = opened
        .and_then(|Coded { codec, payload }| decode(is_deletion, codec, is_own_layout, &payload));
    Ok(DeadLetter {
        queue: Arc::clone(queue),
        partition: place.partition,
        epoch: place.epoch,
        number: place.number,
        key,
        is_deletion,
        content,
        error: tables::text::<DB>(row, 8)?,
        failed_at: SystemTime::UNIX_EPOCH + Duration::from_millis(number(9)?),
    })
}

/// Decodes the payload of a letter. A positional codec would confuse fields of another layout, so it reads only its
/// own. A codec with field names reads the fields that still exist, and a person looks at the row before replaying it.
fn decode<E: Entity>(
    is_deletion: bool,
    codec: u64,
    is_own_layout: bool,
    payload: &[u8],
) -> Result<RowChange<Arc<E>, E::Id>, String> {
    let known = u8::try_from(codec).ok().and_then(Codec::from_number);
    let codec = known.ok_or_else(|| {
        if codec == u64::from(NO_CODEC) {
            "no codec could carry its content when it was stored".to_owned()
        } else {
            format!("it was written with codec {codec}, which this program was built without")
        }
    })?;
    if codec.is_positional() && !is_own_layout {
        return Err(format!(
            "it was written with {codec:?} for another layout of the struct"
        ));
    }
    let decoded = if is_deletion {
        codec.decode(payload).map(RowChange::Deletion)
    } else {
        codec
            .decode(payload)
            .map(|row| RowChange::Row(Arc::new(row)))
    };
    decoded.map_err(|error| format!("{codec:?} cannot read it: {error}"))
}

/// Reads any payload as that of a dead letter. Returns whether it is one.
#[cfg(feature = "internal-faults")]
pub fn read_any<E: Entity>(is_deletion: bool, codec: u64, payload: &[u8]) -> bool {
    decode::<E>(is_deletion, codec, true, payload).is_ok()
}

/// Returns the value of the `operation` column.
const fn operation(is_deletion: bool) -> &'static str {
    if is_deletion { "delete" } else { "save" }
}

fn shortened(error: &str) -> &str {
    &error[..error.floor_char_boundary(MAX_ERROR)]
}

fn failed<DB: Backend>(verb: &str, queue: &str, error: sqlx::Error) -> Error {
    tables::describe::<DB>(verb, &format!("dead letters of the queue {queue}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_in_the_table_is_read_as_it_was_stored() {
        let digest = Found::Row("0123".to_owned());
        let all = [
            Found::Unknown,
            Found::Nothing,
            Found::Later,
            Found::Replayed,
            digest,
        ];
        for found in all {
            assert_eq!(Found::from_text(found.text().to_owned()), found);
        }
    }

    #[test]
    fn a_long_refusal_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(MAX_ERROR);
        assert_eq!(shortened(&long).len(), MAX_ERROR);
        let odd = format!("a{long}");
        assert_eq!(shortened(&odd).len(), MAX_ERROR - 1);
    }
}
