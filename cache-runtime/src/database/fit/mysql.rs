//! The rule of MySQL and MariaDB: the driver compares kinds of types (any integer, any text), so the ranges and the
//! character sets are compared here.

use sqlx::{MySql, Type, TypeInfo, mysql::MySqlTypeInfo};

use super::{Declared, Fit, refused, remark};
use crate::database::column::ColumnSpec;

/// Returns how well a field fits a column of this type.
pub(crate) fn fit(field: &ColumnSpec<MySql>, declared: &Declared, actual: &MySqlTypeInfo) -> Fit {
    let (sent, column) = (field.type_name(), actual.name());
    if !(field.compatible)(actual) {
        let way_out = if sent == "ENUM" && column == "ENUM" {
            "sqlx reads an enum only from a column that can be NULL and is part of no key; make the field an `Option` and the \
             column NULL, or store the field as text with `#[sqlx(try_from = \"String\")]`"
        } else {
            ""
        };
        return refused(field, declared, way_out);
    }
    let kind = declared
        .type_name
        .split(['(', ' '])
        .next()
        .unwrap_or_default();
    if let Some(column) = Range::of(column, &declared.type_name) {
        return integer(field, declared, sent, column);
    }
    let is_text = <str as Type<MySql>>::compatible(actual);
    let is_uuid_text = field.rust_type.contains("uuid::fmt::");
    match (sent, column) {
        ("BLOB", _) if is_text => refused(
            field,
            declared,
            "the column holds texts, and the field bytes; use a `String`, or for a uuid `uuid::fmt::Hyphenated`",
        ),
        ("BLOB", "BINARY") => bytes(field, declared),
        ("FLOAT", "DOUBLE") => remark(
            declared,
            "the field rounds the numbers of the column to 32 bits",
        ),
        ("DOUBLE", "FLOAT") => remark(
            declared,
            "the column rounds the numbers of the field to 32 bits, and refuses larger ones",
        ),
        (_, "DECIMAL") => remark(
            declared,
            "it rounds to its own scale and refuses larger numbers; a row with more digits than the field has cannot be read",
        ),
        (_, "DATE" | "DATETIME" | "TIMESTAMP" | "TIME") => remark(declared, beyond(column)),
        _ if !is_text => Fit::Fits,
        _ if kind == "uuid" && is_uuid_text => Fit::Fits,
        (sent, _) if matches!(kind, "enum" | "set" | "uuid" | "inet4" | "inet6") => {
            // An enum compares all flags of the column, so it is compatible with an ENUM only.
            match sent {
                "ENUM" => Fit::Fits,
                _ if is_uuid_text || sent == "BINARY" => refused(field, declared, ""),
                _ => remark(
                    declared,
                    "the database refuses or changes texts that are no value of the type",
                ),
            }
        }
        ("VARCHAR", _) if is_uuid_text => Fit::Fits,
        _ if kind == "char" => remark(
            declared,
            "the database pads or strips blanks, so it changes a text that is shorter than the column or ends in a blank; use \
             VARCHAR or TEXT, unless all texts have the full length",
        ),
        _ => match &declared.character_set {
            Some(set) if set != "utf8mb4" => remark(
                declared,
                &format!(
                    "its character set {set} does not have all characters: the database refuses others; use utf8mb4"
                ),
            ),
            _ => Fit::Fits,
        },
    }
}

/// The bytes of a column of fixed length.
fn bytes(field: &ColumnSpec<MySql>, declared: &Declared) -> Fit {
    let is_uuid = field.rust_type.contains("uuid::Uuid");
    match (is_uuid, declared.type_name.as_str()) {
        (true, "binary(16)") => Fit::Fits,
        (true, _) => refused(field, declared, "a uuid has 16 bytes; use BINARY(16)"),
        (false, _) => remark(
            declared,
            "the database pads bytes that are shorter than the column with zeros; use VARBINARY, unless all have the full \
             length",
        ),
    }
}

