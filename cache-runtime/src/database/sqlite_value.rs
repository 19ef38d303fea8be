//! Values that SQLite would get, as bytes to compare.
//!
//! The other drivers encode a value into bytes. The SQLite driver keeps it in a list of its own, whose content is
//! visible only through `Debug`. So the usual types are compared directly, and other types by their `Debug` text. It
//! differs for any two values that SQLite would store differently.
//!
//! Not here: values that are sent. They do not use this code.

use std::{any::Any, fmt::Write};

use serde_json::value::RawValue;
use sqlx::{Sqlite, error::BoxDynError, sqlite::SqliteArgumentsBuffer, types::Json};

use crate::database::column::Column;

/// The first byte of a text that may be JSON.
const TEXT: u8 = b'T';
/// The first byte of all other values.
const OTHER: u8 = b'O';

/// Appends one value. Returns whether it is `NULL`, which appends nothing.
pub(crate) fn append<T: Column<Sqlite>>(
    bytes: &mut Vec<u8>,
    value: &T,
) -> Result<bool, BoxDynError> {
    let any: &dyn Any = value;
    /// Appends values of these types, and options of them, directly.
    macro_rules! usual {
        ($($ty:ty, $tag:ident, |$value:ident| $shown:expr;)*) => {$(
            let known = match any.downcast_ref::<$ty>() {
                Some(value) => Some(Some(value)),
                None => any.downcast_ref::<Option<$ty>>().map(Option::as_ref),
            };
            match known {
                Some(Some($value)) => {
                    bytes.push($tag);
                    bytes.extend_from_slice($shown);
                    return Ok(false);
                }
                Some(None) => return Ok(true),
                None => {}
            }
        )*};
    }
    usual! {
        String, OTHER, |text| text.as_bytes();
        Json<Box<RawValue>>, TEXT, |json| json.0.get().as_bytes();
        Vec<u8>, OTHER, |blob| blob;
        i64, OTHER, |number| &number.to_le_bytes();
        i32, OTHER, |number| &number.to_le_bytes();
        i16, OTHER, |number| &number.to_le_bytes();
        f64, OTHER, |number| &number.to_bits().to_le_bytes();
        f32, OTHER, |number| &number.to_bits().to_le_bytes();
        bool, OTHER, |flag| &[u8::from(*flag)];
    }
    let mut buffer = SqliteArgumentsBuffer::default();
    if value.encode_by_ref(&mut buffer)?.is_null() {
        return Ok(true);
    }
    let mut shown = String::new();
    write!(shown, "{buffer:?}")?;
    match shown
        .split_once("Text")
        .and_then(|(_, text)| unquoted(text))
    {
        Some(text) => {
            bytes.push(TEXT);
            bytes.extend_from_slice(text.as_bytes());
        }
        None => {
            bytes.push(OTHER);
            bytes.extend_from_slice(shown.as_bytes());
        }
    }
    Ok(false)
}

/// Returns the text of an appended value, if it may be JSON. A `String` is plain text and does not count.
pub(crate) fn text(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(&[TEXT])
}

/// Returns the text between the first quotes in a `Debug` text.
fn unquoted(shown: &str) -> Option<String> {
    let (_, quoted) = shown.split_once('"')?;
    let mut text = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                't' => text.push('\t'),
                '0' => text.push('\0'),
                'u' => {
                    let digits: String = characters
                        .by_ref()
                        .skip(1)
                        .take_while(|character| *character != '}')
                        .collect();
                    text.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended<T: Column<Sqlite>>(value: &T) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let is_null = append(&mut bytes, value).expect("the value can be bound");
        (!is_null).then_some(bytes)
    }

    #[test]
    fn different_values_have_different_bytes() {
        assert_ne!(appended(&1_i64), appended(&2_i64));
        assert_ne!(appended(&0.0_f64), appended(&-0.0_f64));
        assert_ne!(appended(&u8::MAX), appended(&1_u8));
        assert_ne!(appended(&Some(String::new())), appended(&None::<String>));
        assert_ne!(appended(&"a".to_owned()), appended(&"b".to_owned()));
        assert_ne!(appended(&vec![1_u8]), appended(&vec![2_u8]));
        assert_eq!(appended(&None::<u32>), None);
        assert_eq!(appended(&Some(7_i32)), appended(&7_i32));
    }

    #[test]
    fn a_text_that_only_debug_shows_is_the_same_text() {
        for text in [
            "",
            "\"quoted\"",
            "line\r\n\tend\\",
            "\u{0}\u{7f}\u{200b}",
            "ä\u{301}'",
        ] {
            let shown = appended(&Box::<str>::from(text)).expect("it is not NULL");
            assert_eq!(super::text(&shown), Some(text.as_bytes()));
            let own = appended(&text.to_owned()).expect("it is not NULL");
            assert_eq!(super::text(&own), None);
            let json = appended(&Json(text)).expect("it is not NULL");
            let json = super::text(&json).expect("JSON is a text");
            assert_eq!(json, serde_json::to_vec(text).expect("it is JSON"));
        }
    }
}
