//! Dead letters: writes that were acknowledged and that the database refuses for good.
//!
//! A write that no retry can help would hold up all that stand behind it; thrown away, it would be an acknowledged write that
//! is gone. So it is put aside, with the refusal, in the transaction that moves the queue past it (`insert`), and a person
//! decides: correct the cause and replay it, or discard it. With it goes what the table held of the row at that moment, as a
//! digest, so that a replay knows whether the row was written since (`replay`).
//!
//! Invariant: a letter holds what the queue held, in the codec that wrote it; a program that cannot read it can still list
//! it and discard it.
//! Not here: which writes die (`apply`).

use std::{
    fmt, iter,
    sync::Arc,
    time::{Duration, SystemTime},
};

use sqlx::Pool;

use crate::{
    behind::{Batch, Image, Queued, canonical, offsets::Place},
    database::{
        Database,
        backend::Backend,
        chunks,
        entity::Entity,
        tables::{self, Value},
    },
    error::Error,
    policy::Codec,
};

/// How many letters travel in one statement.
const LETTERS_AT_ONCE: usize = 100;
/// How much of a refusal is kept, in bytes.
const LONGEST_ERROR: usize = 2_000;
/// The number that no codec has: nothing could be written.
const NO_CODEC: u8 = 0;

/// A write that was acknowledged and that the database has refused, or that could not be read.
///
/// It stays until it is replayed or discarded.
pub struct DeadLetter<E: Entity> {
    queue: Arc<str>,
    part: u16,
    epoch: u64,
    number: u64,
    key: String,
    is_deletion: bool,
    content: Result<Content<E>, String>,
    error: String,
    died_at: SystemTime,
}

/// What was to be written.
enum Content<E: Entity> {
    Row(Arc<E>),
    Deletion(E::Id),
}

impl<E: Entity> DeadLetter<E> {
    /// The key of the row in the store, with its namespace and entity in front of the id.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The id of the row, unless the letter cannot be read.
    #[must_use]
    pub fn id(&self) -> Option<E::Id> {
        match self.content.as_ref().ok()? {
            Content::Row(row) => Some(row.id()),
            Content::Deletion(id) => Some(id.clone()),
        }
    }

    /// Whether the row was to be deleted, and not to be saved.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.is_deletion
    }

    /// The row that was to be saved; `None` for a deletion, and for a letter that cannot be read.
    #[must_use]
    pub fn row(&self) -> Option<&E> {
        match self.content.as_ref().ok()? {
            Content::Row(row) => Some(row),
            Content::Deletion(_) => None,
        }
    }

    /// Why the letter cannot be read, if so: another version of the program has written it. It cannot be replayed by this one.
    #[must_use]
    pub fn unreadable(&self) -> Option<&str> {
        self.content.as_ref().err().map(String::as_str)
    }

    /// Why it died, mostly in the words of the database.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.error
    }

    /// When it died, by the clock of the process that met the refusal.
    #[must_use]
    pub fn died_at(&self) -> SystemTime {
        self.died_at
    }

    /// The partition of the queue that it stood in.
    #[must_use]
    pub fn part(&self) -> u16 {
        self.part
    }

    /// The epoch of the queue's incarnation that it stood in.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its number in that incarnation. With [`DeadLetter::part`] and [`DeadLetter::epoch`] it names the letter.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What a replay puts into the queue again, unless the letter cannot be read.
    #[doc(hidden)]
    #[must_use]
    pub fn image(&self) -> Option<Image<E>> {
        Some(match self.content.as_ref().ok()? {
            Content::Row(row) => Image::Row(Arc::clone(row)),
            Content::Deletion(id) => Image::Deletion(id.clone()),
        })
    }

    fn place(&self) -> [Value<'_>; 4] {
        [
            Value::Text(&self.queue),
            Value::Integer(self.part.into()),
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
            self.part,
            self.epoch,
            self.number,
            E::SPEC.name,
            self.key
        )
    }
}

