//! The columns of an entity, and how a row's values become statement arguments.
//!
//! The derive lists the fields twice, always in the same order. The description ([`ColumnList`]) is for the text of the
//! statements, and the values ([`Binder`]) are for their arguments. Both have the [`Role`] of each field. A statement
//! that needs only some columns selects the same roles from both, so that text and arguments always match.

use std::any::Any;

use serde::Serialize;
use serde_json::value::to_raw_value;
use sqlx::{Arguments, Encode, Type, TypeInfo, error::BoxDynError};

use crate::{
    database::{backend::Backend, lookup::folded},
    protocol::codec::depth::Bounded,
};

/// A type that database `DB` can store in a column.
pub trait Column<DB: Backend>: for<'q> Encode<'q, DB> + Type<DB> + Sync + 'static {}

impl<T, DB: Backend> Column<DB> for T where T: for<'q> Encode<'q, DB> + Type<DB> + Sync + 'static {}

/// The role of a column in the statements of larder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Part of the id. The application sets it.
    Id,
    /// Part of the id. The database generates it on insert.
    GeneratedId,
    /// Written by insert and update.
    Plain,
    /// As [`Role::Plain`], and not in the cache. An update with `None` leaves it as it is.
    Omitted,
    /// Written by insert. Update compares it and does not write it.
    Immutable,
    /// The version of the row. Insert writes it, and update compares and increments it.
    Version,
    /// Never written by insert or update: the database fills it in.
    Generated,
}

impl Role {
    /// Returns whether the column is part of the id.
    #[must_use]
    pub const fn is_id(self) -> bool {
        matches!(self, Self::Id | Self::GeneratedId)
    }

    /// Returns whether an insert, or the insert of a save, writes the column.
    #[must_use]
    pub const fn is_saved(self) -> bool {
        !matches!(self, Self::Generated)
    }

    /// Returns whether an update writes the column.
    #[must_use]
    pub const fn is_updated(self) -> bool {
        matches!(self, Self::Plain | Self::Omitted)
    }

    /// Returns whether the database fills the column in on insert.
    #[must_use]
    pub const fn is_generated(self) -> bool {
        matches!(self, Self::GeneratedId | Self::Generated)
    }
}

/// Whether the field of a column can hold `NULL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nullable {
    /// The field is an `Option`.
    Yes,
    /// The field is not an `Option`.
    No,
}

/// One column as the struct describes it.
#[derive(Clone, Debug)]
pub struct ColumnSpec<DB: Backend> {
    /// The name in the table.
    pub name: &'static str,
    /// Its role in the statements.
    pub role: Role,
    /// Whether the field can hold `NULL`.
    pub nullable: Nullable,
    /// The type the field is sent as.
    pub type_info: DB::TypeInfo,
    /// Whether a column of the given type can be read into the field.
    pub compatible: fn(&DB::TypeInfo) -> bool,
    /// The name of the Rust type, where the database's own type does not tell two of them apart.
    pub rust_type: &'static str,
}

impl<DB: Backend> ColumnSpec<DB> {
    /// Returns the database's name of the type that the field is sent as.
    #[must_use]
    pub fn type_name(&self) -> &str {
        self.type_info.name()
    }
}

/// The columns of an entity, in the order of its fields.
#[derive(Debug)]
pub struct ColumnList<DB: Backend>(Vec<ColumnSpec<DB>>);

impl<DB: Backend> ColumnList<DB> {
    /// Returns the columns that `describe` lists.
    #[must_use]
    pub fn of(describe: fn(&mut Self)) -> Vec<ColumnSpec<DB>> {
        let mut list = Self(Vec::new());
        describe(&mut list);
        list.0
    }

    /// Adds a column that holds a `T`.
    pub fn column<T: Type<DB>>(&mut self, name: &'static str, role: Role, nullable: Nullable) {
        self.0.push(ColumnSpec {
            name,
            role,
            nullable,
            type_info: T::type_info(),
            compatible: T::compatible,
            rust_type: std::any::type_name::<T>(),
        });
    }

    /// Adds a column that holds a value as JSON.
    pub fn json(&mut self, name: &'static str, role: Role, nullable: Nullable) {
        self.column::<DB::JsonValue>(name, role, nullable);
    }

    /// Adds the columns of a nested struct.
    pub fn flatten<T: Columns<DB>>(&mut self) {
        T::describe(self);
    }
}

