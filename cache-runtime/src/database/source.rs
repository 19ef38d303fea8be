//! The link between an entity and one database: its columns, how to bind them, and how to read a row.
//!
//! The derive implements [`Source`] once, for every database whose types fit (a `where` clause per field). A program
//! can enable several database features. An entity with a Postgres array must still compile if another crate enables
//! SQLite. So [`Probe`] looks up the implementation for each database. Its constant is `None` if a field does not fit,
//! and the mismatch is reported only where a pool of that database is used.

use std::{any::Any, fmt, marker::PhantomData, panic};

use sqlx::{Decode, FromRow, error::BoxDynError};

use crate::database::{
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

    /// Offers the values of a lookup, in the order of its columns.
    ///
    /// # Errors
    ///
    /// Fails when a value cannot be encoded for the database, or if there is no such lookup.
    fn bind_lookup(
        _lookup: usize,
        _given: &dyn Any,
        _values: &mut Binder<'_, DB>,
    ) -> Result<(), BoxDynError> {
        Err(NO_LOOKUP.into())
    }

    /// Reads the id from a row that a lookup returned, whose first column is a number.
    ///
    /// # Errors
    ///
    /// Fails when a part cannot be decoded, or if the entity has no lookups.
    fn read_id(_row: &DB::Row) -> Result<Self::Id, sqlx::Error> {
        Err(sqlx::Error::Decode(NO_LOOKUP.into()))
    }
}

/// The error about a lookup that the derive did not generate.
pub const NO_LOOKUP: &str = "the entity has no such lookup";

/// A [`Source`] as plain function pointers, so that code generic over the database needs no bound but [`Backend`].
#[derive(Debug)]
pub struct Binding<E: Entity, DB: Backend> {
    pub(crate) describe: fn(&mut ColumnList<DB>),
    pub(crate) bind: fn(&E, &mut Binder<'_, DB>) -> Result<(), BoxDynError>,
    pub(crate) bind_id: fn(&E::Id, &mut Binder<'_, DB>) -> Result<(), BoxDynError>,
    pub(crate) bind_lookup: fn(usize, &dyn Any, &mut Binder<'_, DB>) -> Result<(), BoxDynError>,
    pub(crate) read_id: fn(&DB::Row) -> Result<E::Id, sqlx::Error>,
    pub(crate) clear_skipped: fn(&mut E),
    pub(crate) clear_omitted: fn(&mut E),
    pub(crate) told_apart: fn(&E, &E) -> Option<&'static str>,
    pub(crate) from_row: fn(&DB::Row) -> Result<E, sqlx::Error>,
}

impl<E: Entity, DB: Backend> Clone for Binding<E, DB> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Entity, DB: Backend> Copy for Binding<E, DB> {}

/// Determines at compile time what database `DB` can do with `T`.
///
/// An inherent constant that exists only under a bound shadows the one of [`ProbeFallback`]. If the bound does not
/// hold, the fallback is used. This works for concrete types only, which is what generated code has.
#[derive(Debug)]
pub struct Probe<T, DB>(PhantomData<(T, DB)>);

impl<E: Source<DB>, DB: Backend> Probe<E, DB> {
    /// The functions of the entity, if it fits the database.
    pub const BINDING: Option<Binding<E, DB>> = Some(Binding {
        describe: <E as Columns<DB>>::describe,
        bind: |row, values| encoded(|| <E as Columns<DB>>::bind(row, values)),
        bind_id: |id, values| encoded(|| <E as Source<DB>>::bind_id(id, values)),
        bind_lookup: |lookup, given, values| {
            encoded(|| <E as Source<DB>>::bind_lookup(lookup, given, values))
        },
        read_id: |row| decoded(|| <E as Source<DB>>::read_id(row)),
        clear_skipped: <E as Columns<DB>>::clear_skipped,
        clear_omitted: <E as Columns<DB>>::clear_omitted,
        told_apart: <E as Columns<DB>>::told_apart,
        from_row: |row| decoded(|| <E as FromRow<'_, DB::Row>>::from_row(row)),
    });
}

/// The code of a type panicked while it read or wrote a value. sqlx's own does so too: a `infinity` of Postgres has no
/// place in chrono, for example.
#[derive(Debug)]
pub(crate) struct TypePanic {
    what: &'static str,
    text: String,
}

impl fmt::Display for TypePanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} panicked: {}", self.what, self.text)
    }
}

impl std::error::Error for TypePanic {}

/// Runs code of the types of an entity. A panic of it becomes an error with the panic's text: one value must not stop the
/// task that works on others.
fn caught<T, F>(
    what: &'static str,
    run: impl FnOnce() -> Result<T, F>,
    failed: fn(BoxDynError) -> F,
) -> Result<T, F> {
    // What the code has borrowed is dropped with the error: a row, or the arguments of a statement.
    panic::catch_unwind(panic::AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let text = text_of(&*payload);
        Err(failed(TypePanic { what, text }.into()))
    })
}

/// Reads a row.
fn decoded<T>(read: impl FnOnce() -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    caught("the decoder of the row", read, sqlx::Error::Decode)
}