impl<E: Entity> fmt::Debug for DeadLetter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("key", &self.key)
            .field("part", &self.part)
            .field("epoch", &self.epoch)
            .field("number", &self.number)
            .field("is_deletion", &self.is_deletion)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// What the table held of a row when a write of it died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is not known.
    Unknown,
    /// No row.
    Nothing,
    /// A row, by its digest.
    Row(String),
    /// What a later write of the same batch had left.
    Later,
    /// A replay has begun, and nobody has said how it ended.
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

    /// As it is written in the table.
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
}

impl Letter {
    /// What becomes of a write that was refused. It is written with the codec of the batch; if that does not give it back,
    /// with one that does.
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
                ..
            } => {
                let error = shortened(error).to_owned();
                let payload = payload.clone();
                return Self::of(write, *is_deletion, *codec, *layout, payload, error, found);
            }
        };
        let mut error = shortened(error).to_owned();
        let (codec, payload) = match carried {
            Ok((codec, payload)) => (codec.number(), payload),
            Err(Ok(unlike)) => {
                error.push_str(
                    "; and its content is for people only, because no codec gives it back as it was",
                );
                (NO_CODEC, unlike)
            }
            Err(Err(failure)) => {
                error.push_str(&format!(
                    "; and its content is lost, because it cannot be encoded: {failure}"
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
        }
    }
}

impl Letter {
    /// How many bytes it has in a message to the database, about.
    fn size(&self) -> usize {
        self.payload.len() + self.key.len() + self.error.len() + 512
    }
}

/// Puts letters into the table, in the transaction that moves the queue past them. With how many statements.
pub(crate) async fn insert<DB: Backend>(
    connection: &mut DB::Connection,
    place: &Place,
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
            // What cannot be put aside must not be passed over either: the queue waits until the server takes it.
            let what = format!("the dead letter of write {}", first.number);
            chunks::check_size::<DB>(connection, &what, first.size()).await?;
        }
        let rows = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; letters.len()];
        let text = format!(
            "INSERT INTO larder_dead_letters \
             (queue, part, epoch, number, row_key, operation, codec, layout, payload, error, died_at, found) VALUES {}",
            rows.join(", ")
        );
        let values: Vec<_> = letters
            .iter()
            .flat_map(|letter| {
                [
                    Value::Text(&place.queue),
                    Value::Integer(place.part.into()),
                    Value::Integer(place.incarnation.epoch),
                    Value::Integer(letter.number),
                    Value::Text(&letter.key),
                    Value::Text(operation(letter.is_deletion)),
                    Value::Integer(letter.codec.into()),
                    Value::Integer(letter.layout.into()),
                    Value::Bytes(&letter.payload),
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

/// The dead letters of a queue, at most so many, in the order of partitions and of their places there. `layout` is the one
/// of this program's rows.
pub async fn list<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    layout: u32,
    limit: u32,
) -> Result<Vec<DeadLetter<E>>, Error> {
    let text = "SELECT part, epoch, number, row_key, operation, codec, layout, payload, error, died_at \
                FROM larder_dead_letters WHERE queue = ? ORDER BY part, epoch, number LIMIT ?";
    let values = [Value::Text(queue), Value::Integer(limit.into())];
    let name = Arc::<str>::from(queue);
    let rows = tables::fetch(pool, text, &values).await;
    rows.and_then(|rows| {
        rows.iter()
            .map(|row| read::<E, DB>(row, &name, layout))
            .collect()
    })
    .map_err(|error| failed::<DB>("load", queue, error))
}

/// Removes a letter. Whether it was there.
pub async fn discard<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    letter: &DeadLetter<E>,
) -> Result<bool, Error> {
    let text =
        "DELETE FROM larder_dead_letters WHERE queue = ? AND part = ? AND epoch = ? AND number = ?";
    match tables::execute(pool, text, &letter.place()).await {
        Ok(rows) => Ok(rows > 0),
        Err(error) => Err(failed::<DB>("discard", &letter.queue, error)),
    }
}

/// What the table held of the row when a letter died; `None` if the letter is not there any more.
pub(crate) async fn found<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    letter: &DeadLetter<E>,
) -> Result<Option<Found>, Error> {
    let text = "SELECT found FROM larder_dead_letters WHERE queue = ? AND part = ? AND epoch = ? AND number = ?";
    let rows = tables::fetch(pool, text, &letter.place()).await;
    let found = rows.and_then(|rows| {
        let row = rows.first();
        row.map(|row| tables::text::<DB>(row, 0).map(Found::from_text))
            .transpose()
    });
    found.map_err(|error| failed::<DB>("load", &letter.queue, error))
}

