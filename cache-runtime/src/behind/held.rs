//! What the database holds of rows that were flushed, beside what was written.
//!
//! A `NUMERIC` rounds, a timestamp loses its nanoseconds, a trigger rewrites: served on from the cache, such a row would be one
//! that nobody can find in the database.
//!
//! 1. A flush keeps the rows that its statements have returned, undecoded ([`Held`]).
//! 2. When it is over they are decoded and compared, a few at a time, while the database works on the next one
//!    ([`changed`]).
//!
//! Invariant: a row of which the database has told nothing, or something that does not fit the struct, counts as changed.
//! Not here: how rows are read back (`chunks`), and what becomes of those that were changed (`flush`).

use std::collections::HashSet;

use crate::{
    behind::{Image, Queued, canonical},
    database::{Database, backend::Backend, entity::Entity},
};

/// How many rows are compared before others have their turn.
const AT_ONCE: usize = 32;

/// What one statement, or what was read behind it, told of the rows that it has written.
pub(crate) struct Held<DB: Backend> {
    /// The numbers of the writes, in the order of the statement.
    pub(crate) numbers: Vec<u64>,
    /// The rows, mostly in the same order.
    pub(crate) rows: Vec<DB::Row>,
}

/// The numbers of the writes whose row is another one in the database, or may be.
///
/// # Cancel safety
///
/// Nothing is lost.
pub(crate) async fn changed<E: Entity, DB: Backend>(
    database: &Database<E, DB>,
    held: &[Held<DB>],
    writes: &[Queued<E>],
) -> Vec<u64> {
    let mut changed = Vec::new();
    for Held { numbers, rows } in held {
        // What did not stand where it was looked for.
        let (mut strays, mut left) = (HashSet::new(), Vec::new());
        for (at, number) in numbers.iter().enumerate() {
            let row = rows.get(at).and_then(|row| held_bytes(database, row));
            let written = written_bytes(writes, *number);
            if row.is_none() || row != written {
                strays.extend(row);
                left.push((*number, written));
            }
            if at % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        let more = rows.iter().skip(numbers.len());
        strays.extend(more.filter_map(|row| held_bytes(database, row)));
        let is_changed = |written: &Option<Vec<u8>>| {
            let written = written.as_ref();
            written.is_none_or(|written| !strays.contains(written))
        };
        let left = left.iter().filter(|(_, written)| is_changed(written));
        changed.extend(left.map(|(number, _)| number));
    }
    changed
}

fn held_bytes<E: Entity, DB: Backend>(
    database: &Database<E, DB>,
    row: &DB::Row,
) -> Option<Vec<u8>> {
    let row = (database.binding.from_row)(row).ok()?;
    canonical::of(&row).ok()
}

fn written_bytes<E: Entity>(writes: &[Queued<E>], number: u64) -> Option<Vec<u8>> {
    let at = writes.binary_search_by_key(&number, |write| write.number);
    match &writes[at.ok()?].image {
        Image::Row(row) => canonical::of(&**row).ok(),
        Image::Deletion(_) | Image::Unreadable { .. } => None,
    }
}
