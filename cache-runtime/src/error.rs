//! The one error of larder: what was attempted, on which entity and key, and a kind to match on.
//!
//! A cache that is away is not an error of a read; such failures are counted (`stats`) and never reach a caller. What
//! does reach a caller came from the database, from the entity itself, or from the way larder was set up.

use std::{any::Any, error::Error as StdError, fmt, sync::Arc};

/// What went wrong, for code that reacts to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `update`, `delete` or `modify` named a row that does not exist.
    NotFound,
    /// A unique constraint of the database refused the row, or a batch names one row twice.
    Duplicate,
    /// The row was changed since it was read: its version is another one. The row as it is now is in [`Error::current`].
    Conflict,
    /// The database failed or refused a statement; the cause is in [`source`](StdError::source).
    Database,
    /// The connection was lost while a write was under way: it may or may not have been applied.
    OutcomeUnknown,
    /// A row that the database returned could not be decoded into the entity, or a value not encoded for the database; or the
    /// codec does not give back a row that was to be queued, which then was not.
    Conversion,
    /// larder was set up in a way that cannot work; the message says what to change.
    Configuration,
    /// The store could not be reached: for an operation that is about the store alone, or for a write of an entity whose
    /// `on_outage` is `consistent`, which then changed nothing.
    Store,
    /// The row has more bytes, when it is encoded, than a queue takes: `max_row`, or what Redis takes at once. Nothing was
    /// written.
    TooLarge,
    /// As many writes are queued as may be, and the entity's `on_full` is `refuse`. Nothing was written.
    Backpressure,
    /// The task that loaded or wrote the row panicked or was stopped with its runtime, or a transaction cannot go on.
    Aborted,
}

/// An error of a repository operation.
///
/// Cheap to clone: callers that shared one load share its error.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    current: Option<Arc<dyn Any + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            source: None,
            current: None,
        }))
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            source: Some(source.into()),
            current: None,
        }))
    }

    /// An error of kind [`ErrorKind::Conflict`] with the row as it is now.
    pub(crate) fn conflict<E: Send + Sync + 'static>(
        message: impl Into<String>,
        current: Arc<E>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::Conflict,
            message: message.into(),
            source: None,
            current: Some(current),
        }))
    }

    /// What went wrong, for code that reacts to it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The row as it is now, after a conflict ([`ErrorKind::Conflict`]) over an entity `E`.
    #[must_use]
    pub fn current<E: Send + Sync + 'static>(&self) -> Option<Arc<E>> {
        Arc::clone(self.0.current.as_ref()?).downcast().ok()
    }

    /// The error of sqlx that caused this one, if it was one.
    #[must_use]
    pub fn database_error(&self) -> Option<&sqlx::Error> {
        self.0.source.as_deref()?.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// The failure of a store. It never reaches the caller of a read.
#[derive(Clone, Debug)]
pub struct StoreError {
    message: Arc<str>,
    /// Whether what was asked for may have been done all the same.
    pub(crate) may_be_done: bool,
}

impl StoreError {
    /// A failure after which nothing was done.
    pub(crate) fn new(message: impl Into<Arc<str>>) -> Self {
        Self {
            message: message.into(),
            may_be_done: false,
        }
    }

    /// A failure to get an answer.
    pub(crate) fn unanswered(message: impl Into<Arc<str>>) -> Self {
        Self {
            message: message.into(),
            may_be_done: true,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StoreError {}
