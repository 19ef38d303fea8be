//! The link between an entity and one database: which columns, how to bind them, how to read a row back.
//!
//! The derive implements [`Source`] once, for every database whose types fit (a `where` clause per field). A program is
//! compiled with one or more database features, and an entity with a Postgres array must not stop compiling because
//! another crate switched SQLite on. So the implementation is looked up per database with [`Probe`], whose constant is
//! `None` where a field does not fit, and the misfit is reported only where a pool of that database is really used.

use std::marker::PhantomData;

use sqlx::{FromRow, error::BoxDynError};

use crate::{
    backend::Backend,
    column::{Binder, Column, ColumnList, Columns},
    entity::Entity,
};

/// An entity that database `DB` can store. Implemented by `#[derive(Cached)]`.
pub trait Source<DB: Backend>: Entity + Columns<DB> + for<'r> FromRow<'r, DB::Row> {
    /// Offers the parts of an id, in field order.
    ///
    /// # Errors
    ///
    /// Fails when a part cannot be encoded for the database.
    fn bind_id(id: &Self::Id, values: &mut Binder<'_, DB>) -> Result<(), BoxDynError>;
}

/// A [`Source`] as plain function pointers, so that code generic over the database needs no bound but [`Backend`].
#[derive(Debug)]
pub struct Binding<E: Entity, DB: Backend> {
    pub(crate) describe: fn(&mut ColumnList<DB>),
    pub(crate) bind: fn(&E, &mut Binder<'_, DB>) -> Result<(), BoxDynError>,
    pub(crate) bind_id: fn(&E::Id, &mut Binder<'_, DB>) -> Result<(), BoxDynError>,
    pub(crate) from_row: fn(&DB::Row) -> Result<E, sqlx::Error>,
}

impl<E: Entity, DB: Backend> Clone for Binding<E, DB> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Entity, DB: Backend> Copy for Binding<E, DB> {}

/// Asks at compile time what `T` can do with database `DB`.
///
/// An inherent constant that exists only under a bound shadows the one of [`ProbeFallback`]; where the bound does not
/// hold, the fallback answers. This works for concrete types only, which is what generated code has.
#[derive(Debug)]
pub struct Probe<T, DB>(PhantomData<(T, DB)>);

impl<E: Source<DB>, DB: Backend> Probe<E, DB> {
    /// The functions of the entity, if it fits the database.
    pub const BINDING: Option<Binding<E, DB>> = Some(Binding {
        describe: <E as Columns<DB>>::describe,
        bind: <E as Columns<DB>>::bind,
        bind_id: <E as Source<DB>>::bind_id,
        from_row: |row| <E as FromRow<'_, DB::Row>>::from_row(row),
    });
}

impl<T: Column<DB>, DB: Backend> Probe<T, DB> {
    /// Whether the type fits a column of the database.
    pub const IS_COLUMN: bool = true;
}

impl<T: for<'r> FromRow<'r, DB::Row>, DB: Backend> Probe<T, DB> {
    /// Whether the type can be read from a row of the database.
    pub const IS_ROW: bool = true;
}

impl<T: Columns<DB>, DB: Backend> Probe<T, DB> {
    /// Whether the type is a nested struct with known columns.
    pub const HAS_COLUMNS: bool = true;
}

/// What [`Probe`] answers where the bound does not hold.
pub trait ProbeFallback<E: Entity, DB: Backend> {
    /// See [`Probe::BINDING`].
    const BINDING: Option<Binding<E, DB>> = None;
}

impl<E: Entity, DB: Backend> ProbeFallback<E, DB> for Probe<E, DB> {}

/// What [`Probe`] answers about a type where the bound does not hold.
pub trait ProbeTypeFallback {
    /// See [`Probe::IS_COLUMN`].
    const IS_COLUMN: bool = false;
    /// See [`Probe::IS_ROW`].
    const IS_ROW: bool = false;
    /// See [`Probe::HAS_COLUMNS`].
    const HAS_COLUMNS: bool = false;
}

impl<T, DB> ProbeTypeFallback for Probe<T, DB> {}
