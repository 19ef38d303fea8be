//! A change of all rows that a lookup finds, which depends on what each of them is.
//!
//! Statements of the caller's own would have to be announced at the tags of the rows, or the caller would have to know their
//! ids. Rows that are read under a lock and written one after the other would be as many transactions.
//!
//! 1. Begin a transaction, and read the rows under a lock, in the order of their ids (`FOR UPDATE`; on SQLite,
//!    `BEGIN IMMEDIATE` locks the database).
//! 2. Call the change for each row. If it refuses one, roll back.
//! 3. Write the rows that differ as a batch, and commit.
//!
//! Invariant: nothing is written before the change was called for every row.
//! Invariant: between a row that the change saw and the row that is written, no other write was committed.
//! Not here: the statements of the batch (`bulk`), and deletes by a lookup, which are a batch by themselves.

use std::sync::Arc;

use crate::{
    context::Context,
    database::{Write, backend::Backend, entity::Entity},
    error::Error,
    read::lookup::LookupOf,
    write::{
        Attempts,
        bulk::{Batch, Done},
        modify::ChangeResult,
        transaction::Transaction,
    },
};

/// The rows that a lookup has found, before they are written.
pub(crate) struct Found<E> {
    /// All of them.
    rows: Vec<Arc<E>>,
    /// The places of those that are written.
    places: Vec<usize>,
}

impl<E> Found<E> {
    /// Returns all rows, after the writes are done.
    pub(crate) fn after(self, done: Done<E>) -> Vec<Arc<E>> {
        let mut rows = self.rows;
        if let Done::Rows(written) = done {
            for (place, row) in self.places.into_iter().zip(written) {
                rows[place] = row;
            }
        }
        rows
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Changes the rows that a lookup finds, in a transaction of its own.
    pub(crate) async fn modify_found<R: ChangeResult<Value = ()>>(
        self: &Arc<Self>,
        found: &LookupOf,
        mut change: impl FnMut(&mut E) -> R + Send,
    ) -> Result<Vec<Arc<E>>, Error> {
        let mut attempts = Attempts::on(&self.database.pool);
        loop {
            let mut transaction = self.begin_to_modify().await?;
            let written = transaction.modify_found(self, found, &mut change).await;
            let modified = match written {
                Ok(rows) => transaction.commit().await.map(|()| rows),
                Err(error) => Err(error),
            };
            match modified {
                Err(error) if attempts.allow_after(&error) => {}
                modified => return modified,
            }
        }
    }

    /// Calls the change with a copy of each row. Returns the rows, and the writes of those that it has changed.
    fn change_each<R: ChangeResult<Value = ()>>(
        &self,
        found: Vec<E>,
        change: &mut (impl FnMut(&mut E) -> R + Send),
    ) -> Result<(Found<E>, Batch<E>), Error> {
        let found: Vec<_> = found.into_iter().map(Arc::new).collect();
        let (mut places, mut rows, mut old) = (Vec::new(), Vec::new(), Vec::new());
        for (place, before) in found.iter().enumerate() {
            let key = self.key(&before.id())?;
            let (row, ()) = self.changed(&key, before, change)?;
            let write = Write::Modify(row, Arc::clone(before));
            if self.database.is_unchanged(&write) {
                continue;
            }
            places.push(place);
            rows.extend(write.into_row());
            old.push(Arc::clone(before));
        }
        let rows_found = found.into_iter();
        let found = Found {
            rows: rows_found
                .map(|row| self.database.without_omitted(row))
                .collect(),
            places,
        };
        Ok((found, Batch::Modify { rows, old }))
    }
}

impl<DB: Backend> Transaction<'_, DB> {
    /// Reads the rows of a repository that a lookup finds under a lock, and calls the change for each. Returns what is to be
    /// written.
    pub(crate) async fn change_found<E: Entity, R: ChangeResult<Value = ()>>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        found: &LookupOf,
        change: &mut (impl FnMut(&mut E) -> R + Send),
    ) -> Result<(Found<E>, Batch<E>), Error> {
        let rows = self.lock_found(repository, found).await?;
        repository.change_each(rows, change)
    }

    /// Changes the rows of a repository that a lookup finds. After an error the transaction must be undone.
    async fn modify_found<E: Entity, R: ChangeResult<Value = ()>>(
        &mut self,
        repository: &Arc<Context<E, DB>>,
        found: &LookupOf,
        change: &mut (impl FnMut(&mut E) -> R + Send),
    ) -> Result<Vec<Arc<E>>, Error> {
        let (found, batch) = self.change_found(repository, found, change).await?;
        let done = match batch.is_empty() {
            true => batch.nothing(),
            false => self.write_batch(repository, batch).await?,
        };
        Ok(found.after(done))
    }
}
