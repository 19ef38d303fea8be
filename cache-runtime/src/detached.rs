//! Work that is never left half-way: it runs in a task of its own, and ends there if the caller's future is dropped.
//!
//! A statement that is dropped while it runs can leave its connection in a state that the driver does not know of: inside a
//! transaction (`BEGIN` was sent, nobody has noted it), or with a reply that nobody reads. The pool then gives that connection
//! to somebody else, or never gets it back. docs/upstream.md lists what sqlx 0.9 leaves behind, and where.
//!
//! Invariant: outside a [`Transaction`](crate::Transaction) that its user drops, no statement of larder is dropped while it runs.
//! Not here: what becomes of a transaction that is dropped (`open_transaction`).

use std::future::Future;

use tokio::task::JoinError;
use tracing::Instrument;

/// Runs work to its end, whether or not somebody waits for it. Fails if the work panics or its runtime is shut down.
pub(crate) async fn run<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    tokio::spawn(work.in_current_span()).await
}

/// As [`run`], for work on the database.
pub(crate) async fn query<T: Send + 'static>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
) -> Result<T, sqlx::Error> {
    run(work)
        .await
        .unwrap_or_else(|stopped| Err(stopped_half_way(&stopped)))
}

/// The error of work whose task was stopped half-way.
pub(crate) fn stopped_half_way(stopped: &dyn std::error::Error) -> sqlx::Error {
    sqlx::Error::Protocol(format!("the task was stopped half-way: {stopped}"))
}
