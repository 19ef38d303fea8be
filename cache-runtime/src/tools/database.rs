//! What tools read in the database of the rows: dead letters, and what was lost.
//!
//! A letter has the row as a codec wrote it. This program does not know the struct, so it can show a letter and discard it. To replay
//! one, call `dead_letters()` in a program that has the entity: it compares the row with what is in the table.
//!
//! Not here: how letters come into being (`behind::letters`).

use serde::Serialize;
use serde_json::{Value as Json, json};
use sqlx::Pool;

use super::{
    Tools,
    content::{printed, readable},
};
use crate::{
    behind::{
        letter_seal::{Coded, LetterSeals, SealedPlace},
        letters, offsets,
    },
    database::{
        backend::Backend,
        tables::{self, Value},
    },
    error::{Error, ErrorKind},
};

/// A database of one of the kinds that this program was built with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ToolDatabase {
    /// PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Pool<sqlx::Postgres>),
    /// MySQL and MariaDB.
    #[cfg(feature = "mysql")]
    MySql(Pool<sqlx::MySql>),
    /// SQLite.
    #[cfg(feature = "sqlite")]
    Sqlite(Pool<sqlx::Sqlite>),
}

macro_rules! with_pool {
    ($database:expr, $pool:ident => $call:expr) => {
        match $database {
            #[cfg(feature = "postgres")]
            ToolDatabase::Postgres($pool) => $call,
            #[cfg(feature = "mysql")]
            ToolDatabase::MySql($pool) => $call,
            #[cfg(feature = "sqlite")]
            ToolDatabase::Sqlite($pool) => $call,
        }
    };
}

/// Where a letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LetterPlace {
    /// The partition of the queue.
    pub partition: u16,
    /// The epoch of the incarnation.
    pub epoch: u64,
    /// The number of the write.
    pub number: u64,
}

/// A dead letter, as far as it can be read without its entity.
#[derive(Clone, Debug, Serialize)]
pub struct RawLetter {
    /// Where it is.
    #[serde(flatten)]
    pub place: LetterPlace,
    /// The key of the row.
    pub key: String,
    /// Whether the write was a delete.
    pub is_deletion: bool,
    /// The row, or the id of the row to delete.
    pub content: Json,
    /// Why it was rejected.
    pub error: String,
    /// When it was rejected, in milliseconds since 1970.
    pub failed_at_ms: u64,
}

impl ToolDatabase {
    /// Connects to the database at a URL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a URL of another kind of database. [`ErrorKind::Database`] if it cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let failed = |error| {
            let message = "failed to connect to the database";
            Error::with_source(ErrorKind::Database, message, error)
        };
        match url.split_once(':').map(|(scheme, _)| scheme) {
            #[cfg(feature = "postgres")]
            Some("postgres" | "postgresql") => {
                Ok(Self::Postgres(Pool::connect(url).await.map_err(failed)?))
            }
            #[cfg(feature = "mysql")]
            Some("mysql" | "mariadb") => Ok(Self::MySql(Pool::connect(url).await.map_err(failed)?)),
            #[cfg(feature = "sqlite")]
            Some("sqlite") => Ok(Self::Sqlite(Pool::connect(url).await.map_err(failed)?)),
            _ => Err(Error::new(
                ErrorKind::Configuration,
                "the URL of the database begins with `postgres:`, `mysql:` or `sqlite:`",
            )),
        }
    }

    /// Returns at most `limit` dead letters of a queue, ordered by partition, epoch and number. Those that are sealed are opened with
    /// the keys of `tools`.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    pub async fn letters(
        &self,
        tools: &Tools,
        queue: &str,
        limit: u32,
    ) -> Result<Vec<RawLetter>, Error> {
        let seals = LetterSeals::of(&tools.cache.inner().store);
        with_pool!(self, pool => list(pool, queue, seals, limit).await)
    }

    /// Removes a letter. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    pub async fn discard(&self, queue: &str, place: LetterPlace) -> Result<bool, Error> {
        let place = (place.partition, place.epoch, place.number);
        with_pool!(self, pool => letters::discard_at(pool, queue, place).await)
    }

    /// Returns how many writes of each partition of a queue were lost, of those that have lost any.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    pub async fn lost(&self, queue: &str) -> Result<std::collections::HashMap<u16, u64>, Error> {
        with_pool!(self, pool => offsets::lost_of_queue(pool, queue).await)
    }
}

async fn list<DB: Backend>(
    pool: &Pool<DB>,
    queue: &str,
    seals: LetterSeals<'_>,
    limit: u32,
) -> Result<Vec<RawLetter>, Error> {
    let text = "SELECT partition_no, epoch, number, row_key, operation, codec, payload, error, failed_at \
                FROM larder_dead_letters WHERE queue = ? ORDER BY partition_no, epoch, number LIMIT ?";
    let values = [Value::Text(queue), Value::Integer(limit.into())];
    let rows = tables::fetch(pool, text, &values).await;
    let read = rows.and_then(|rows| {
        rows.iter()
            .map(|row| read::<DB>(row, queue, seals))
            .collect()
    });
    read.map_err(|error| {
        let what = format!("the dead letters of {queue}");
        tables::describe::<DB>("load", &what, error)
    })
}

fn read<DB: Backend>(
    row: &DB::Row,
    queue: &str,
    seals: LetterSeals<'_>,
) -> Result<RawLetter, sqlx::Error> {
    let number = |index| tables::number::<DB>(row, index);
    let text = |index| tables::text::<DB>(row, index);
    let place = LetterPlace {
        partition: u16::try_from(number(0)?).unwrap_or(u16::MAX),
        epoch: number(1)?,
        number: number(2)?,
    };
    let (key, operation) = (text(3)?, text(4)?);
    let coded = Coded {
        codec: number(5)?,
        payload: DB::bytes(row, 6)?,
    };
    let sealed_for = SealedPlace {
        queue,
        partition: place.partition,
        epoch: place.epoch,
        number: place.number,
        operation: &operation,
        key: &key,
    };
    let content = match seals.open(sealed_for, coded) {
        Ok(Coded { codec, payload }) => readable(u8::try_from(codec).unwrap_or(0), &payload),
        Err(reason) => json!({ "unreadable": reason }),
    };
    Ok(RawLetter {
        place,
        key: printed(key.as_bytes()),
        is_deletion: operation == "delete",
        content,
        error: printed(text(7)?.as_bytes()),
        failed_at_ms: number(8)?,
    })
}
