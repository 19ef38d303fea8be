//! The dead letters of a repository: what its flushes could not bring to the database.
//!
//! A letter is older than everything that was written of its row since, so that replaying it blindly would undo that. And a
//! replay that has been made once must not be made again.
//!
//! 1. The letter says what the table held of the row when its write died (`letters::Found`).
//! 2. A replay reads the row as everybody sees it, with what is queued, and compares. Other than that: refused.
//! 3. It queues the write if what it read is still there, and removes the letter.
//!
//! Invariant: between what was compared and what is queued no other write comes in between.
//! Invariant: of two replays of one letter at once one is an error.
//! Not here: how a write becomes one (`apply`), and the table (`letters`).

use std::{fmt, sync::Arc};

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    behind::{
        Image,
        letters::{self, DeadLetter, Found},
    },
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
};

/// The writes of one repository that were acknowledged and then refused by the database.
pub struct DeadLetters<E: Entity, DB: Backend>(Arc<Context<E, DB>>);

impl<E: Entity, DB: Backend> fmt::Debug for DeadLetters<E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters")
            .field("entity", &E::SPEC.name)
            .finish_non_exhaustive()
    }
}

impl<E: Entity, DB: Backend> DeadLetters<E, DB> {
    /// Those of a repository.
    pub(crate) fn of(context: &Arc<Context<E, DB>>) -> Self {
        Self(Arc::clone(context))
    }

    /// The dead letters, at most so many, in the order of their partitions and of the queue.
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
        letters::list(&inner.database.pool, queue, inner.fingerprint, limit).await
    }

    /// Queues the write of a letter again and removes the letter, if the row is still what it was when the write died: what is
    /// queued of it counts as well.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a letter that is not there any more, because it was replayed or discarded.
    /// [`ErrorKind::Conflict`] when the row was written since, or it is not known whether it was; nothing is queued then. The
    /// row as it is now is in [`Error::current`]: [`DeadLetters::replay_over`] or [`DeadLetters::discard`] is what follows.
    /// [`ErrorKind::Conversion`] for a letter that this program cannot read; otherwise as `modify` and errors of the database.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, the write may be queued and the letter still be there; replayed again it is refused, whatever became of
    /// the row since.
    pub async fn replay(&self, letter: &DeadLetter<E>) -> Result<(), Error> {
        self.queue_again(letter, false).await
    }

    /// As [`DeadLetters::replay`], and over whatever was written since: the row becomes what the letter says.
    ///
    /// # Errors
    ///
    /// As [`DeadLetters::replay`], without the conflict.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, the write may be queued and the letter still be there.
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
                    "failed to replay {letter}: it is not there any more; it was replayed or discarded"
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
                        "failed to replay {letter}: {}; the version of the program that wrote it can, or discard it",
                        letter.unreadable().unwrap_or("it cannot be read")
                    ),
                ));
            }
        };
        let pool = &inner.database.pool;
        #[cfg(feature = "test-util")]
        let over = over || inner.cache.store.is_left_out(Mechanism::LetterFound);
        let key = inner.key(&id)?;
        // What the row was when the write died. No other replay can begin once one has: the row may be as it was by then, because
        // what was queued has been undone.
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
            tracing::debug!(%error, "a dead letter whose replay was refused can only be replayed over its row now");
        }
        replayed?;
        // Of two that have come here at once, one has removed it.
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
    /// Errors of the database. A letter that is not there any more is none.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, the letter may or may not be there.
    pub async fn discard(&self, letter: &DeadLetter<E>) -> Result<(), Error> {
        self.0.bind_now().await?;
        letters::discard(&self.0.database.pool, letter).await?;
        Ok(())
    }
}

/// Why a letter is not replayed over a row.
fn changed_since<E: Entity>(
    letter: &DeadLetter<E>,
    found: &Found,
    current: Option<Arc<E>>,
) -> Error {
    let why = match found {
        Found::Unknown => "it is not known whether its row was written since it died",
        Found::Later => "a later write of its row was applied together with it",
        Found::Replayed => "a replay of it has begun before, and may have queued its write",
        Found::Nothing | Found::Row(_) => "its row was written since it died",
    };
    let message = format!(
        "failed to replay {letter}: {why}; compare the two, then `replay_over` or `discard` it"
    );
    match current {
        Some(current) => Error::conflict(message, current),
        None => Error::new(ErrorKind::Conflict, message),
    }
}
