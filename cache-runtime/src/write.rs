//! One write, step by step.
//!
//! 1. Announce: `begin` puts this write's intent on the key, so that nothing can be served from it or stored at it.
//! 2. Run the statement. It commits by itself, or in a transaction of its own where it takes more than one statement or
//!    where the database chooses the id; then the intent is placed after the insert and before the commit.
//! 3. Take the announcement back: `end` leaves nothing at the key, and the next read loads the new row.
//! 4. Answer the caller.
//!
//! Invariant: with coherence `intent`, every commit lies between an acknowledged `begin` and its `end`; an intent that is
//! about to expire while its statement runs is renewed.
//! Invariant: a write whose outcome is unknown keeps its intent, which then expires by itself: the statement may still
//! commit after the connection broke.
//! Not here: when the store is away the write is made all the same; see `docs/coherence.md` for what that costs.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    backend::Backend,
    clock::{Deadline, millis},
    database::{self, Fate, Write, Written},
    entity::Entity,
    error::{Error, ErrorKind},
    key::Key,
    policy::Coherence,
    repair::Repair,
    repository::Inner,
    store::Store,
    token::Token,
};

/// How soon an announcement that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// The announcement of one write.
struct Announcement<'a, E: Entity, DB: Backend> {
    repository: &'a Inner<E, DB>,
    intent: Token,
    /// The key it stands on, once that is known.
    key: Option<Key>,
    /// The run of the store that has acknowledged it.
    stands_in: Option<u64>,
    /// When it has to be renewed.
    renewal: Deadline,
}

/// Why a write failed.
struct Failure {
    error: sqlx::Error,
    fate: Fate,
}

impl Failure {
    /// Nothing was sent that could be applied without a commit.
    fn before_commit(error: sqlx::Error) -> Self {
        Self {
            error,
            fate: Fate::Nothing,
        }
    }

    /// A statement that commits by itself, or a commit, was sent, and this is what came of it.
    fn at_commit(error: sqlx::Error) -> Self {
        Self {
            fate: Fate::of(&error),
            error,
        }
    }
}

impl<E: Entity, DB: Backend> Inner<E, DB> {
    /// Runs a write to its end. The row, where the database filled in a part of it.
    pub(crate) async fn write(&self, write: &Write<E>) -> Result<Option<Arc<E>>, Error> {
        let key = match write {
            Write::Insert(_) if self.database.generates_id() => None,
            Write::Insert(entity) | Write::Update(entity) | Write::Save(entity) => {
                Some(self.key(&entity.id())?)
            }
            Write::Delete(id) => Some(self.key(id)?),
        };
        let mut announcement = Announcement {
            repository: self,
            intent: Token::draw(),
            key,
            stands_in: None,
            renewal: Deadline::after(self.policy.intent_ttl / 3),
        };
        let result = self.write_announced(write, &mut announcement).await;
        match &result {
            // The statement may still commit: the intent keeps readers off the key until it expires.
            Err(Failure {
                error,
                fate: Fate::Unknown,
            }) if announcement.stands_in.is_some() => {
                tracing::warn!(
                    entity = E::SPEC.name,
                    %error,
                    "the outcome of a write is unknown; its key stays uncached for a while"
                );
            }
            Err(Failure {
                fate: Fate::Unknown,
                ..
            }) if self.policy.coherence == Coherence::Intent => announcement.announce_later(),
            _ => announcement.end().await,
        }
        let what = || match &announcement.key {
            Some(key) => self.what(key),
            None => E::SPEC.name.to_owned(),
        };
        match result {
            Ok(written) if written.rows == 0 => {
                self.counters.write_errors.add_one();
                Err(refused(write, &what()))
            }
            Ok(written) => {
                self.counters.writes.add_one();
                Ok(written.row.map(Arc::new))
            }
            Err(Failure { error, fate }) => {
                self.counters.write_errors.add_one();
                Err(database::describe(write.verb(), &what(), error, fate))
            }
        }
    }

