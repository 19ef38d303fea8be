//! Work that always runs to its end: it runs in a task of its own, which continues if the caller's future is dropped.
//!
//! A statement that is dropped while it runs can leave its connection in a state that the driver does not know: inside
//! a transaction whose `BEGIN` the driver did not record, or with an unread reply. The pool then gives that connection
//! to another caller, or never gets it back. docs/upstream.md lists the cases in sqlx 0.9.
//!
//! Invariant: no statement of larder is dropped while it runs, except in a transaction that is dropped, the user's or a
//! flush's.
//! Not here: transactions that are dropped (`open_transaction`).

use std::{future::Future, pin::Pin};

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
};
use tracing::Instrument;

/// Starts a task in the current span.
///
/// It is boxed as one type for all: what tokio has for a task is compiled once for each type of future, and there are several
/// for each entity and database.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
    tokio::spawn(work.in_current_span())
}

/// Starts work that runs to its end even if no caller waits for it. The returned future fails if the work panics or its
/// runtime shuts down.
pub(crate) fn run<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    // Not an async function, so that the work starts at once.
    let (answer, answered) = oneshot::channel();
    let task = spawn(async move {
        // The caller may have been dropped.
        let _unheard = answer.send(work.await);
    });
    async move {
        task.await?;
        Ok(answered.await.expect("a task that has ended has answered"))
    }
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

/// Returns the error of work whose task panicked or was stopped.
pub(crate) fn stopped_half_way(stopped: &dyn std::error::Error) -> sqlx::Error {
    sqlx::Error::Protocol(format!(
        "the task panicked or its runtime shut down: {stopped}"
    ))
}
