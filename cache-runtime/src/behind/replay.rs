//! The dead letters of a repository: the writes that its flushes could not apply.
//!
//! A letter is older than all later writes of its row, so replaying it blindly would undo them. And a letter must not
//! be replayed twice.
//!
//! 1. The letter records what the table contained of the row when the write was rejected (`letters::Found`).
//! 2. A replay reads the row as all readers see it, including queued writes, and compares. If it differs, the replay
//!    fails.
//! 3. Otherwise the replay queues the write, if the row has not changed since it was read, and removes the letter.
//!
//! Invariant: no other write of the row comes between the comparison and the queued write.
//! Invariant: of two concurrent replays of one letter, one fails.
//! Not here: how a write becomes a dead letter (`apply`), and the table (`letters`).

use std::{fmt, sync::Arc};

use crate::{
    behind::{
        Image,
        letter_seal::LetterSeals,
        letters::{self, DeadLetter, Found},
    },
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    store::{Store, failpoint::Mechanism},
};

/// The writes of one repository that were acknowledged and later rejected by the database.
pub struct DeadLetters<E: Entity, DB: Backend>(Arc<Context<E, DB>>);

impl<E: Entity, DB: Backend> fmt::Debug for DeadLetters<E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("entity", &E::SPEC.name)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> DeadLetters<E, DB> {
    /// Returns the dead letters of a repository.
    pub(crate) fn of(context: &Arc<Context<E, DB>>) -> Self {
        Self(Arc::clone(context))
    }

    /// Returns at most `limit` dead letters, ordered by partition and by their order in the queue.
    ///
    /// # Errors
    ///
    /// Errors of the database.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn list(&self, limit: u32) -> Result<Vec<DeadLetter<E>>, Error> {
        let inner = &self.0;
        inner.bind_now().await?;
        let queue = &inner.queue().name;
        letters::list(
            &inner.database.pool,
            queue,
            inner.fingerprint,
            LetterSeals::of(&inner.cache.store),
            limit,
        )
        .await
    }

    /// Queues the write of a letter again and removes the letter, if the row has not changed since the write was
    /// rejected. Queued writes of the row count as changes.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`] if the letter no longer exists, because it was replayed or discarded.
    /// - [`ErrorKind::Conflict`] if the row was written since, or if that is unknown. Nothing was queued.
    ///   [`Error::current`] has the current row. Continue with [`DeadLetters::replay_over`] or
    ///   [`DeadLetters::discard`].
    /// - [`ErrorKind::Conversion`] if this program cannot read the letter.
    /// - Otherwise as `modify`, and errors of the database.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the write may be queued and the letter may still exist. Another `replay` of
    /// it then fails, even if the row has not changed.
    pub async fn replay(&self, letter: &DeadLetter<E>) -> Result<(), Error> {
        self.queue_again(letter, false).await
    }

    /// As [`DeadLetters::replay`], but overwrites later writes of the row.
    ///
    /// # Errors
    ///
    /// As [`DeadLetters::replay`], except for the conflict.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the write may be queued and the letter may still exist.
    pub async fn replay_over(&self, letter: &DeadLetter<E>) -> Result<(), Error> {
        self.queue_again(letter, true).await
    }

    async fn queue_again(&self, letter: &DeadLetter<E>, over: bool) -> Result<(), Error> {
        const VERB: &str = "replay";
        let inner = &self.0;
        inner.bind_for_queue(VERB).await?;
        let gone = || {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "failed to replay {letter}: it no longer exists, because it was replayed or discarded"
                ),
            )
        };
        let (id, row) = match letter.image() {
            Some(Image::Row(row)) => (row.id(), Some(row)),
            Some(Image::Deletion(id)) => (id, None),
            Some(Image::Unreadable { .. }) | None => {
                return Err(Error::new(
                    ErrorKind::Conversion,
                    format!(
                        "failed to replay {letter}: {}; replay it with the version of the program that wrote it, or discard it",
                        letter.decode_error().unwrap_or("it cannot be read")
                    ),
                ));
            }
        };
        let pool = &inner.database.pool;
        let over = over || inner.cache.store.disables(Mechanism::LetterFound);
        let key = inner.key(&id)?;
        // Read what the row was when the write was rejected, and mark the letter as being replayed. A second replay
        // must not begin after that: if a later write undoes the first replay, the row looks unchanged again.
        let (found, is_noted) = loop {
            let found = letters::found(pool, letter).await?.ok_or_else(gone)?;
            if over || !matches!(found, Found::Nothing | Found::Row(_)) {
                break (found, false);
            }
            if letters::note_found(pool, letter, (&found, &Found::Replayed)).await? {
                break (found, true);
            }
        };
        let replayed = inner.exchange(VERB, &key, &id, |current| {
            if !over && found != Found::of(current.as_deref()) {
                return Err(changed_since(letter, &found, current));
            }
            Ok(row.clone())
        });
        let replayed = replayed.await;
        inner.count(&replayed);
        let undone = (&Found::Replayed, &found);
        if let Err(error) = &replayed
            && is_noted
            && error.kind() != ErrorKind::OutcomeUnknown
            && let Err(error) = letters::note_found(pool, letter, undone).await
        {
            tracing::debug!(
                %error,
                "failed to reset a dead letter after its replay failed; from now on only `replay_over` can replay it"
            );
        }
        replayed?;
        // Of two concurrent replays that get here, only one removes the letter.
        if letters::discard(pool, letter).await? {
            Ok(())
        } else {
            Err(gone())
        }
    }

    /// Removes a letter.
    ///
    /// # Errors
    ///
    /// Errors of the database. A letter that no longer exists is not an error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped half-way, the letter may or may not still exist.
    pub async fn discard(&self, letter: &DeadLetter<E>) -> Result<(), Error> {
        self.0.bind_now().await?;
        letters::discard(&self.0.database.pool, letter).await?;
        Ok(())
    }
}

#[cfg(feature = "redis")]
impl<E: Entity, DB: Backend> Context<E, DB> {
    /// As [`DeadLetters::replay`], of the letter at a place, for somebody who may be nobody with a key: a letter whose write larder
    /// has not stored is refused.
    pub(crate) async fn replay_from_outside(
        self: &Arc<Self>,
        place: (u16, u64, u64),
    ) -> Result<(), Error> {
        self.bind_now().await?;
        let (pool, queue) = (&self.database.pool, &self.queue().name);
        let seals = LetterSeals::of(&self.cache.store);
        let letter = letters::at(pool, queue, self.fingerprint, seals, place).await?;
        let letter = letter.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("failed to replay a dead letter of {queue}: there is none at this place"),
            )
        })?;
        if letter.is_forged() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("failed to replay {letter}: larder has not stored this write; discard it"),
            ));
        }
        DeadLetters::of(self).replay(&letter).await
    }
}

/// Returns the error of a replay whose row has changed, or may have.
fn changed_since<E: Entity>(
    letter: &DeadLetter<E>,
    found: &Found,
    current: Option<Arc<E>>,
) -> Error {
    let why = match found {
        Found::Unknown => "it is unknown whether its row was written since the write was rejected",
        Found::Later => "a later write of its row was applied in the same flush",
        Found::Replayed => "an earlier replay of it began and may have queued its write",
        Found::Nothing | Found::Row(_) => "its row was written since the write was rejected",
    };
    let message = format!(
        "failed to replay {letter}: {why}; compare it with the row, then `replay_over` or `discard` it"
    );
    match current {
        Some(current) => Error::conflict(message, current),
        None => Error::new(ErrorKind::Conflict, message),
    }
}