/// Binds values.
fn encoded(bind: impl FnOnce() -> Result<(), BoxDynError>) -> Result<(), BoxDynError> {
    caught("the encoder of a value", bind, |panic| panic)
}

/// Returns the text of a panic.
fn text_of(payload: &(dyn Any + Send)) -> String {
    let formatted = payload.downcast_ref::<String>().cloned();
    let plain = || payload.downcast_ref::<&str>().map(ToString::to_string);
    formatted
        .or_else(plain)
        .unwrap_or_else(|| "the panic has no text".to_owned())
}

impl<T: Column<DB>, DB: Backend> Probe<T, DB> {
    /// Whether the type fits a column of the database.
    pub const IS_COLUMN: bool = true;
}

impl<T: for<'r> FromRow<'r, DB::Row>, DB: Backend> Probe<T, DB> {
    /// Whether the type can be read from a row of the database.
    pub const IS_ROW: bool = true;
}

impl<T: for<'r> Decode<'r, DB>, DB: Backend> Probe<T, DB> {
    /// Whether the type can be read from a column of the database.
    pub const IS_READ: bool = true;
}

/// The constants of [`Probe`] if the bound does not hold.
pub trait ProbeFallback<E: Entity, DB: Backend> {
    /// See [`Probe::BINDING`].
    const BINDING: Option<Binding<E, DB>> = None;
}

impl<E: Entity, DB: Backend> ProbeFallback<E, DB> for Probe<E, DB> {}

/// The constants of [`Probe`] about a type if the bound does not hold.
pub trait ProbeTypeFallback {
    /// See [`Probe::IS_COLUMN`].
    const IS_COLUMN: bool = false;
    /// See [`Probe::IS_ROW`].
    const IS_ROW: bool = false;
    /// See [`Probe::IS_READ`].
    const IS_READ: bool = false;
}

impl<T, DB> ProbeTypeFallback for Probe<T, DB> {}

/// Determines at compile time how values of type `T` can be compared, in the same way as [`Probe`].
#[derive(Debug)]
pub struct Likeness<T>(PhantomData<T>);

/// A function that returns whether two values are alike.
pub type Alike<T> = fn(&T, &T) -> bool;

impl<T: PartialEq> Likeness<T> {
    /// Compares with `PartialEq`. A value that is not equal to itself, such as NaN, counts as equal to all.
    pub const EQUAL: Option<Alike<T>> = Some(|one, other| one == other || !one.eq(one));
}

impl<T: fmt::Debug> Likeness<T> {
    /// Compares the `Debug` texts, ignoring the order of their bytes.
    pub const SHOWN: Option<Alike<T>> = Some(|one, other| {
        let (one, other) = (format!("{one:?}"), format!("{other:?}"));
        one == other || count(&one) == count(&other)
    });
}

/// Returns how often each byte occurs.
fn count(text: &str) -> [usize; 256] {
    let mut counts = [0; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    counts
}

/// The constants of [`Likeness`] if the bound does not hold.
pub trait LikenessFallback<T> {
    /// See [`Likeness::EQUAL`].
    const EQUAL: Option<Alike<T>> = None;
    /// See [`Likeness::SHOWN`].
    const SHOWN: Option<Alike<T>> = None;
}

impl<T> LikenessFallback<T> for Likeness<T> {}

/// Returns the name of a column if its values differ, by the first of these comparisons that exists.
pub fn told_apart<T>(
    column: &'static str,
    ways: [Option<Alike<T>>; 2],
    one: &T,
    other: &T,
) -> Option<&'static str> {
    let is_alike = ways.into_iter().flatten().next()?;
    (!is_alike(one, other)).then_some(column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "read by its `Debug` only")]
    struct ShownOnly(f64);

    struct Silent;

    #[test]
    fn likeness_uses_the_strictest_comparison_that_exists() {
        assert!(Likeness::<f64>::EQUAL.is_some() && Likeness::<f64>::SHOWN.is_some());
        assert!(Likeness::<ShownOnly>::EQUAL.is_none() && Likeness::<ShownOnly>::SHOWN.is_some());
        assert!(Likeness::<Silent>::EQUAL.is_none() && Likeness::<Silent>::SHOWN.is_none());
        let ways = [Likeness::<f64>::EQUAL, Likeness::<f64>::SHOWN];
        assert_eq!(told_apart("a", ways, &1.0, &2.0), Some("a"));
        assert_eq!(told_apart("a", ways, &f64::NAN, &f64::NAN), None);
        let ways = [Likeness::<ShownOnly>::EQUAL, Likeness::<ShownOnly>::SHOWN];
        assert_eq!(
            told_apart("a", ways, &ShownOnly(1.0), &ShownOnly(2.0)),
            Some("a")
        );
        assert_eq!(
            told_apart("a", ways, &ShownOnly(1.5), &ShownOnly(1.5)),
            None
        );
        let ways = [Likeness::<Silent>::EQUAL, Likeness::<Silent>::SHOWN];
        assert_eq!(told_apart("a", ways, &Silent, &Silent), None);
    }
}
