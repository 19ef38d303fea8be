//! The rule of SQLite: a column has an affinity, which converts some values as they are stored, and the driver looks at the
//! class of each stored value. The name of the type matters twice: it gives the affinity, and it tells which values other
//! programs store.
//!
//! 1. Which class of value does the field send?
//! 2. As which classes does the column keep it?
//! 3. Which classes do other programs store there?
//! 4. Does the driver read all of them into the field?

use sqlx::{Sqlite, Type, sqlite::SqliteTypeInfo};

use super::{Declared, Fit, refused, remark};
use crate::database::column::ColumnSpec;

/// The storage class of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Integer,
    Real,
    Text,
    Blob,
}

/// What a column does with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    /// Converts what looks like an integer or is one.
    Integer,
    /// Converts numbers to floating point.
    Real,
    /// Converts numbers to texts.
    Text,
    /// As `Integer`, but the name promises no integers.
    Numeric,
    /// Keeps every value as it is.
    Any,
    /// A column of a STRICT table, which refuses all other classes.
    Strict(Class),
}

/// Returns how well a field fits a column of this type.
pub(crate) fn fit(field: &ColumnSpec<Sqlite>, declared: &Declared) -> Fit {
    // A type of the application that names no type of SQLite may hold anything.
    let Some(sent) = Class::sent(field.type_name()) else {
        return Fit::Fits;
    };
    let name = name_of(declared);
    let storage = Storage::of(&name, declared.is_strict);
    let reads = |class: Class| (field.compatible)(&class.type_info());
    let kept = storage.keeps(sent);
    if kept.is_empty() {
        return refused(
            field,
            declared,
            "a column of a STRICT table takes no other values",
        );
    }
    let by_others = storage.of_others(&name);
    if let Some(unread) = kept.iter().chain(by_others).find(|class| !reads(**class)) {
        let why = format!(
            "values of the column are stored as {}, which sqlx does not read into the field",
            unread.type_name()
        );
        return refused(field, declared, &why);
    }
    beyond(field, declared, storage, sent)
}

/// Returns whether a field that fits fails or changes some values.
fn beyond(field: &ColumnSpec<Sqlite>, declared: &Declared, storage: Storage, sent: Class) -> Fit {
    let is = |name: &str| field.rust_type.contains(name);
    let is_integer = matches!(storage, Storage::Integer | Storage::Strict(Class::Integer));
    let is_real = matches!(storage, Storage::Real | Storage::Strict(Class::Real));
    let is_plain_text = field.type_info == Class::Text.type_info() && !is("uuid::fmt::");
    let more = match (sent, storage) {
        (Class::Integer, _) if is_integer && is_bool(field) => {
            "every number but 0 is read as `true`; use BOOLEAN"
        }
        (Class::Integer, _) if is_integer && is_narrow(field) => {
            "SQLite keeps 64 bits in it: a row with a number beyond those of the field cannot be read"
        }
        (Class::Text, _) if is_integer || is_real => {
            "a number that another program stores is read as a point in time, and cannot be read if there is none"
        }
        (Class::Real, _) if is_real && is("f32") => {
            "SQLite keeps 64 bits in it, and the field rounds them to 32"
        }
        (Class::Real, Storage::Any) => {
            "an integer that another program stores stays one, and cannot be read"
        }
        (Class::Text, Storage::Numeric) if is_plain_text => NUMBERS,
        (Class::Blob, Storage::Numeric) if name_of(declared).contains("JSON") => NUMBERS,
        (Class::Blob, Storage::Text | Storage::Numeric) if is("uuid::Uuid") => {
            "the field is 16 bytes: a uuid that another program stores as text cannot be read; use `uuid::fmt::Hyphenated` for texts"
        }
        (Class::Integer | Class::Real, Storage::Numeric) if is_uuid(declared) => {
            "a uuid that another program stores as text cannot be read"
        }
        _ => return Fit::Fits,
    };
    remark(declared, more)
}

/// What becomes of texts in a column whose name is not one of a text.
const NUMBERS: &str =
    "SQLite turns a text that looks like a number into a number, which cannot be read; use TEXT";

fn name_of(declared: &Declared) -> String {
    declared.type_name.to_ascii_uppercase()
}

fn is_uuid(declared: &Declared) -> bool {
    let name = name_of(declared);
    name.contains("UUID") || name.contains("GUID")
}

fn is_bool(field: &ColumnSpec<Sqlite>) -> bool {
    field.type_info == <bool as Type<Sqlite>>::type_info()
}

/// Returns whether a field holds fewer integers than 64 bits. The driver sends a `u32` as it sends an `i64`.
fn is_narrow(field: &ColumnSpec<Sqlite>) -> bool {
    field.type_info == <i32 as Type<Sqlite>>::type_info() || field.rust_type.contains("u32")
}

