//! Work that is never left half-way: it runs in a task of its own, and ends there if the caller's future is dropped.
//!
//! A statement that is dropped while it runs can leave its connection in a state that the driver does not know of: inside a
//! transaction (`BEGIN` was sent, nobody has noted it), or with a reply that nobody reads. The pool then gives that connection
//! to somebody else, or never gets it back. docs/upstream.md lists what sqlx 0.9 leaves behind, and where.
//!
//! Invariant: outside a transaction that is dropped, the user's or that of a flush, no statement of larder is dropped while it
//! runs.
//! Not here: what becomes of a transaction that is dropped (`open_transaction`).

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Begins work that runs to its end, whether or not somebody waits for it. Waiting fails if the work panics or its runtime is
/// shut down.
pub(crate) fn run<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    // Not an async function: the future of its caller would have room for the work as well.
    tokio::spawn(work.in_current_span())
}

/// As [`run`], for work on the database.
pub(crate) fn query<T: Send + 'static>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
) -> impl Future<Output = Result<T, sqlx::Error>> + Send {
    let running = run(work);
    async move {
        let done = running.await;
        done.unwrap_or_else(|stopped| Err(stopped_half_way(&stopped)))
    }
}

/// The error of work whose task was stopped half-way.
pub(crate) fn stopped_half_way(stopped: &dyn std::error::Error) -> sqlx::Error {
    sqlx::Error::Protocol(format!("the task was stopped half-way: {stopped}"))
}