/// Takes the values of a row, in the order of its fields, and keeps those that a statement needs.
pub struct Binder<'a, DB: Backend> {
    sink: Sink<'a, DB>,
    wanted: fn(Role) -> bool,
    text_only: bool,
    /// The place of the only wanted column, counted down.
    nth: Option<usize>,
}

/// The destination of the values.
enum Sink<'a, DB: Backend> {
    /// To the arguments of a statement, one by one.
    Arguments(&'a mut DB::Arguments),
    /// As before, with texts in lower case.
    Folded(&'a mut DB::Arguments),
    /// To one array per column, for the rows of a batch.
    Arrays(std::slice::IterMut<'a, Array>),
    /// Only their sizes are added up.
    Size(&'a mut usize),
    /// One after the other, to be compared.
    Values(&'a mut Values),
}

/// Values as they would be bound, one after the other.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Values {
    bytes: Vec<u8>,
    /// Where each value ends, and whether it is `NULL`.
    ends: Vec<(usize, bool)>,
}

impl Values {
    /// Returns an empty list with room for this many values and bytes.
    pub(crate) fn with_capacity(values: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(values),
        }
    }

    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the bytes of a value, or `None` for `NULL`.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let (end, is_null) = self.ends[index];
        (!is_null).then(|| &self.bytes[start..end])
    }

    fn add<T: Column<DB>, DB: Backend>(&mut self, value: &T) -> BindResult {
        let is_null = DB::append(&mut self.bytes, value)?;
        self.ends.push((self.bytes.len(), is_null));
        Ok(())
    }
}

/// The values of one column for all rows of a batch, in the form that the database needs.
#[derive(Clone, Debug, Default)]
pub struct Array {
    /// The encoded values, one after the other.
    pub bytes: Vec<u8>,
    /// How many there are.
    pub length: usize,
    /// Whether one of them is `NULL`.
    pub has_null: bool,
}

impl<DB: Backend> std::fmt::Debug for Binder<'_, DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binder").finish_non_exhaustive()
    }
}

/// Fails when a value cannot be encoded for the database.
pub type BindResult = Result<(), BoxDynError>;

impl<'a, DB: Backend> Binder<'a, DB> {
    /// Returns a binder that appends the values with a wanted role to `arguments`.
    pub fn new(arguments: &'a mut DB::Arguments, wanted: fn(Role) -> bool) -> Self {
        Self {
            sink: Sink::Arguments(arguments),
            wanted,
            text_only: false,
            nth: None,
        }
    }

    /// Returns a binder that adds one row to the arrays of a batch: one array per wanted column.
    pub(crate) fn arrays(arrays: &'a mut [Array], wanted: fn(Role) -> bool) -> Self {
        Self {
            sink: Sink::Arrays(arrays.iter_mut()),
            wanted,
            text_only: false,
            nth: None,
        }
    }

    /// Returns a binder that adds up the sizes of the values.
    pub(crate) fn size(size: &'a mut usize, wanted: fn(Role) -> bool) -> Self {
        Self {
            sink: Sink::Size(size),
            wanted,
            text_only: false,
            nth: None,
        }
    }

    /// Returns a binder that keeps the values with a wanted role, one after the other.
    pub(crate) fn values(values: &'a mut Values, wanted: fn(Role) -> bool) -> Self {
        Self {
            sink: Sink::Values(values),
            wanted,
            text_only: false,
            nth: None,
        }
    }

    /// Returns a binder that appends the value of the column with this place only.
    pub(crate) fn nth(arguments: &'a mut DB::Arguments, column: usize) -> Self {
        Self {
            nth: Some(column),
            ..Self::new(arguments, |_| true)
        }
    }

    /// As [`Binder::nth`], with a text in lower case.
    pub(crate) fn nth_folded(arguments: &'a mut DB::Arguments, column: usize) -> Self {
        Self {
            sink: Sink::Folded(arguments),
            wanted: |_| true,
            text_only: false,
            nth: Some(column),
        }
    }

    /// Returns a binder that appends only the text parts of an id.
    pub(crate) fn text_only(arguments: &'a mut DB::Arguments) -> Self {
        Self {
            sink: Sink::Arguments(arguments),
            wanted: Role::is_id,
            text_only: true,
            nth: None,
        }
    }

    /// Offers the value of a column.
    ///
    /// # Errors
    ///
    /// Fails when the value cannot be encoded for the database.
    pub fn value<T: Column<DB>>(&mut self, role: Role, value: &T) -> BindResult {
        if self.wants::<T>(role) {
            self.add(value)?;
        }
        Ok(())
    }