impl Class {
    /// Returns the class of the values of a field by the driver's name of its type.
    fn sent(type_name: &str) -> Option<Self> {
        match type_name {
            "INTEGER" | "BOOLEAN" => Some(Self::Integer),
            "REAL" => Some(Self::Real),
            "TEXT" | "DATE" | "TIME" | "DATETIME" => Some(Self::Text),
            "BLOB" => Some(Self::Blob),
            _ => None,
        }
    }

    /// Returns the type that the driver gives to values of the class.
    fn type_info(self) -> SqliteTypeInfo {
        match self {
            Self::Integer => <i64 as Type<Sqlite>>::type_info(),
            Self::Real => <f64 as Type<Sqlite>>::type_info(),
            Self::Text => <str as Type<Sqlite>>::type_info(),
            Self::Blob => <[u8] as Type<Sqlite>>::type_info(),
        }
    }

    fn type_name(self) -> &'static str {
        match self {
            Self::Integer => "INTEGER",
            Self::Real => "REAL",
            Self::Text => "TEXT",
            Self::Blob => "BLOB",
        }
    }
}

impl Storage {
    /// Returns what a column of this declared type does (<https://www.sqlite.org/datatype3.html>, section 3.1).
    fn of(name: &str, is_strict: bool) -> Self {
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        if is_strict {
            return match name {
                "INT" | "INTEGER" => Self::Strict(Class::Integer),
                "REAL" => Self::Strict(Class::Real),
                "TEXT" => Self::Strict(Class::Text),
                "BLOB" => Self::Strict(Class::Blob),
                _ => Self::Any,
            };
        }
        if has(&["INT"]) {
            Self::Integer
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Self::Text
        } else if has(&["BLOB"]) || name.is_empty() {
            Self::Any
        } else if has(&["REAL", "FLOA", "DOUB"]) {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// Returns the classes in which a column keeps usual values of a class, and none if it refuses them.
    fn keeps(self, sent: Class) -> &'static [Class] {
        use Class::{Blob, Integer, Real, Text};
        match (self, sent) {
            // A whole number becomes an integer.
            (Self::Integer | Self::Numeric, Real) => &[Real, Integer],
            (Self::Strict(Integer), Integer | Real) => &[Integer],
            (Self::Real | Self::Strict(Real), Integer | Real) => &[Real],
            (Self::Text | Self::Strict(Text), Integer | Real | Text) => &[Text],
            (Self::Strict(Blob), Blob) => &[Blob],
            (Self::Strict(_), _) => &[],
            (_, Integer) => &[Integer],
            (_, Real) => &[Real],
            (_, Text) => &[Text],
            (_, Blob) => &[Blob],
        }
    }

    /// Returns the classes of the values that other programs usually store, as far as the name of the type tells.
    fn of_others(self, name: &str) -> &'static [Class] {
        use Class::{Integer, Real, Text};
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        match self {
            Self::Integer | Self::Strict(Integer) => &[Integer],
            Self::Real | Self::Strict(Real) => &[Real],
            Self::Text | Self::Strict(Text) => &[Text],
            Self::Any | Self::Strict(Class::Blob) => &[],
            Self::Numeric if has(&["BOOL"]) => &[Integer],
            Self::Numeric if has(&["DEC", "NUM", "MONEY"]) => &[Integer, Real],
            Self::Numeric if has(&["DATE", "TIME", "JSON", "STR"]) => &[Text],
            Self::Numeric => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::column::{ColumnList, Nullable, Role};

    fn fit_of<T: Type<Sqlite>>(type_name: &str, is_strict: bool) -> Fit {
        let field = ColumnList::of(|list| list.column::<T>("value", Role::Plain, Nullable::No));
        let declared = Declared {
            type_name: type_name.to_owned(),
            is_strict,
            character_set: None,
        };
        fit(&field[0], &declared)
    }

    #[test]
    fn a_field_fits_the_affinity_and_not_the_name() {
        assert_eq!(fit_of::<i64>("UNSIGNED BIG INT", false), Fit::Fits);
        assert_eq!(fit_of::<f64>("double precision", false), Fit::Fits);
        assert_eq!(fit_of::<String>("NATIVE CHARACTER(70)", false), Fit::Fits);
        assert!(matches!(
            fit_of::<String>("DATETIME", false),
            Fit::Remark(_)
        ));
        assert!(matches!(
            fit_of::<f64>("DECIMAL(10, 2)", false),
            Fit::Refused(_)
        ));
        // Contains "INT".
        assert!(matches!(
            fit_of::<f64>("FLOATING POINT", false),
            Fit::Refused(_)
        ));
        // Not one of the names of texts.
        assert!(matches!(fit_of::<String>("STRING", false), Fit::Remark(_)));
    }

    #[test]
    fn a_strict_column_takes_only_its_own_class() {
        assert_eq!(fit_of::<i64>("INT", true), Fit::Fits);
        assert_eq!(fit_of::<String>("ANY", true), Fit::Fits);
        assert!(matches!(fit_of::<String>("BLOB", true), Fit::Refused(_)));
        assert!(matches!(fit_of::<Vec<u8>>("TEXT", true), Fit::Refused(_)));
    }
}
