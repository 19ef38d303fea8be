//! How the rows of an entity are written, as types. An operation that the entity does not have then fails to compile, in
//! `cargo check` too, and with a message that names the one to use.
//!
//! The derive chooses [`Entity::Writes`](crate::Entity::Writes) and [`Entity::Deletes`](crate::Entity::Deletes). Code that is
//! generic over the entity names what it needs: `E: Entity<Writes = ToQueue>`.
//!
//! Each trait has the associated type `Operation`, for the reason that [`AsId`](crate::AsId) gives.

/// Writes go to the database: `strategy = "aside"` or `strategy = "write_through"`.
#[derive(Clone, Copy, Debug)]
pub enum ToDatabase {}

/// Writes go to a queue, and to the database later: `strategy = "write_behind"`.
#[derive(Clone, Copy, Debug)]
pub enum ToQueue {}

/// There are no writes: the entity is `read_only`.
#[derive(Clone, Copy, Debug)]
pub enum Nowhere {}

/// Rows have no version and are deleted by their ids.
#[derive(Clone, Copy, Debug)]
pub enum ById {}

/// Rows have a version, and each is deleted only if it still has the version that the caller knows.
#[derive(Clone, Copy, Debug)]
pub enum ByVersion {}

/// Writes that go to the database: those of [`ToDatabase`].
#[diagnostic::on_unimplemented(
    message = "this operation writes to the database at once, and the entity does not",
    label = "not possible for this entity",
    note = "an entity with `strategy = \"write_behind\"` is written through its queue only, one row at a time: `insert`, `save`, `update`, `delete` or `modify`, outside of transactions",
    note = "an entity with `read_only` has no writes"
)]
pub trait DirectWrites {
    /// `F` itself.
    type Operation<F: Future>: Future<Output = F::Output> + From<F>;
}

impl DirectWrites for ToDatabase {
    type Operation<F: Future> = F;
}

/// Writes that go to a queue: those of [`ToQueue`].
#[diagnostic::on_unimplemented(
    message = "only an entity with `strategy = \"write_behind\"` has a queue",
    label = "this entity has no queue",
    note = "without a queue a write is in the database when the call returns; change a row with `update`, `save` or `modify`"
)]
pub trait QueuedWrites {
    /// `F` itself.
    type Operation<F: Future>: Future<Output = F::Output> + From<F>;
}

impl QueuedWrites for ToQueue {
    type Operation<F: Future> = F;
}

/// Deletes that need no version: those of [`ById`].
#[diagnostic::on_unimplemented(
    message = "a row with a version cannot be deleted by its id alone",
    label = "deletes whatever version the row has",
    note = "`delete_row` deletes a row if it still has the version that you read, and `delete_rows` several rows"
)]
pub trait DeletesById {
    /// `F` itself.
    type Operation<F: Future>: Future<Output = F::Output> + From<F>;
}

impl DeletesById for ById {
    type Operation<F: Future> = F;
}
