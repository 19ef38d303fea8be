//! How well a field fits a column: one rule per database, made from what its driver does.
//!
//! A field fits if all values pass in both directions. It fits with a remark if usual values do, and others fail or come
//! back changed. `tests/suite/type_matrix` tries every pair of types and compares these rules with what happened;
//! `docs/types.md` shows the result.
//!
//! Not here: everything about a column but its type (`schema`).

#[cfg(feature = "mysql")]
pub(crate) mod mysql;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

use crate::database::{backend::Backend, column::ColumnSpec};

/// How well a field fits a column.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// All values pass.
    Fits,
    /// Usual values pass. The text says which do not, and what happens.
    Remark(String),
    /// Usual values fail. The text says why, and the way out.
    Refused(String),
}

/// The type of a column as the catalogue describes it.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// The type with its arguments, as it would be written in SQL.
    pub type_name: String,
    /// SQLite: whether the table refuses values of other types.
    pub is_strict: bool,
    /// MySQL: the character set of a column of text.
    pub character_set: Option<String>,
}

/// Returns the misfit of a field and a column, with the reason or the way out, if there is more to say.
fn refused<DB: Backend>(field: &ColumnSpec<DB>, declared: &Declared, more: &str) -> Fit {
    let column = match declared.type_name.as_str() {
        "" => "no type",
        name => &format!("type {name}"),
    };
    let more = match more {
        "" => String::new(),
        more => format!("; {more}"),
    };
    Fit::Refused(format!(
        "the column has {column}, which the field cannot hold; the field expects {}{more}",
        field.type_name()
    ))
}

fn remark(declared: &Declared, more: &str) -> Fit {
    let name = match declared.type_name.as_str() {
        "" => "no type",
        name => &format!("type {name}"),
    };
    Fit::Remark(format!("the column has {name}: {more}"))
}
