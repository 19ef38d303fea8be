//! Futures of one type, for what is awaited rarely.
//!
//! A future that contains others is as large as the largest of them, and it is copied when its task begins. For each entity the compiler
//! also proves of each future that all it contains may be sent to another thread. Both end at a pointer to a future whose type is
//! not named: so that is what a rare or a long branch is behind.

use std::future::Future;

use futures_util::future::BoxFuture;

/// Puts a future on the heap.
pub(crate) fn boxed<'f, T>(future: impl Future<Output = T> + Send + 'f) -> BoxFuture<'f, T> {
    Box::pin(future)
}
