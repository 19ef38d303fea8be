//! One write, step by step.
//!
//! 1. Announce: place the intent on the key, so that the store neither serves nor fills it (`announce`).
//! 2. Run the statement, which commits by itself.
//! 3. End the announcement. Cache-aside leaves the key empty, and the next read loads the new row. Write-through leaves
//!    the row as the database has it, unless another writer had announced a write of the key.
//! 4. Answer the caller.
//!
//! Some writes take more than one statement, or their key is known only afterwards. Such a write runs in a transaction
//! of its own (`transaction`), which places the intent before the commit.
//!
//! Invariant: the row in a cache update was returned by the statement itself, or by a read in the same transaction.
//! Not here: the announcement (`announce`), and the statements (`database`).

pub(crate) mod adopted;
mod announce;
pub(crate) mod bulk;
mod commit;
mod inserted_together;
mod invalidate;
pub(crate) mod modify;
pub(crate) mod modify_found;
pub(crate) mod row_gate;
pub(crate) mod target;
pub(crate) mod together;
pub(crate) mod transaction;

use std::sync::Arc;

use crate::{
    context::Context,
    database::{
        self, Write, WriteOutcome, Written, backend::Backend, entity::Entity, lookup::Moves,
        stale_plan::Repetitions,
    },
    error::{Error, ErrorKind},
    observe,
    policy::{Coherence, Strategy},
    protocol::{
        key::Key,
        state::{Lease, Meta},
        tags::{Changed, Stamp},
        token::Token,
    },
    read::content::RowOf,
    repair::Repair,
    store::{CacheUpdate, Store, failpoint::Mechanism},
    write::{
        announce::{Announcement, PendingWrites, WriteEnd},
        target::WriteTarget,
        transaction::Transaction,
    },
};

/// How often a write in a transaction of its own is retried after a deadlock.
const MAX_DEADLOCKS: u32 = 10;

/// Decides whether a transaction of larder's own is run again. It was rolled back and contains nothing else.
struct Attempts {
    /// How often it was run.
    made: u64,
    deadlocks: std::ops::Range<u32>,
    repetitions: Repetitions,
}

impl Attempts {
    fn on<DB: Backend>(pool: &sqlx::Pool<DB>) -> Self {
        Self {
            made: 1,
            deadlocks: 0..MAX_DEADLOCKS,
            repetitions: Repetitions::on(pool),
        }
    }

