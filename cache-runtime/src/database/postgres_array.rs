//! Arrays of Postgres whose element type is defined by the user.
//!
//! A batch of a thousand rows is one statement with one array per column (`UNNEST`), for any number of rows. sqlx can
//! send a `Vec<T>` only if `T` names its array type, which a user's type need not do. So the values are encoded one by
//! one, like arguments, and appended to an array header here (the format is that of `array_recv` in Postgres's
//! `arrayfuncs.c`).
//!
//! Invariant: only types with the same number in every Postgres are sent this way. `oid_of` has the list. A batch with
//! a column of another type is sent row by row.

use sqlx::{
    Arguments, Encode, Postgres, Type, TypeInfo,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, types::Oid},
};

use crate::database::column::{Array, Column};

/// A type and its array type, with the numbers of Postgres's `pg_type.dat`.
const ARRAYS: &[(&str, u32, u32)] = &[
    ("BOOL", 16, 1000),
    ("BYTEA", 17, 1001),
    ("\"CHAR\"", 18, 1002),
    ("NAME", 19, 1003),
    ("INT8", 20, 1016),
    ("INT2", 21, 1005),
    ("INT4", 23, 1007),
    ("TEXT", 25, 1009),
    ("OID", 26, 1028),
    ("JSON", 114, 199),
    ("CIDR", 650, 651),
    ("FLOAT4", 700, 1021),
    ("FLOAT8", 701, 1022),
    ("MONEY", 790, 791),
    ("MACADDR", 829, 1040),
    ("INET", 869, 1041),
    ("CHAR", 1042, 1014),
    ("VARCHAR", 1043, 1015),
    ("DATE", 1082, 1182),
    ("TIME", 1083, 1183),
    ("TIMESTAMP", 1114, 1115),
    ("TIMESTAMPTZ", 1184, 1185),
    ("INTERVAL", 1186, 1187),
    ("TIMETZ", 1266, 1270),
    ("NUMERIC", 1700, 1231),
    ("UUID", 2950, 2951),
    ("JSONB", 3802, 3807),
];

/// The size of the length before a value, in bytes.
const LENGTH: usize = size_of::<i32>();

/// Returns the numbers of a type and its array type. A user's type may name one of these types (`type_name = "text"`)
/// in upper or lower case, except `char`, which is two types in Postgres and SQL.
pub(crate) fn oid_of(element: &PgTypeInfo) -> Option<(u32, u32)> {
    let wanted = element.name();
    let wanted = if wanted == "char" { "\"CHAR\"" } else { wanted };
    let known = ARRAYS
        .iter()
        .find(|(name, ..)| name.eq_ignore_ascii_case(wanted));
    known.map(|(_, element, array)| (*element, *array))
}

/// Appends one value.
pub(crate) fn append<T: Column<Postgres>>(
    bytes: &mut Vec<u8>,
    value: &T,
) -> Result<IsNull, BoxDynError> {
    // Lend the bytes to the buffer, so that the value is encoded in place.
    let mut buffer = PgArgumentBuffer::default();
    std::mem::swap(&mut *buffer, bytes);
    let encoded = value.encode_by_ref(&mut buffer);
    std::mem::swap(&mut *buffer, bytes);
    encoded
}

/// Appends the length of a value, and the value.
pub(crate) fn add_element<T: Column<Postgres>>(
    array: &mut Array,
    value: &T,
) -> Result<(), BoxDynError> {
    array.bytes.extend_from_slice(&[0; LENGTH]);
    let start = array.bytes.len();
    let length = match append(&mut array.bytes, value)? {
        IsNull::Yes => {
            array.has_null = true;
            array.bytes.truncate(start);
            -1
        }
        IsNull::No => i32::try_from(array.bytes.len() - start)?,
    };
    array.bytes[start - LENGTH..start].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Returns the JSON texts of a value of this type, if it is JSON or an array of JSON.
pub(crate) fn json_texts<'v>(column: &PgTypeInfo, value: &'v [u8]) -> Option<Vec<&'v [u8]>> {
    // Each text begins with the version of the format.
    let text = |value: &'v [u8]| value.get(1..);
    match column.name() {
        "JSONB" | "JSON" => Some(vec![text(value)?]),
        "JSONB[]" | "JSON[]" => {
            let number = |at: usize| {
                let bytes = value.get(at..at + LENGTH)?;
                Some(i32::from_be_bytes(bytes.try_into().ok()?))
            };
            // Dimensions, whether there are nulls, the type; then length and first number of each dimension.
            let mut at = 12 + 8 * usize::try_from(number(0)?).ok()?;
            let mut texts = Vec::new();
            while at < value.len() {
                // A length below zero is a null.
                let length = usize::try_from(number(at)?).ok();
                at += LENGTH;
                texts.push(match length {
                    Some(length) => text(value.get(at..at + length)?)?,
                    None => b"",
                });
                at += length.unwrap_or(0);
            }
            Some(texts)
        }
        _ => None,
    }
}

/// Appends an array to the arguments of a statement.
pub(crate) fn add_array(
    arguments: &mut PgArguments,
    array: &Array,
    element: &PgTypeInfo,
) -> Result<(), BoxDynError> {
    let (element, itself) = oid_of(element).ok_or("a type without arrays")?;
    let mut bytes = Vec::with_capacity(20 + array.bytes.len());
    // One dimension, whether there are nulls, the type, how many, and that counting starts at one.
    bytes.extend_from_slice(&1_i32.to_be_bytes());
    bytes.extend_from_slice(&i32::from(array.has_null).to_be_bytes());
    bytes.extend_from_slice(&element.to_be_bytes());
    bytes.extend_from_slice(&i32::try_from(array.length)?.to_be_bytes());
    bytes.extend_from_slice(&1_i32.to_be_bytes());
    bytes.extend_from_slice(&array.bytes);
    arguments.add(Encoded {
        bytes,
        type_info: PgTypeInfo::with_oid(Oid(itself)),
    })
}

/// An argument that is encoded already.
struct Encoded {
    bytes: Vec<u8>,
    type_info: PgTypeInfo,
}

impl Type<Postgres> for Encoded {
    fn type_info() -> PgTypeInfo {
        // Each value reports its own type in `produces`.
        PgTypeInfo::with_name("unknown")
    }
}

impl Encode<'_, Postgres> for Encoded {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.type_info.clone())
    }

    fn size_hint(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_is_found_by_the_name_it_reports() {
        let known = |name: &'static str| oid_of(&PgTypeInfo::with_name(name));
        assert_eq!(known("text"), Some((25, 1009)));
        assert_eq!(known("TEXT"), oid_of(&<str as Type<Postgres>>::type_info()));
        assert_eq!(known("int8"), oid_of(&<i64 as Type<Postgres>>::type_info()));
        assert_eq!(known("char"), oid_of(&<i8 as Type<Postgres>>::type_info()));
        assert_ne!(known("char"), known("CHAR"));
        assert_eq!(known("mood"), None);
    }
}
