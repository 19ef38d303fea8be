//! A change of a row that depends on what the row is, for entities whose writes go to the database.
//!
//! Without a version:
//!
//! 1. Begin a transaction, and read the row under a lock (`FOR UPDATE`; on SQLite, `BEGIN IMMEDIATE` locks the database).
//! 2. Call the change. If it refuses, roll back.
//! 3. Write the columns that differ, and commit.
//!
//! With a version, no lock is needed: the row may come from the cache, unless it has columns that are `omit`. The write compares
//! the version, and after a conflict the change is called again with the current row.
//!
//! Invariant: between the row that the change saw and the row that is written, no other write was committed.
//! Not here: changes of all rows that a lookup finds (`modify_found`), and of rows whose writes are queued (`behind/put`).

use std::{fmt, ops::Deref, sync::Arc};

use sqlx::{SqlStr, error::BoxDynError};

use crate::{
    context::{Context, run_detached},
    database::{Write, backend::Backend, dialect::Dialect, entity::Entity},
    error::{Error, ErrorKind},
    observe::{Tell, Told},
    protocol::key::Key,
    read::content::RowOf,
    write::{Attempts, transaction::Transaction},
};

/// How often a change of a row with a version is repeated after conflicts.
const MAX_CONFLICTS: u32 = 100;

/// The row after a change, and the value that the change returned.
pub struct Modified<E, T = ()> {
    /// The row.
    pub row: Arc<E>,
    /// What the change returned.
    pub value: T,
}

impl<E, T> Tell for Modified<E, T> {
    fn told(&self) -> Told {
        Told::rows(1)
    }
}

impl<E: fmt::Debug, T: fmt::Debug> fmt::Debug for Modified<E, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Modified")
            .field("row", &self.row)
            .field("value", &self.value)
            .finish()
    }
}

impl<E, T> Deref for Modified<E, T> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.row
    }
}

/// What a change of a row returns: nothing, or a `Result`. An error refuses the change.
#[diagnostic::on_unimplemented(
    message = "a change of a row returns nothing or a `Result`, not `{Self}`",
    label = "gets a change that returns something else",
    note = "end the closure with a `;`, or return `Ok(..)`"
)]
pub trait ChangeResult: Send {
    /// The value that is passed on.
    type Value: Send;

    /// Returns the value, or why the change is refused.
    ///
    /// # Errors
    ///
    /// That of the change.
    fn into_result(self) -> Result<Self::Value, BoxDynError>;
}

impl ChangeResult for () {
    type Value = ();

    fn into_result(self) -> Result<(), BoxDynError> {
        Ok(())
    }
}

impl<T: Send, X: Into<BoxDynError> + Send> ChangeResult for Result<T, X> {
    type Value = T;

    fn into_result(self) -> Result<T, BoxDynError> {
        self.map_err(Into::into)
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Changes a row.
    pub(crate) async fn modify_row<R: ChangeResult>(
        self: &Arc<Self>,
        id: &E::Id,
        mut change: impl FnMut(&mut E) -> R + Send,
    ) -> Result<Modified<E, R::Value>, Error> {
        let key = self.key(id)?;
        if E::SPEC.versioned {
            return self.modify_versioned(&key, id, change).await;
        }
        let mut attempts = Attempts::on(&self.database.pool);
        loop {
            let mut transaction = self.begin_to_modify().await?;
            let modified = match transaction.modify(self, id, &mut change).await {
                Ok(modified) => transaction.commit().await.map(|()| modified),
                Err(error) => Err(error),
            };
            match modified {
                Err(error) if attempts.allow_after(&error) => {}
                modified => return modified,
            }
        }
    }

    /// Begins a transaction that reads rows under a lock and then writes them.
    pub(super) async fn begin_to_modify(&self) -> Result<Transaction<'static, DB>, Error> {
        let pool = &self.database.pool;
        match DB::DIALECT {
            // A transaction of SQLite that has read cannot always write: another one may have written since.
            Dialect::Sqlite => {
                Transaction::begin_with(pool, SqlStr::from_static("BEGIN IMMEDIATE")).await
            }
            Dialect::Postgres | Dialect::MySql => Transaction::begin(pool).await,
        }
    }

    async fn modify_versioned<R: ChangeResult>(
        self: &Arc<Self>,
        key: &Key,
        id: &E::Id,
        mut change: impl FnMut(&mut E) -> R + Send,
    ) -> Result<Modified<E, R::Value>, Error> {
        let mut current = self.read_to_modify(id).await?;
        let mut conflicts = 0;
        loop {
            let old = current.ok_or_else(|| self.nothing_to_modify(key))?;
            let (row, value) = self.changed(key, &old, &mut change)?;
            let write = Write::Modify(row, Arc::clone(&old));
            if self.database.is_unchanged(&write) {
                let row = self.database.without_omitted(old);
                return Ok(Modified { row, value });
            }
            let context = Arc::clone(self);
            let written = async move { context.write(&write).await };
            match run_detached::<E, _>("modify", written).await {
                Ok(row) => {
                    let row = row.expect("a row with a version is read back");
                    return Ok(Modified { row, value });
                }
                Err(error) if error.kind() == ErrorKind::Conflict && conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                    current = match E::SPEC.omits {
                        true => self.read_to_modify(id).await?,
                        false => error.current::<E>(),
                    };
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a row with a version, with all columns.
    async fn read_to_modify(self: &Arc<Self>, id: &E::Id) -> Result<Option<Arc<E>>, Error> {
        let id = std::borrow::Cow::Borrowed(id);
        let outcome = match E::SPEC.omits {
            true => self.read_uncached(RowOf::complete(id.into_owned())).await?,
            false => self.read(id).await?,
        };
        Ok(outcome.row)
    }

    /// Calls the change with a copy of a row.
    pub(crate) fn changed<R: ChangeResult>(
        &self,
        key: &Key,
        old: &E,
        change: &mut (impl FnMut(&mut E) -> R + Send),
    ) -> Result<(E, R::Value), Error> {
        let mut row = old.clone();
        let value = change(&mut row).into_result().map_err(|refusal| {
            Error::with_source(
                ErrorKind::Refused,
                format!(
                    "failed to modify {}: the change was refused: {refusal}; nothing was written",
                    self.describe_row(key)
                ),
                refusal,
            )
        })?;
        if self.key(&row.id())? != *key {
            return Err(Error::new(
                ErrorKind::Conversion,
                format!(
                    "failed to modify {}: the change gave the row another id",
                    self.describe_row(key)
                ),
            ));
        }
        // Values that cannot be encoded are reported by the statement.
        if let Ok(Some(column)) = self.database.changed_immutable(&row, old) {
            return Err(self.changes_immutable("modify", key, column));
        }
        Ok((row, value))
    }

    pub(crate) fn nothing_to_modify(&self, key: &Key) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!(
                "failed to modify {}: there is no such row",
                self.describe_row(key)
            ),
        )
    }
}
