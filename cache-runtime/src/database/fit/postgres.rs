//! The rule of Postgres: the driver checks the types themselves, so a field that sqlx accepts fits. Some types have
//! values that no field has.

use sqlx::{Postgres, TypeInfo, postgres::PgTypeInfo};

use super::{Declared, Fit, refused, remark};
use crate::database::column::ColumnSpec;

/// Returns how well a field fits a column of this type.
pub(crate) fn fit(field: &ColumnSpec<Postgres>, declared: &Declared, actual: &PgTypeInfo) -> Fit {
    if !(field.compatible)(actual) {
        return refused(field, declared, "");
    }
    match beyond(actual.name()) {
        Some(beyond) => remark(declared, beyond),
        None => Fit::Fits,
    }
}

/// Returns which values of a type fail or change, and how.
fn beyond(type_name: &str) -> Option<&'static str> {
    Some(match type_name {
        "NUMERIC" => {
            "it rounds to its own scale and refuses larger numbers; a row with NaN, infinity or more digits than the field has \
             cannot be read"
        }
        "CHAR" => {
            "the database pads or strips blanks, so it changes a text that is shorter than the column or ends in a blank; use \
             VARCHAR or TEXT, unless all texts have the full length"
        }
        "DATE" => {
            "a row with `infinity`, or with a year that the field does not have, cannot be read"
        }
        "TIMESTAMP" | "TIMESTAMPTZ" => {
            "it keeps microseconds at most, and the field has nanoseconds; a row with `infinity`, or with a year that the field does \
             not have, cannot be read"
        }
        "TIME" => {
            "it keeps microseconds at most, and the field has nanoseconds; a row with `24:00` cannot be read or comes back changed"
        }
        array if array.ends_with("[]") => {
            "a row with an array that contains NULL, or has more than one dimension, cannot be read"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use sqlx::Type;

    use super::*;
    use crate::database::column::{ColumnList, Nullable, Role};

    fn fit_of<T: Type<Postgres>>(actual: &PgTypeInfo) -> Fit {
        let field = ColumnList::of(|list| list.column::<T>("value", Role::Plain, Nullable::No));
        let declared = Declared {
            type_name: actual.name().to_lowercase(),
            ..Declared::default()
        };
        fit(&field[0], &declared, actual)
    }

    fn of<T: Type<Postgres>>() -> PgTypeInfo {
        T::type_info()
    }

    #[test]
    fn a_field_fits_the_types_that_the_driver_accepts() {
        assert_eq!(fit_of::<i64>(&of::<i64>()), Fit::Fits);
        assert_eq!(
            fit_of::<String>(&PgTypeInfo::with_name("varchar")),
            Fit::Fits
        );
        assert!(matches!(fit_of::<i64>(&of::<i32>()), Fit::Refused(_)));
        assert!(matches!(
            fit_of::<Vec<i64>>(&of::<Vec<i64>>()),
            Fit::Remark(_)
        ));
        assert!(beyond("CHAR").is_some() && beyond("VARCHAR").is_none());
    }
}
