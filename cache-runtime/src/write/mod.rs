//! One write, step by step.
//!
//! 1. Announce: the intent is placed on the key, so that nothing can be served from it or stored at it (`announce`).
//! 2. Run the statement, which commits by itself.
//! 3. Take the announcement back. Cache-aside leaves nothing at the key, and the next read loads the new row; write-through
//!    leaves the row as the database holds it, if no other writer came near.
//! 4. Answer the caller.
//!
//! A write that takes more than one statement, or whose key is known only when it has run, is a transaction of its own
//! (`transaction`); there the intent is placed before the commit.
//!
//! Invariant: what is published came out of the database with the very statement, or by a read in the same transaction.
//! Not here: the announcement (`announce`), and the statements (`database`).

mod announce;
pub(crate) mod bulk;
mod invalidate;
pub(crate) mod transaction;

use std::sync::Arc;

use crate::{
    context::Context,
    database::{self, Fate, Write, Written, backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    policy::{Coherence, Strategy},
    protocol::{
        key::Key,
        state::{Lease, Meta},
        token::Token,
    },
    repair::Repair,
    store::{Publication, Store},
    write::{
        announce::{Announcement, Ending, Site, Staging},
        transaction::Transaction,
    },
};

/// How often a write in a transaction of its own is begun again because it was the victim of a deadlock.
const MOST_DEADLOCKS: u32 = 10;

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Runs a write to its end. The row, where it was read back.
    pub(crate) async fn write(self: &Arc<Self>, write: &Write<E>) -> Result<Option<Arc<E>>, Error> {
        if self.database.needs_transaction(write) {
            return self.write_in_transaction(write).await;
        }
        let written = self.write_announced(write).await;
        self.count(&written);
        written
    }

    /// Counts a write.
    pub(crate) fn count<T, F>(&self, written: &Result<T, F>) {
        match written {
            Ok(_) => self.counters.writes.add_one(),
            Err(_) => self.counters.write_errors.add_one(),
        }
    }

    async fn write_in_transaction(
        self: &Arc<Self>,
        write: &Write<E>,
    ) -> Result<Option<Arc<E>>, Error> {
        let mut deadlocks = 0;
        loop {
            let mut transaction = Transaction::begin(&self.database.pool).await?;
            match transaction.write(self, write).await {
                Ok(row) => {
                    transaction.commit().await?;
                    return Ok(row);
                }
                // Nothing of it was done, and nobody else has a part in it. InnoDB lets two saves of a new row meet like
                // that: each has locked the gap that the other inserts into.
                Err(error)
                    if deadlocks < MOST_DEADLOCKS
                        && error.database_error().is_some_and(database::is_deadlock) =>
                {
                    deadlocks += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One statement that commits by itself.
    async fn write_announced(self: &Arc<Self>, write: &Write<E>) -> Result<Option<Arc<E>>, Error> {
        let key = self.key(&write.id())?;
        let site = Arc::clone(self) as Arc<dyn Site>;
        let mut announcement = Announcement::of_one(Token::draw(), site, key.clone());
        // The pool's own round trip and the announcement's go on at the same time.
        let (connection, ()) = tokio::join!(self.database.acquire(), announcement.begin());
        let failed = |error, fate| database::describe(write.verb(), &self.what(&key), error, fate);
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                announcement.end(Ending::Undone).await;
                return Err(failed(error, Fate::Nothing));
            }
        };
        announcement.confirm().await;
        if let Err(refusal) = announcement.refusal(write.verb()) {
            announcement.end(Ending::Undone).await;
            return Err(refusal);
        }
        let statement = self.database.apply(&mut connection, write);
        let written = match announcement.during(statement).await {
            Ok(written) => written,
            Err(error) => {
                let fate = Fate::of(&error);
                announcement.end(fate.into()).await;
                return Err(failed(error, fate));
            }
        };
        if written.rows == 0 {
            announcement.end(Ending::Undone).await;
            return Err(self.refused(&mut connection, write, &key).await);
        }
        drop(connection);
        let row = written.row.map(Arc::new);
        if let Some(other) = self.key_of_other(&key, row.as_ref()) {
            // A trigger has given the row another id, whose absence may be known.
            if self.cache.store.invalidate(&other).await.is_err() {
                self.cache.repairs.remember(&other, Repair::Drop);
            }
        }
        announcement.publish(self.publication(write, &key, row.as_ref()));
        announcement.end(Ending::Committed).await;
        Ok(row)
    }

    /// Runs a write inside a transaction and stages what it does to the cache.
    pub(crate) async fn write_staged(
        self: &Arc<Self>,
        connection: &mut DB::Connection,
        staging: &mut Staging,
        write: &Write<E>,
    ) -> Result<Option<Arc<E>>, StagedFailure> {
        let known = match write {
            Write::Insert(_) if self.database.generates_id() => None,
            _ => Some(self.key(&write.id())?),
        };
        let what = || match &known {
            Some(key) => self.what(key),
            None => E::SPEC.name.to_owned(),
        };
        let written = match self.database.apply(connection, write).await {
            Ok(written) => written,
            Err(error) => {
                let is_done = Fate::of(&error) != Fate::Nothing;
                if let Some(key) = known.clone().filter(|_| is_done) {
                    // It may have been carried out although its answer could not be read.
                    staging.touch(Arc::clone(self) as Arc<dyn Site>, key, None);
                }
                return Err(StagedFailure {
                    dooms: database::dooms_transaction(&error) || (is_done && known.is_none()),
                    // Nothing is applied before the commit.
                    error: database::describe(write.verb(), &what(), error, Fate::Nothing),
                });
            }
        };
        let Written { rows, row } = written;
        let row = row.map(Arc::new);
        let key = match (known, &row) {
            (Some(key), _) => key,
            (None, Some(row)) => self.key(&row.id()).map_err(StagedFailure::dooming)?,
            (None, None) => return Err(StagedFailure::dooming(self.untold_id())),
        };
        if rows == 0 {
            return Err(self.refused(connection, write, &key).await.into());
        }
        self.stage_write(staging, write, key, row.as_ref());
        Ok(row)
    }

    /// Notes what a write of a transaction does to the cache.
    pub(crate) fn stage_write(
        self: &Arc<Self>,
        staging: &mut Staging,
        write: &Write<E>,
        key: Key,
        row: Option<&Arc<E>>,
    ) {
        if matches!(write, Write::Delete(_) | Write::DeleteRow(_)) {
            staging.unpublish_rows();
        }
        let site = Arc::clone(self) as Arc<dyn Site>;
        if let Some(other) = self.key_of_other(&key, row) {
            staging.touch(Arc::clone(&site), other, None);
        }
        let publication = self.publication(write, &key, row);
        staging.touch(site, key, publication);
    }

    /// The key of the row that was written, if a trigger has given it another id than it was written under.
    fn key_of_other(&self, key: &Key, row: Option<&Arc<E>>) -> Option<Key> {
        let own = self.key(&row?.id()).ok()?;
        (own != *key).then_some(own)
    }

    pub(crate) fn untold_id(&self) -> Error {
        let name = E::SPEC.name;
        Error::new(
            ErrorKind::Database,
            format!("failed to insert {name}: the database did not tell the id it chose"),
        )
    }

    /// What a write leaves at its key when it ends undisturbed.
    fn publication(
        &self,
        write: &Write<E>,
        key: &Key,
        row: Option<&Arc<E>>,
    ) -> Option<Publication> {
        if !self.policy.publishes() {
            return None;
        }
        let row = match write {
            Write::Delete(_) | Write::DeleteRow(_) => None,
            Write::Insert(_) | Write::Update(_) | Write::Save(_) => Some(row?),
        };
        let meta = Meta {
            lease: Lease {
                token: Token::draw(),
                identity: self.identity(),
            },
            loaded_at_ms: self.cache.clock.wall_ms(),
            load_cost_us: 0,
            version: 0,
        };
        let (filling, ttl) = self.filling(key, row, meta)?;
        Some(Publication {
            filling,
            ttl_ms: crate::clock::millis(ttl),
        })
    }

    /// Why a write that the database carried out has matched no row.
    pub(crate) async fn refused(
        &self,
        connection: &mut DB::Connection,
        write: &Write<E>,
        key: &Key,
    ) -> Error {
        let (verb, what) = (write.verb(), self.what(key));
        let is_compared = match write {
            Write::Update(_) | Write::Save(_) | Write::DeleteRow(_) => E::SPEC.versioned,
            Write::Insert(_) | Write::Delete(_) => false,
        };
        if is_compared {
            match self.database.select_current(connection, &write.id()).await {
                Ok(Some(current)) => {
                    let message = format!(
                        "failed to {verb} {what}: the row was changed since it was read; its version is another one"
                    );
                    return Error::conflict(message, Arc::new(current));
                }
                Ok(None) => {}
                Err(error) => return database::describe(verb, &what, error, Fate::Nothing),
            }
        }
        match write {
            Write::Save(_) => Error::new(
                ErrorKind::Duplicate,
                format!(
                    "failed to save {what}: there is a row whose id the database calls equal but spells differently"
                ),
            ),
            Write::Insert(_) => Error::new(
                ErrorKind::Database,
                format!(
                    "failed to insert {what}: the database accepted the statement and inserted nothing; a trigger may have \
                     suppressed it"
                ),
            ),
            Write::Update(_) | Write::Delete(_) | Write::DeleteRow(_) => Error::new(
                ErrorKind::NotFound,
                format!("failed to {verb} {what}: there is no such row"),
            ),
        }
    }
}

/// Why a write inside a transaction failed.
pub(crate) struct StagedFailure {
    pub(crate) error: Error,
    /// Whether the database has rolled the whole transaction back.
    pub(crate) dooms: bool,
}

impl StagedFailure {
    /// A failure after which nobody can tell which keys the transaction has touched.
    pub(crate) fn dooming(error: Error) -> Self {
        Self { error, dooms: true }
    }
}

impl From<Error> for StagedFailure {
    fn from(error: Error) -> Self {
        Self {
            error,
            dooms: false,
        }
    }
}

impl From<Fate> for Ending {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Nothing => Self::Undone,
            // What came back could not be read, so there is nothing to publish.
            Fate::Applied => Self::Committed,
            Fate::Unknown => Self::Unknown,
        }
    }
}

impl crate::policy::Policy {
    /// Whether a write stores what it wrote. What is stored is right only for a writer that was announced.
    pub(crate) fn publishes(&self) -> bool {
        self.strategy == Strategy::WriteThrough
            && self.coherence == Coherence::Intent
            && !self.after_triggers
    }
}
