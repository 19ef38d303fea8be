//! Compares flushed rows with what the database has stored.
//!
//! The database may store another row than the one that was written: a `NUMERIC` rounds, a timestamp loses its nanoseconds,
//! a trigger changes a column. The cache must not serve a row that is not in the database.
//!
//! 1. A flush keeps the rows that its statements have returned, undecoded ([`Held`]).
//! 2. After the flush they are decoded and compared, a few at a time, while the database works on the next flush
//!    ([`changed`]).
//!
//! Invariant: a row counts as changed if the database returned none for it, or one that does not fit the struct.
//! Not here: how rows are read back (`chunks`), and what happens with those that were changed (`flush`).

use std::collections::HashSet;

use crate::{
    behind::{Image, Queued, canonical},
    database::{Database, backend::Backend, entity::Entity},
};

/// How many rows are compared before the task yields.
const AT_ONCE: usize = 32;

/// The rows that one statement has written, as the statement or a read after it returned them.
pub(crate) struct Held<DB: Backend> {
    /// The numbers of the writes, in the order of the statement.
    pub(crate) numbers: Vec<u64>,
    /// The returned rows, usually in the same order.
    pub(crate) rows: Vec<DB::Row>,
}

/// Returns the numbers of the writes whose row differs in the database, or may differ.
///
/// # Cancel safety
///
/// Dropping the future changes nothing.
pub(crate) async fn changed<E: Entity, DB: Backend>(
    database: &Database<E, DB>,
    held: &[Held<DB>],
    writes: &[Queued<E>],
) -> Vec<u64> {
    let mut changed = Vec::new();
    for Held { numbers, rows } in held {
        // Rows that do not match the write at their index. The database may have returned them in another order.
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
    let row = database.row(row).ok()?;
    canonical::of(&row).ok()
}

fn written_bytes<E: Entity>(writes: &[Queued<E>], number: u64) -> Option<Vec<u8>> {
    let at = writes.binary_search_by_key(&number, |write| write.number);
    match &writes[at.ok()?].image {
        Image::Row(row) => canonical::of(&**row).ok(),
        Image::Deletion(_) | Image::Unreadable { .. } => None,
    }
}
