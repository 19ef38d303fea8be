//! The error type of larder: what was attempted, on which entity and key, and a kind to match on.
//!
//! An unreachable cache is not an error of a read: such failures are counted (`stats`) and the caller never sees them.
//! The errors that a caller sees come from the database, from the entity itself, or from the way larder was set up.

use std::{any::Any, error::Error as StdError, fmt, sync::Arc};

use crate::printed;

/// The kind of an error, to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `update`, `delete` or `modify` named a row that does not exist.
    NotFound,
    /// A unique constraint of the database rejected the row, or a batch contains one row twice.
    Duplicate,
    /// Another write changed the row since it was read, so its version differs. [`Error::current`] has the current row.
    Conflict,
    /// The change of a `modify` returned an error, which is the [`source`](StdError::source). Or a write would have changed an
    /// `immutable` column. Nothing was written.
    Refused,
    /// The database failed or rejected a statement. The cause is in [`source`](StdError::source). Or it accepted a write and
    /// skipped the row, because of a trigger or a rule.
    Database,
    /// The connection was lost during a write, or the task of a commit was stopped. The write may or may not have been
    /// applied.
    OutcomeUnknown,
    /// A row from the database could not be decoded into the entity, or a value could not be encoded for the database. The
    /// code of a type may also have panicked while it did so. If the row was written, the message says so.
    /// Or the codec does not reproduce a row that was to be queued, and the write was not queued.
    Conversion,
    /// larder was set up in a way that cannot work. The message says what to change.
    Configuration,
    /// The store could not be reached, and the operation needs it. This includes writes of an entity whose `on_outage`
    /// is `consistent`: such a write changed nothing.
    CacheUnavailable,
    /// The encoded row is larger than the queue accepts: larger than `max_row`, or than Redis accepts in one command.
    /// Nothing was written.
    TooLarge,
    /// Too many loads of this repository wait for their turn
    /// ([`max_waiting_loads`](crate::CacheBuilder::max_waiting_loads)), and nothing was read. Or the row of a lookup was
    /// changed again and again while it was being read. Try again.
    Overloaded,
    /// The queue is full (`max_pending`) and the entity's `on_full` is `refuse`. Nothing was written.
    Backpressure,
    /// The task that loaded or wrote the row panicked, or stopped with its runtime. A write may or may not have been
    /// applied.
    TaskFailed,
    /// The transaction can only be rolled back: one of its statements was dropped half-way, or the database has ended
    /// it.
    TransactionAborted,
    /// `shutdown` did not finish in time. The remaining writes stay queued. Or a read took longer than its `timeout`. A load that
    /// it has begun may continue, and fill the cache.
    DeadlineExceeded,
}

/// An error of a repository operation.
///
/// Cloning is cheap. Callers that shared one load share its error.
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

    /// Returns an error of kind [`ErrorKind::Conflict`] with the current row.
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

    /// Returns the kind of the error, to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the current row after a conflict ([`ErrorKind::Conflict`]) on an entity `E`.
    #[must_use]
    pub fn current<E: Send + Sync + 'static>(&self) -> Option<Arc<E>> {
        Arc::clone(self.0.current.as_ref()?).downcast().ok()
    }

    /// Returns the sqlx error that caused this one, if there is one.
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
    /// Whether the store may have executed the command in spite of the failure.
    pub(crate) may_be_done: bool,
}

impl StoreError {
    /// Returns a failure after which nothing was done.
    pub(crate) fn new(message: impl Into<Arc<str>>) -> Self {
        Self::of(message.into(), false)
    }

    /// Returns a failure to get a reply.
    pub(crate) fn unanswered(message: impl Into<Arc<str>>) -> Self {
        Self::of(message.into(), true)
    }

    fn of(message: Arc<str>, may_be_done: bool) -> Self {
        let printed = printed::message(&message).map(Arc::from);
        Self {
            message: printed.unwrap_or(message),
            may_be_done,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StoreError {}
