//! A statement that reads the database for one caller and fills nothing: a page beyond the cached ids, a count, or a query
//! of the user.
//!
//! It runs in a task of its own, and waits for its turn as a load does. Nobody else waits for its result.
//!
//! Invariant: a caller that leaves before the statement is sent costs the database nothing.
//! Not here: loads whose result is cached or shared (`load`).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    detached,
    error::Error,
    read::{content::SelectError, load::load_stopped},
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Reads the database for one caller, in a task of its own, and fills nothing. The task ends early if the caller leaves
    /// before its statement is sent.
    pub(crate) async fn load_once<T: Send + 'static>(
        self: &Arc<Self>,
        described: String,
        read: impl for<'c> FnOnce(
            &'c Self,
            &'c mut DB::Connection,
        ) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + 'static,
    ) -> Result<T, Error> {
        self.counters.misses.add_one();
        self.counters.uncached_loads.add_one();
        let stopped = load_stopped(&described);
        let (mut answer, answered) = oneshot::channel();
        let context = Arc::clone(self);
        let load = async move {
            let loaded = context.load_for(&described, &mut answer, read).await;
            if let Some(loaded) = loaded.transpose() {
                // The caller may have been dropped.
                let _gone = answer.send(loaded);
            }
        };
        detached::spawn(load);
        answered.await.unwrap_or(Err(stopped))
    }

    /// Returns `None` if the caller left before the statement was sent.
    async fn load_for<T>(
        &self,
        described: &str,
        answer: &mut oneshot::Sender<Result<T, Error>>,
        read: impl for<'c> FnOnce(
            &'c Self,
            &'c mut DB::Connection,
        ) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    ) -> Result<Option<T>, Error> {
        let Some(turn) = self.turn(described, 1, answer.closed()).await? else {
            return Ok(None);
        };
        let read = async |connection: &mut DB::Connection| {
            if answer.is_closed() {
                self.counters.abandoned_loads.add_one();
                return Ok(None);
            }
            let bound = self.bind_within(connection).await;
            bound.map_err(SelectError::Refused)?;
            Ok(Some(read(self, connection).await?))
        };
        self.read_in_turn(turn, described, 1, read).await
    }
}