    /// Returns whether to run the transaction again after this error.
    fn allow_after(&mut self, error: &Error) -> bool {
        let is_deadlock = error.database_error().is_some_and(database::is_deadlock);
        let is_allowed =
            (is_deadlock && self.deadlocks.next().is_some()) || self.repetitions.allow_after(error);
        if is_allowed {
            self.made += 1;
            observe::tell_attempt(self.made);
        }
        is_allowed
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Runs a write to its end. Returns the row if it was read back.
    pub(crate) async fn write(self: &Arc<Self>, write: &Write<E>) -> Result<Option<Arc<E>>, Error> {
        if self.database.needs_transaction(write) {
            // What is awaited rarely is boxed here and below, so that the future of a write stays small: it is copied when its task begins.
            return Box::pin(self.write_in_transaction(write)).await;
        }
        let written = self.write_announced(write).await;
        self.count(&written);
        written
    }

    /// Returns the row of a write that was not read back, as a read returns it.
    pub(crate) fn row_of(&self, write: Write<E>) -> Option<Arc<E>> {
        let row = write.into_row().map(Arc::new)?;
        Some(self.database.without_omitted(row))
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
        let mut attempts = Attempts::on(&self.database.pool);
        loop {
            let mut transaction = Transaction::begin(&self.database.pool).await?;
            match transaction.write(self, write).await {
                Ok(row) => {
                    transaction.commit().await?;
                    return Ok(row);
                }
                // On InnoDB two saves of a new row can deadlock: each has locked the gap that the other inserts into.
                Err(error) if attempts.allow_after(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One statement that commits by itself.
    async fn write_announced(self: &Arc<Self>, write: &Write<E>) -> Result<Option<Arc<E>>, Error> {
        let key = self.key(&write.id())?;
        let lookups = self.announced_lookups(write)?;
        let _entered = self.row_gates.enter_all(&key, &lookups).await;
        let target = Arc::clone(self) as Arc<dyn WriteTarget>;
        let (intent, beside) = (Token::draw(), self.beside(write));
        let mut announcement =
            Announcement::of_one(intent, target, key.clone(), lookups.clone(), beside);
        // Get a connection and announce the write at the same time.
        let (connection, ()) =
            tokio::join!(Box::pin(self.database.acquire()), announcement.begin());
        let failed =
            |error, fate| database::describe(write.verb(), &self.describe_row(&key), error, fate);
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                Box::pin(announcement.end(WriteEnd::Undone)).await;
                return Err(failed(error, WriteOutcome::Nothing));
            }
        };
        // Before the statement, which commits: afterwards, others may change the row again and advance the clock of its tags.
        let stamp = *self.last_stamp();
        let statement = Box::pin(self.database.apply(&mut connection, write));
        let (written, mut announcement) = announcement.attempt(write.verb(), statement).await?;
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                let fate = WriteOutcome::of(&error);
                Box::pin(announcement.end(fate.into())).await;
                return Err(failed(error, fate));
            }
        };
        if written.rows == 0 {
            Box::pin(announcement.end(WriteEnd::Undone)).await;
            return Err(Box::pin(self.refused(&mut connection, write, &key)).await);
        }
        drop(connection);
        let row = written.row.map(Arc::new);
        let others = self.keys_of_other(write, &key, &lookups, row.as_ref());
        self.drop_others(others).await;
        let stamp = self.stamp_of_write(stamp).await;
        announcement.set_update(self.update(write, &key, row.as_ref(), stamp));
        announcement.end(WriteEnd::Committed).await;
        Ok(row)
    }

    /// Drops keys that a write has changed and that were not announced: a trigger has given the row another id or other values,
    /// whose absence may be cached.
    async fn drop_others(&self, others: Vec<Key>) {
        for other in others {
            if self.cache.store.invalidate(&other).await.is_err() {
                self.cache.repairs.remember(&other, Repair::Drop);
            }
        }
    }

    /// Runs a write inside a transaction and stages its effect on the cache.
    pub(crate) async fn write_staged(
        self: &Arc<Self>,
        connection: &mut DB::Connection,
        staging: &mut PendingWrites,
        write: &Write<E>,
    ) -> Result<Option<Arc<E>>, StagedFailure> {
        let known = match write {
            Write::Insert(_) if self.database.generates_id() => None,
            _ => Some(self.key(&write.id())?),
        };
        let lookups = self.announced_lookups(write)?;
        let described = || match &known {
            Some(key) => self.describe_row(key),
            None => E::SPEC.name.to_owned(),
        };
        let written = match self.database.apply(connection, write).await {
            Ok(written) => written,
            Err(error) => {
                let is_done = WriteOutcome::of(&error) != WriteOutcome::Nothing;
                for key in known.iter().chain(&lookups).filter(|_| is_done) {
                    // The database may have executed it even though its reply could not be read.
                    let target = Arc::clone(self) as Arc<dyn WriteTarget>;
                    staging.mark_changed(target, key.clone(), None);
                }
                return Err(StagedFailure {
                    dooms: database::aborts_transaction(&error) || (is_done && known.is_none()),
                    // Nothing is applied before the commit.
                    error: database::describe(
                        write.verb(),
                        &described(),
                        error,
                        WriteOutcome::Nothing,
                    ),
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
        self.stage_write(staging, write, key, lookups, row.as_ref());
        Ok(row)
    }

    /// Records the effect of a transaction's write on the cache.
    pub(crate) fn stage_write(
        self: &Arc<Self>,
        staging: &mut PendingWrites,
        write: &Write<E>,
        key: Key,
        lookups: Vec<Key>,
        row: Option<&Arc<E>>,
    ) {
        if matches!(write, Write::Delete(_) | Write::DeleteRow(_)) {
            staging.cancel_row_updates();
            self.mark_cascades(staging, Some(&write.id()));
        }
        self.mark_twins(staging, &write.id());
        if let Some(row) = row {
            // The database may have generated the id.
            self.mark_twins(staging, &row.id());
        }
        let target = Arc::clone(self) as Arc<dyn WriteTarget>;
        let others = self.keys_of_other(write, &key, &lookups, row);
        for other in lookups.into_iter().chain(others) {
            staging.mark_changed(Arc::clone(&target), other, None);
        }
        // The transaction holds the lock of the row, so nobody has changed it since the statement.
        let stamp = *self.last_stamp();
        let update = self.update(write, &key, row, stamp);
        staging.mark_changed(target, key, update);
    }

    /// Returns what a write changes beside the row and its lookups.
    fn beside(&self, write: &Write<E>) -> PendingWrites {
        let mut beside = PendingWrites::default();
        beside.mark_dependents(self);
        self.mark_beside(&mut beside, write);
        beside
    }

    /// Records what a write changes in other entities.
    fn mark_beside(&self, staging: &mut PendingWrites, write: &Write<E>) {
        self.mark_twins(staging, &write.id());
        if matches!(write, Write::Delete(_) | Write::DeleteRow(_)) {
            self.mark_cascades(staging, Some(&write.id()));
        }
    }

    /// Records a row in the other entities over its table.
    pub(crate) fn mark_twins(&self, staging: &mut PendingWrites, id: &E::Id) {
        for (target, key, changed) in self.groups.twins(id) {
            staging.mark_twin(target, key, changed);
        }
    }

    /// Records all rows of the other entities over the same table, and what the database changes when it deletes some.
    pub(crate) fn mark_all_beside(&self, staging: &mut PendingWrites) {
        self.mark_cascades(staging, None);
        for (target, changed) in self.groups.all_of_twins() {
            staging.mark_beside(target, changed);
        }
    }

    /// Records what the database changes in other entities when it deletes a row. `None`: any row.
    pub(crate) fn mark_cascades(&self, staging: &mut PendingWrites, id: Option<&E::Id>) {
        for (target, changed) in self.cascades(id) {
            staging.mark_beside(target, changed);
        }
    }

    /// Returns what the database changes in other entities when it deletes a row. `None`: any row.
    fn cascades(&self, id: Option<&E::Id>) -> Vec<(Arc<dyn WriteTarget>, Changed)> {
        if E::SPEC.cascades.is_empty() {
            return Vec::new();
        }
        let id = id.map(E::id_in_tags);
        self.groups.cascades(id.as_deref())
    }

    /// Returns the keys of the written row that were not announced and differ from those of the row that was to be written, because
    /// the database or a trigger has changed its id, the values of its lookups, or its place in a list.
    fn keys_of_other(
        &self,
        write: &Write<E>,
        key: &Key,
        announced: &[Key],
        row: Option<&Arc<E>>,
    ) -> Vec<Key> {
        let Some(row) = row else { return Vec::new() };
        let mut others: Vec<_> = self.key(&row.id()).into_iter().collect();
        for lookup in 0..E::SPEC.lookups.len() {
            let keys = self.keys_of_lookup(row, lookup).unwrap_or_default();
            let is_as_written = write.row().is_some_and(|written| {
                let same_keys = self
                    .keys_of_lookup(written, lookup)
                    .is_ok_and(|own| own == keys);
                let same_place = self.database.have_same_place(lookup, row, written);
                same_keys && same_place.unwrap_or(false)
            });
            if !is_as_written {
                others.extend(keys);
            }
        }
        others.retain(|other| other != key && !announced.contains(other));
        others
    }

    /// Returns the keys of the lookups that a write changes, as far as the caller knows: those of the values that it writes
    /// or deletes. Those of the values before need no announcement, because the rows that a lookup found are compared.
    pub(crate) fn announced_lookups(&self, write: &Write<E>) -> Result<Vec<Key>, Error> {
        let announced = |lookup: &usize| self.is_announced(*lookup);
        // An update that would move the row in a fixed lookup matches no row.
        let affected = |lookup: &usize| match write {
            Write::Update(_) => self.database.moves[*lookup] != Moves::Never,
            _ => true,
        };
        let lookups = 0..E::SPEC.lookups.len();
        match write {
            Write::Insert(row) | Write::Update(row) | Write::Save(row) | Write::DeleteRow(row) => {
                if lookups
                    .clone()
                    .all(|lookup| announced(&lookup) && affected(&lookup))
                {
                    return self.lookup_keys(row);
                }
                let keys = lookups
                    .filter(|lookup| announced(lookup) && affected(lookup))
                    .map(|lookup| self.keys_of_lookup(row, lookup));
                Ok(keys.collect::<Result<Vec<_>, _>>()?.concat())
            }
            Write::Delete(_) => Ok(Vec::new()),
            Write::Modify(row, old) => self.changed_lookups(row, old),
        }
    }

    /// Returns whether writes announce themselves at the keys of a lookup.
    fn is_announced(&self, lookup: usize) -> bool {
        let store = &self.cache.store;
        match E::SPEC.lookups[lookup].is_unique {
            true => !store.disables(Mechanism::PointerIntent),
            false => !store.disables(Mechanism::ListIntent),
        }
    }

    /// Returns the keys of the lookups that a change of a row affects: those that it leaves, those that it enters, and those
    /// in which it gets another place.
    fn changed_lookups(&self, row: &E, old: &E) -> Result<Vec<Key>, Error> {
        let mut changed = Vec::new();
        let lookups = 0..E::SPEC.lookups.len();
        for lookup in lookups.filter(|lookup| self.is_announced(*lookup)) {
            let (before, after) = (
                self.keys_of_lookup(old, lookup)?,
                self.keys_of_lookup(row, lookup)?,
            );
            let has_same_place = self.database.have_same_place(lookup, row, old);
            let is_moved = self.database.moves[lookup] == Moves::Always;
            if before != after || is_moved || !has_same_place.unwrap_or(false) {
                changed.extend(before);
                changed.extend(after);
            }
        }
        Ok(changed)
    }

    pub(crate) fn untold_id(&self) -> Error {
        let name = E::SPEC.name;
        Error::new(
            ErrorKind::Database,
            format!("failed to insert {name}: the database did not return the generated id"),
        )
    }

    /// Returns the cache update of a write, to be stored if no other writer interferes. `stamp`: a time of the clock of the tags
    /// at which nobody could have changed the written row yet. An earlier one only costs a comparison.
    fn update(
        &self,
        write: &Write<E>,
        key: &Key,
        row: Option<&Arc<E>>,
        stamp: Option<(u64, Stamp)>,
    ) -> Option<CacheUpdate> {
        if !self.policy.caches_writes() {
            return None;
        }
        let row = match write {
            Write::Delete(_) | Write::DeleteRow(_) => None,
            Write::Insert(_) | Write::Update(_) | Write::Save(_) | Write::Modify(..) => Some(row?),
        };
        if self.groups.clock.is_some() && stamp.is_none() {
            return None;
        }
        let meta = Meta {
            lease: Lease {
                token: Token::draw(),
                identity: self.identity(),
            },
            loaded_at_ms: self.cache.clock.wall_ms(),
            stamp: stamp.map(|(_, stamp)| stamp),
        };
        // A store that was replaced may have turned the clock back.
        if stamp.is_some_and(|(history, _)| history != meta.lease.identity.history)
            && !self.cache.store.disables(Mechanism::TagHistory)
        {
            return None;
        }
        let (fill, ttl) = self.fill::<RowOf<E>>(key, row, meta, None)?;
        Some(CacheUpdate {
            fill,
            ttl_ms: crate::clock::millis(ttl),
        })
    }

    /// Returns the error of a write that the database executed and that matched no row.
    pub(crate) async fn refused(
        &self,
        connection: &mut DB::Connection,
        write: &Write<E>,
        key: &Key,
    ) -> Error {
        let (verb, described) = (write.verb(), self.describe_row(key));
        match self.why_refused(connection, write).await {
            Ok(Refusal::Conflict(current)) => {
                let message = format!(
                    "failed to {verb} {described}: the row was changed since it was read, and its version differs; apply the \
                     change to `Error::current` and try again"
                );
                Error::conflict(message, Arc::new(current))
            }
            Ok(Refusal::Immutable(column)) => self.changes_immutable(verb, key, column),
            Ok(Refusal::NotFound) => Error::new(
                ErrorKind::NotFound,
                format!("failed to {verb} {described}: there is no such row"),
            ),
            Ok(Refusal::Spelling) => Error::new(
                ErrorKind::Duplicate,
                format!(
                    "failed to {verb} {described}: there is a row whose id is equal for the database but has other bytes; use \
                     the id exactly as it is stored"
                ),
            ),
            Ok(Refusal::Skipped) => {
                let immutable = self.database.immutable();
                let unequal = match write {
                    Write::Update(_) | Write::Save(_) if !immutable.is_empty() => format!(
                        "; or the database does not regard what it has stored in an `immutable` column (`{}`) as equal to what was \
                         read from it",
                        immutable.join("`, `")
                    ),
                    _ => String::new(),
                };
                let unless = match write {
                    Write::Insert(_) | Write::Save(_) => "",
                    Write::Update(_)
                    | Write::Delete(_)
                    | Write::DeleteRow(_)
                    | Write::Modify(..) => {
                        ", unless another writer has inserted the row at this moment"
                    }
                };
                Error::new(
                    ErrorKind::Database,
                    format!(
                        "failed to {verb} {described}: the database accepted the statement and skipped the row; look for a \
                         trigger or a rule of the table that suppresses the write{unless}{unequal}"
                    ),
                )
            }
            Err(error) => database::describe(verb, &described, error, WriteOutcome::Nothing),
        }
    }

    /// Returns the error of a write that would change an immutable column.
    pub(crate) fn changes_immutable(&self, verb: &str, key: &Key, column: &str) -> Error {
        Error::new(
            ErrorKind::Refused,
            format!(
                "failed to {verb} {}: the row has another value in `{column}`, which is declared `immutable`; nothing was \
                 written; give the value that the row has, or delete the row and insert it again",
                self.describe_row(key)
            ),
        )
    }

    async fn why_refused(
        &self,
        connection: &mut DB::Connection,
        write: &Write<E>,
    ) -> Result<Refusal<E>, sqlx::Error> {
        let (given, versioned) = match write {
            Write::Insert(_) => return Ok(Refusal::Skipped),
            Write::Delete(_) => (None, false),
            Write::Update(row)
            | Write::Save(row)
            | Write::DeleteRow(row)
            | Write::Modify(row, _) => (Some(row), E::SPEC.versioned),
        };
        let database = &self.database;
        let compares = versioned || (given.is_some() && database.has_immutable());
        if !compares && !DB::DIALECT.skips_rows() {
            return Ok(Refusal::NotFound);
        }
        let id = write.id();
        let Some(current) = database.select_current(connection, &id).await? else {
            return Ok(match write {
                Write::Save(_) if database.has_equal_id(connection, &id).await? => {
                    Refusal::Spelling
                }
                Write::Save(_) => Refusal::Skipped,
                _ => Refusal::NotFound,
            });
        };
        let Some(given) = given else {
            return Ok(Refusal::Skipped);
        };
        if versioned && !database.have_same_version(given, &current)? {
            return Ok(Refusal::Conflict(current));
        }
        let deletes = matches!(write, Write::DeleteRow(_));
        match database.changed_immutable(given, &current)? {
            Some(column) if !deletes => Ok(Refusal::Immutable(column)),
            _ => Ok(Refusal::Skipped),
        }
    }
}

/// Why the database executed a write and matched no row.
enum Refusal<E> {
    /// The row has another version.
    Conflict(E),
    /// The row has another value in this immutable column.
    Immutable(&'static str),
    /// There is no such row.
    NotFound,
    /// There is a row whose id is equal for the database in another spelling.
    Spelling,
    /// A trigger or a rule has suppressed the write.
    Skipped,
}

/// The failure of a write inside a transaction.
pub(crate) struct StagedFailure {
    pub(crate) error: Error,
    /// Whether the database has rolled the whole transaction back.
    pub(crate) dooms: bool,
}

impl StagedFailure {
    /// Returns a failure after which it is unknown which keys the transaction has changed.
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

impl From<WriteOutcome> for WriteEnd {
    fn from(fate: WriteOutcome) -> Self {
        match fate {
            WriteOutcome::Nothing => Self::Undone,
            // The returned row could not be read, so there is no cache update.
            WriteOutcome::Applied => Self::Committed,
            WriteOutcome::Unknown => Self::Unknown,
        }
    }
}

impl crate::policy::Policy {
    /// Returns whether a write caches the row it wrote. That is correct only for a write that was announced.
    pub(crate) fn caches_writes(&self) -> bool {
        self.strategy == Strategy::WriteThrough
            && self.coherence == Coherence::Intent
            && !self.after_triggers
    }
}