/// Notes of a letter what the table held of its row, if what is noted there is still this. Whether it was.
pub(crate) async fn note_found<E: Entity, DB: Backend>(
    pool: &Pool<DB>,
    letter: &DeadLetter<E>,
    (from, to): (&Found, &Found),
) -> Result<bool, Error> {
    let text = "UPDATE larder_dead_letters SET found = ? WHERE found = ? AND queue = ? AND part = ? AND epoch = ? AND number = ?";
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
) -> Result<DeadLetter<E>, sqlx::Error> {
    let number = |index| tables::number::<DB>(row, index);
    let is_deletion = tables::text::<DB>(row, 4)? == operation(true);
    let content = decode(
        is_deletion,
        number(5)?,
        number(6)? == u64::from(layout),
        &DB::bytes(row, 7)?,
    );
    Ok(DeadLetter {
        queue: Arc::clone(queue),
        part: u16::try_from(number(0)?).unwrap_or(u16::MAX),
        epoch: number(1)?,
        number: number(2)?,
        key: tables::text::<DB>(row, 3)?,
        is_deletion,
        content,
        error: tables::text::<DB>(row, 8)?,
        died_at: SystemTime::UNIX_EPOCH + Duration::from_millis(number(9)?),
    })
}

/// Reads what was to be written. A codec that finds fields by position would take one field for another in a row of another
/// layout; one that names them finds what is still there, and a person looks at it before it is replayed.
fn decode<E: Entity>(
    is_deletion: bool,
    codec: u64,
    is_own_layout: bool,
    payload: &[u8],
) -> Result<Content<E>, String> {
    let known = u8::try_from(codec).ok().and_then(Codec::from_number);
    let codec = known.ok_or_else(|| {
        if codec == u64::from(NO_CODEC) {
            "no codec could carry its content when it died".to_owned()
        } else {
            format!("this program was built without codec {codec}, which wrote it")
        }
    })?;
    if codec.is_positional() && !is_own_layout {
        return Err(format!(
            "{codec:?} wrote it for another layout of the struct"
        ));
    }
    let decoded = if is_deletion {
        codec.decode(payload).map(Content::Deletion)
    } else {
        codec.decode(payload).map(|row| Content::Row(Arc::new(row)))
    };
    decoded.map_err(|error| format!("{codec:?} cannot read it: {error}"))
}

/// The operation as it is written in the table.
const fn operation(is_deletion: bool) -> &'static str {
    if is_deletion { "delete" } else { "save" }
}

fn shortened(error: &str) -> &str {
    &error[..error.floor_char_boundary(LONGEST_ERROR)]
}

fn failed<DB: Backend>(verb: &str, queue: &str, error: sqlx::Error) -> Error {
    tables::describe::<DB>(verb, &format!("dead letters of the queue {queue}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_refusal_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(LONGEST_ERROR);
        assert_eq!(shortened(&long).len(), LONGEST_ERROR);
        let odd = format!("a{long}");
        assert_eq!(shortened(&odd).len(), LONGEST_ERROR - 1);
    }
}
