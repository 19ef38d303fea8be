//! The dead letters of a transaction: the writes that were refused, with what the table holds of their rows.
//!
//! A letter notes what the table holds of the row after the other writes of the batch, so that a replay can tell whether the row
//! has changed since (`replay`).
//!
//! Invariant: a write is either applied or a dead letter, in the transaction that moves the position past it.
//! Not here: which writes are refused (`transaction`), and the table of dead letters (`letters`).

use std::{
    collections::{HashMap, HashSet},
    iter,
};

use super::{ApplyError, Dead, TxError, transaction::FlushTransaction};
use crate::{
    behind::{
        Batch, Queued, canonical,
        letters::{self, Found, Letter},
    },
    database::{backend::Backend, entity::Entity, tables},
};

/// A refused read undoes nothing else.
const LOOK: &str = "SAVEPOINT larder_look";
const UNDO_LOOK: &str = "ROLLBACK TO SAVEPOINT larder_look";

impl<E: Entity, DB: Backend> FlushTransaction<'_, E, DB> {
    /// Makes dead letters of writes, each with the reason.
    pub(super) async fn insert_letters(
        &mut self,
        dead: Vec<(&Queued<E>, String)>,
    ) -> Result<(), TxError> {
        let batch = self.batch;
        let decided = batch.between(batch.from, self.done.to);
        let found = self.found(&decided, &dead).await?;
        let letters: Vec<_> = dead
            .iter()
            .zip(found)
            .map(|((write, error), found)| Letter::new(self.database, write, batch, error, found))
            .collect();
        // A refused letter is not a row of the user's, so its error is not about a row.
        let inserted = letters::insert::<DB>(
            self.connection,
            batch.place,
            batch.seals,
            &letters,
            batch.now_ms,
        )
        .await;
        self.done.statements += inserted.map_err(|error| {
            TxError::ApplyError(if tables::is_missing_column(&error) {
                ApplyError::Outdated(error)
            } else {
                ApplyError::Failed(error)
            })
        })?;
        self.done.dead = dead
            .into_iter()
            .map(|(write, error)| Dead {
                number: write.number,
                error,
            })
            .collect();
        Ok(())
    }

    /// Returns what the table holds of the rows of dead writes, after the other writes were applied.
    async fn found(
        &mut self,
        decided: &Batch<'_, E>,
        dead: &[(&Queued<E>, String)],
    ) -> Result<Vec<Found>, TxError> {
        if dead.is_empty() || decided.lost_counted_to.is_some() {
            // The writes came too late: writes that followed them may be in the table already.
            return Ok(dead.iter().map(|_| Found::Unknown).collect());
        }
        let is_dead: HashSet<u64> = dead.iter().map(|(write, _)| write.number).collect();
        // The last applied write of each row.
        let mut made = HashMap::new();
        for write in decided.writes {
            if !is_dead.contains(&write.number) {
                made.insert(write.key.as_bytes(), write.number);
            }
        }
        let ids: Vec<_> = dead.iter().filter_map(|(write, _)| write.id()).collect();
        let read = self.rows_at(&ids).await?;
        let rows = read.iter().map(|row| self.database.row(row));
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
                // A row whose id has another spelling in the table, or that could not be decoded, may be this one.
                Some(None) if rows.len() == read.len() => Found::Nothing,
                _ => Found::Unknown,
            }
        });
        Ok(told.collect())
    }

    /// Returns the rows with some ids. An id that the database refuses has no row: a text that it cannot hold, or a label that its
    /// enum does not have.
    async fn rows_at(&mut self, ids: &[E::Id]) -> Result<Vec<DB::Row>, TxError> {
        self.control(LOOK).await?;
        let mut rows = Vec::new();
        // If the database refuses one of them, it is asked for each alone.
        for part in iter::once(ids).chain(ids.chunks(1)) {
            match self.database.select_ids(self.connection, part).await {
                Ok(read) => {
                    self.done.statements += read.sent.statements;
                    rows.extend(read.rows);
                    if part.len() == ids.len() {
                        break;
                    }
                }
                Err(error) => match TxError::of_statement(self.database, error) {
                    TxError::Refused(_) => self.control(UNDO_LOOK).await?,
                    stop => return Err(stop),
                },
            }
        }
        Ok(rows)
    }
}