    fn add<T: Column<DB>>(&mut self, value: &T) -> BindResult {
        match &mut self.sink {
            Sink::Arguments(arguments) => arguments.add(value),
            Sink::Folded(arguments) => match text_of(value) {
                Some(text) => DB::add_text(arguments, Some(&folded(text))),
                None => arguments.add(value),
            },
            Sink::Arrays(arrays) => {
                let array = arrays.next().ok_or("a row has more values than columns")?;
                array.length += 1;
                DB::add_element(array, value)
            }
            Sink::Size(size) => {
                **size += DB::size_of(value)?;
                Ok(())
            }
            Sink::Values(values) => values.add::<T, DB>(value),
        }
    }

    fn wants<T: Type<DB>>(&mut self, role: Role) -> bool {
        self.wants_role(role) && (!self.text_only || DB::DIALECT.is_text(T::type_info().name()))
    }

    fn wants_role(&mut self, role: Role) -> bool {
        let is_it = match &mut self.nth {
            None => true,
            Some(left) => {
                let is_it = *left == 0;
                // Beyond the end: no later column is wanted.
                *left = left.checked_sub(1).unwrap_or(usize::MAX);
                is_it
            }
        };
        is_it && (self.wanted)(role)
    }

    /// Offers the value of a column that holds JSON.
    ///
    /// # Errors
    ///
    /// Fails when the value cannot be written as JSON, or is nested so deep that no row with it could be read.
    pub fn json<T: Serialize>(&mut self, role: Role, value: &T) -> BindResult {
        if self.wants_role(role) {
            let json = to_raw_value(&Bounded::new(value))?;
            self.add(&DB::json(Some(json)))?;
        }
        Ok(())
    }

    /// Offers the value of a column that holds JSON or `NULL`.
    ///
    /// # Errors
    ///
    /// Fails when the value cannot be written as JSON, or is nested so deep that no row with it could be read.
    pub fn json_nullable<T: Serialize>(&mut self, role: Role, value: &Option<T>) -> BindResult {
        if self.wants_role(role) {
            let json = value
                .as_ref()
                .map(|value| to_raw_value(&Bounded::new(value)));
            self.add(&DB::json(json.transpose()?))?;
        }
        Ok(())
    }

    /// Offers the value of a column that is stored as a `Stored` (`#[sqlx(try_from = "Stored")]`).
    ///
    /// # Errors
    ///
    /// Fails when the value cannot be converted to `Stored`.
    pub fn converted<Stored, T>(&mut self, role: Role, value: &T) -> BindResult
    where
        Stored: Column<DB> + TryFrom<T>,
        T: Clone,
        <Stored as TryFrom<T>>::Error: Into<BoxDynError>,
    {
        if self.wants::<Stored>(role) {
            let stored = Stored::try_from(value.clone()).map_err(Into::into)?;
            self.add(&stored)?;
        }
        Ok(())
    }

    /// Offers the values of a nested struct.
    ///
    /// # Errors
    ///
    /// Fails when one of them cannot be encoded.
    pub fn flatten<T: Columns<DB>>(&mut self, value: &T) -> BindResult {
        value.bind(self)
    }
}

/// The columns of a struct in database `DB`. Implemented by `#[derive(Cached)]`, and by `#[derive(Columns)]` for a struct
/// that is nested with `#[sqlx(flatten)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which columns it holds",
    label = "its columns are unknown",
    note = "a struct nested with `#[sqlx(flatten)]` needs `#[derive(larder::Columns)]`"
)]
pub trait Columns<DB: Backend> {
    /// Lists the columns in field order.
    fn describe(columns: &mut ColumnList<DB>);

    /// Offers the values in field order.
    ///
    /// # Errors
    ///
    /// Fails when a value cannot be encoded for the database.
    fn bind(&self, values: &mut Binder<'_, DB>) -> BindResult;

    /// Sets the fields that are not columns to the values that they have in a row of the database.
    fn clear_skipped(&mut self) {}

    /// Empties the fields whose columns are not in the cache.
    fn clear_omitted(&mut self) {}

    /// Returns the first JSON column whose values differ for the application. Their JSON may be equal if serde does not
    /// write the whole value.
    fn told_apart(&self, _other: &Self) -> Option<&'static str> {
        None
    }
}

/// Returns the text of a value, if it is a `String`.
fn text_of(value: &dyn Any) -> Option<&str> {
    let nullable = || value.downcast_ref::<Option<String>>()?.as_ref();
    let text = value.downcast_ref::<String>().or_else(nullable);
    text.map(String::as_str)
}