    async fn write_announced(
        &self,
        write: &Write<E>,
        announcement: &mut Announcement<'_, E, DB>,
    ) -> Result<Written<E>, Failure> {
        // The pool's own round trip and the announcement's go on at the same time.
        let (connection, ()) = tokio::join!(self.database.acquire(), announcement.begin());
        let mut connection = connection.map_err(Failure::before_commit)?;
        if !self.database.needs_transaction(write) {
            announcement.confirm().await;
            let statement = self.database.apply(&mut connection, write);
            return announcement
                .during(statement)
                .await
                .map_err(Failure::at_commit);
        }
        let mut transaction = database::begin::<DB>(&mut connection)
            .await
            .map_err(Failure::before_commit)?;
        let statement = self.database.apply(&mut transaction, write);
        let written = announcement
            .during(statement)
            .await
            .map_err(Failure::before_commit)?;
        if announcement.key.is_none() {
            // The database has chosen the id; nobody can have seen the row yet.
            let row = written.row.as_ref().ok_or(sqlx::Error::RowNotFound);
            let key = row.and_then(|row| {
                let key = self.keys.key(&row.id());
                key.map_err(|unusable| sqlx::Error::Encode(unusable.into()))
            });
            announcement.key = Some(key.map_err(Failure::before_commit)?);
            announcement.begin().await;
        } else {
            announcement.confirm().await;
        }
        let commit = transaction.commit();
        announcement
            .during(commit)
            .await
            .map_err(Failure::at_commit)?;
        Ok(written)
    }
}

impl<E: Entity, DB: Backend> Announcement<'_, E, DB> {
    /// Puts the intent on the key, or prolongs it. A store that fails does not stop the write.
    async fn begin(&mut self) {
        let intent_ttl = self.repository.policy.intent_ttl;
        // Counted from before the command is sent, so from earlier than the store counts.
        self.renewal = Deadline::after(intent_ttl / 3);
        if self.repository.policy.coherence < Coherence::Intent {
            return;
        }
        let Some(key) = &self.key else { return };
        let store = &self.repository.cache.store;
        self.repository.cache.repairs.announced(key);
        let run = store.run();
        match store.begin(key, self.intent, millis(intent_ttl)).await {
            Ok(()) => self.stands_in = Some(run),
            Err(error) => {
                self.stands_in = None;
                self.renewal = Deadline::after(RETRY);
                self.repository.counters.store_errors.add_one();
                tracing::debug!(%key, %error, "a write could not be announced");
            }
        }
    }

    /// Announces again, just before what may commit, if the announcement is old or was made to an earlier run of the store,
    /// which may have lost it.
    async fn confirm(&mut self) {
        let lost = self
            .stands_in
            .is_some_and(|run| run != self.repository.cache.store.run());
        if lost || self.renewal.has_passed() {
            self.begin().await;
        }
    }

    /// Runs a step of the write, renewing the intent as long as it takes. The step goes on meanwhile.
    async fn during<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = std::pin::pin!(step);
        loop {
            let renewal = self.renewal;
            tokio::select! {
                biased;
                done = step.as_mut() => return done,
                // A renewal that is dropped half-way was sent before the end of the write, on the same connection.
                () = async { renewal.passed().await; self.begin().await; } => {}
            }
        }
    }

    /// Leaves the announcement of a write that may still commit to be made when the store is back.
    fn announce_later(&self) {
        if let Some(key) = &self.key {
            let how = Repair::Announce {
                intent: self.intent,
                intent_ttl_ms: millis(self.repository.policy.intent_ttl),
            };
            self.repository.cache.repairs.remember(key, how);
        }
    }

    /// Takes the intent back, or drops the key where writes are not announced.
    async fn end(&self) {
        let Some(key) = &self.key else { return };
        let store = &self.repository.cache.store;
        self.repository.cache.repairs.announced(key);
        let result = match self.repository.policy.coherence {
            Coherence::Ttl => return,
            Coherence::Lease => store.invalidate(key).await,
            Coherence::Intent => store.end(key, self.intent).await,
        };
        if result.is_err() {
            self.repository.counters.store_errors.add_one();
            self.repository.cache.repairs.remember(key, Repair::Drop);
        }
    }
}

/// Why a write that the database carried out has matched no row.
fn refused<E: Entity>(write: &Write<E>, what: &str) -> Error {
    match write {
        Write::Save(_) => Error::new(
            ErrorKind::Duplicate,
            format!(
                "failed to save {what}: there is a row whose id the database calls equal but spells differently"
            ),
        ),
        Write::Insert(_) | Write::Update(_) | Write::Delete(_) => Error::new(
            ErrorKind::NotFound,
            format!("failed to {} {what}: there is no such row", write.verb()),
        ),
    }
}