/// Returns which values of a type of times fail or change, and how.
fn beyond(type_name: &str) -> &'static str {
    match type_name {
        "DATE" => {
            "a row with a date of zeros cannot be read; a year beyond 9999 is refused or changed"
        }
        "TIME" => {
            "a row with a negative time, or one of a day or more, cannot be read; it keeps whole seconds, or microseconds if \
             declared with (6), and the field has nanoseconds"
        }
        "TIMESTAMP" => {
            "it holds the years 1970 to 2038 only; a row with a date of zeros cannot be read; it keeps whole seconds, or \
             microseconds if declared with (6), and the field has nanoseconds"
        }
        _ => {
            "a row with a date of zeros cannot be read; a year beyond 9999 is refused or changed; it keeps whole seconds, or \
             microseconds if declared with (6), and the field has nanoseconds"
        }
    }
}

fn integer(field: &ColumnSpec<MySql>, declared: &Declared, sent: &str, column: Range) -> Fit {
    if sent == "BOOLEAN" {
        return match declared.type_name.as_str() {
            "tinyint(1)" | "bit(1)" => Fit::Fits,
            _ => remark(
                declared,
                "every number but 0 is read as `true`, or cannot be read; use BOOLEAN",
            ),
        };
    }
    let Some(own) = Range::of(sent, "") else {
        return Fit::Fits;
    };
    let is_year = declared.type_name.starts_with("year");
    if is_year && own.highest < column.highest {
        return refused(field, declared, "");
    }
    let unread = !own.contains(column);
    let unwritten = is_year || !column.contains(own);
    match (unread, unwritten) {
        (false, false) => Fit::Fits,
        (true, false) => remark(
            declared,
            "a row with a number beyond those of the field cannot be read",
        ),
        (false, true) => remark(
            declared,
            "the database refuses numbers of the field that are beyond those of the column",
        ),
        (true, true) => remark(
            declared,
            "the database refuses numbers of the field that are beyond those of the column, and a row with a number beyond \
             those of the field cannot be read",
        ),
    }
}

/// The integers of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    lowest: i128,
    highest: i128,
}

impl Range {
    /// Returns the integers of a type by the driver's name of it, and for BIT by the declared width.
    fn of(type_name: &str, declared: &str) -> Option<Self> {
        let (name, is_unsigned) = match type_name.strip_suffix(" UNSIGNED") {
            Some(name) => (name, true),
            None => (type_name, false),
        };
        let bits = match name {
            // TINYINT(1).
            "BOOLEAN" if declared.ends_with("unsigned") => {
                return Self::of("TINYINT UNSIGNED", declared);
            }
            "TINYINT" | "BOOLEAN" => 8,
            "SMALLINT" => 16,
            "MEDIUMINT" => 24,
            "INT" => 32,
            "BIGINT" => 64,
            "YEAR" => {
                return Some(Self {
                    lowest: 0,
                    highest: 2155,
                });
            }
            "BIT" => {
                let width = declared.strip_prefix("bit(")?.strip_suffix(')')?;
                let width: u32 = width.parse().ok()?;
                return Some(Self {
                    lowest: 0,
                    highest: (1 << width) - 1,
                });
            }
            _ => return None,
        };
        Some(match is_unsigned {
            true => Self {
                lowest: 0,
                highest: (1 << bits) - 1,
            },
            false => Self {
                lowest: -(1 << (bits - 1)),
                highest: (1 << (bits - 1)) - 1,
            },
        })
    }

    fn contains(self, other: Self) -> bool {
        self.lowest <= other.lowest && other.highest <= self.highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_that_of_the_type() {
        let of =
            |name, declared| Range::of(name, declared).map(|range| (range.lowest, range.highest));
        assert_eq!(of("TINYINT", "tinyint(4)"), Some((-128, 127)));
        assert_eq!(of("BOOLEAN", "tinyint(1)"), Some((-128, 127)));
        assert_eq!(of("BOOLEAN", "tinyint(1) unsigned"), Some((0, 255)));
        assert_eq!(of("MEDIUMINT UNSIGNED", ""), Some((0, 16_777_215)));
        assert_eq!(of("BIGINT UNSIGNED", ""), Some((0, u64::MAX.into())));
        assert_eq!(of("BIGINT", ""), Some((i64::MIN.into(), i64::MAX.into())));
        assert_eq!(of("BIT", "bit(64)"), Some((0, u64::MAX.into())));
        assert_eq!(of("BIT", "bit(1)"), Some((0, 1)));
        assert_eq!(of("DECIMAL", "decimal(10,2)"), None);
    }
}
