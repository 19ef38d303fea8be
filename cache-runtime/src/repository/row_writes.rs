//! Writes of one row, wherever they go: to the database, or to a queue.
//!
//! The type `Entity::Writes` decides. So an entity without a queue is compiled without the code of one, which is a large part of
//! the runtime.

use std::sync::Arc;

use crate::{
    context::run_detached,
    database::{
        Write,
        backend::Backend,
        entity::Entity,
        writes::{ToDatabase, ToQueue},
    },
    error::Error,
    repository::Repository,
    write::{
        modify::{ChangeResult, Modified},
        together::Told,
    },
};

/// Writes of one row, wherever they go: those of [`ToDatabase`] and [`ToQueue`].
#[diagnostic::on_unimplemented(
    message = "an entity with `read_only` has no writes",
    label = "this entity is only read",
    note = "call `invalidate` after another program has written the row",
    note = "code that is generic over the entity names the bound: `E: Entity<Writes: RowWrites>`"
)]
pub trait RowWrites {
    /// `F` itself.
    type Operation<F: Future>: Future<Output = F::Output> + From<F>;

    /// Runs a write to its end. Returns the row as written, or `None` for a delete.
    #[doc(hidden)]
    fn write<E: Entity, DB: Backend>(
        repository: &Repository<E, DB>,
        write: Write<E>,
    ) -> impl Future<Output = Result<Option<Arc<E>>, Error>> + Send;

    /// Changes a row.
    #[doc(hidden)]
    fn modify<E: Entity, DB: Backend, R: ChangeResult>(
        repository: &Repository<E, DB>,
        id: &E::Id,
        change: impl FnMut(&mut E) -> R + Send,
    ) -> impl Future<Output = Result<Modified<E, R::Value>, Error>> + Send;
}

impl RowWrites for ToDatabase {
    type Operation<F: Future> = F;

    async fn write<E: Entity, DB: Backend>(
        repository: &Repository<E, DB>,
        write: Write<E>,
    ) -> Result<Option<Arc<E>>, Error> {
        let context = Arc::clone(&repository.0);
        context.bind_for_write().await?;
        run_detached::<E, _>(write.verb(), async move {
            let (write, permit) = match context.write_together(write).await {
                Told::Written(row) => return row,
                Told::Alone(write, permit) => (write, permit),
            };
            let row = Box::pin(context.write(&write)).await?;
            drop(permit);
            Ok(row.or_else(|| context.row_of(write)))
        })
        .await
    }

    async fn modify<E: Entity, DB: Backend, R: ChangeResult>(
        repository: &Repository<E, DB>,
        id: &E::Id,
        change: impl FnMut(&mut E) -> R + Send,
    ) -> Result<Modified<E, R::Value>, Error> {
        repository.0.modify_row(id, change).await
    }
}

impl RowWrites for ToQueue {
    type Operation<F: Future> = F;

    async fn write<E: Entity, DB: Backend>(
        repository: &Repository<E, DB>,
        write: Write<E>,
    ) -> Result<Option<Arc<E>>, Error> {
        repository.0.bind_for_queue(write.verb()).await?;
        repository.0.write_behind(write).await
    }

    async fn modify<E: Entity, DB: Backend, R: ChangeResult>(
        repository: &Repository<E, DB>,
        id: &E::Id,
        change: impl FnMut(&mut E) -> R + Send,
    ) -> Result<Modified<E, R::Value>, Error> {
        repository.0.bind_for_queue("modify").await?;
        let written = repository.0.modify_queued(id, change).await;
        repository.0.count(&written);
        written
    }
}
