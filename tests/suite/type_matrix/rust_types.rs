//! The Rust types that sqlx maps, with values of each: usual ones, and those at the edges of the type.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use larder::__private::Nullable;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite, types::Json};
use time::{OffsetDateTime, PrimitiveDateTime, macros::datetime};
use uuid::{Uuid, fmt::Hyphenated};

use super::cell::{Plain, RustType, Sample, Value};

/// An enum that the databases hold as an enum or a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
pub(crate) enum Mood {
    Happy,
    Grumpy,
}

/// A value that applications have every day, as SQL for a column of texts and for one of anything.
fn usual<T: Plain>(value: T, text: &'static str, natural: &'static str) -> Sample {
    Sample {
        value: Value::new(value),
        is_usual: true,
        text: (!text.is_empty()).then_some(text),
        natural: (!natural.is_empty()).then_some(natural),
    }
}

/// A value at the edge of the type.
fn edge<T: Plain>(value: T) -> Sample {
    edge_as(value, "", "")
}

fn edge_as<T: Plain>(value: T, text: &'static str, natural: &'static str) -> Sample {
    Sample {
        is_usual: false,
        ..usual(value, text, natural)
    }
}

macro_rules! integers {
    ($types:ident, $database:ident, $($ty:ident),*) => {$(
        $types.push(RustType::<$database>::new::<$ty>(stringify!($ty), Nullable::No, vec![
            usual::<$ty>(5, "", "5"),
            usual::<$ty>(0, "", "0"),
            edge($ty::MAX),
            edge($ty::MIN),
        ]));
    )*};
}

macro_rules! types {
    ($types:ident, $database:ident, $($name:literal $ty:ty = $samples:expr;)*) => {$(
        $types.push(RustType::<$database>::new::<$ty>($name, Nullable::No, $samples));
    )*};
}

macro_rules! options {
    ($types:ident, $database:ident, $($name:literal $ty:ty = $samples:expr;)*) => {$(
        $types.push(RustType::<$database>::new::<Option<$ty>>($name, Nullable::Yes, $samples));
    )*};
}

/// The types that all three databases map.
macro_rules! common {
    ($types:ident, $database:ident, $bytes:literal, $uuid:literal) => {
        types! { $types, $database,
            "bool" bool = vec![usual(true, "", "TRUE"), usual(false, "", "FALSE")];
        }
        integers!($types, $database, i8, i16, i32, i64);
        types! { $types, $database,
            "f32" f32 = vec![
                usual(0.5_f32, "", "0.5"), usual(1_f32, "", "1.0"), edge_as(2_f32, "", "2"), edge(0.1_f32), edge(f32::MAX), edge(f32::MIN_POSITIVE),
            ];
            "f64" f64 = vec![
                usual(0.5_f64, "", "0.5"), usual(1_f64, "", "1.0"), edge_as(2_f64, "", "2"), edge(0.1_f64), edge(-0.0_f64), edge(f64::MAX),
                edge(f64::MIN_POSITIVE),
            ];
            "String" String = vec![
                usual("text".to_owned(), "'text'", "'text'"), edge(String::new()), edge("12".to_owned()),
                edge("1e5".to_owned()), edge("a ".to_owned()), edge("\u{1F9CA}".to_owned()),
            ];
            "Vec<u8>" Vec<u8> = vec![
                usual((240..=255).collect::<Vec<u8>>(), "'text'", $bytes), edge(vec![0_u8; 0]), edge(vec![b' ', 0]),
            ];
            "uuid::Uuid" Uuid = vec![
                usual(UUID, "", $uuid), edge_as(UUID, "'01234567-89ab-4def-8123-456789abcdef'", ""), edge(Uuid::nil()), edge(Uuid::max()),
            ];
            "chrono::NaiveDate" NaiveDate = vec![
                usual(day(2024, 2, 29), "'2024-02-29'", "'2024-02-29'"), edge(day(1, 1, 1)), edge(day(9999, 12, 31)),
                edge(NaiveDate::MAX),
            ];
            "chrono::NaiveTime" NaiveTime = vec![
                usual(at(12, 34, 56, 0), "'12:34:56'", "'12:34:56'"), edge(at(0, 0, 0, 0)), edge(at(23, 59, 59, 999_999_000)),
                edge(at(23, 59, 59, 999_999_999)),
            ];
            "chrono::NaiveDateTime" NaiveDateTime = vec![
                usual(NOON.naive_utc(), "'2024-02-29 12:34:56'", "'2024-02-29 12:34:56'"),
                edge(day(2024, 2, 29).and_time(at(23, 59, 59, 123_456_000))),
                edge(day(2024, 2, 29).and_time(at(23, 59, 59, 123_456_789))),
                edge(day(1, 1, 1).and_time(at(0, 0, 0, 0))), edge(day(9999, 12, 31).and_time(at(0, 0, 0, 0))),
                edge(NaiveDateTime::MAX),
            ];
            "chrono::DateTime<Utc>" DateTime<Utc> = vec![
                usual(NOON, "'2024-02-29 12:34:56'", "'2024-02-29 12:34:56'"),
                edge(day(2024, 2, 29).and_time(at(23, 59, 59, 123_456_000)).and_utc()),
                edge(day(2024, 2, 29).and_time(at(23, 59, 59, 123_456_789)).and_utc()),
                edge(day(1, 1, 1).and_time(at(0, 0, 0, 0)).and_utc()),
                edge(day(9999, 12, 31).and_time(at(0, 0, 0, 0)).and_utc()),
                edge(DateTime::<Utc>::MAX_UTC),
            ];
            "time::Date" time::Date = vec![
                usual(time::macros::date!(2024-02-29), "'2024-02-29'", "'2024-02-29'"),
                edge(time::macros::date!(0001-01-01)), edge(time::Date::MAX),
            ];
            "time::Time" time::Time = vec![
                usual(time::macros::time!(12:34:56), "'12:34:56'", "'12:34:56'"), edge(time::macros::time!(0:00)),
                edge(time::macros::time!(23:59:59.999_999)), edge(time::macros::time!(23:59:59.999_999_999)),
            ];
            "time::PrimitiveDateTime" PrimitiveDateTime = vec![
                usual(datetime!(2024-02-29 12:34:56), "'2024-02-29 12:34:56'", "'2024-02-29 12:34:56'"),
                edge(datetime!(2024-02-29 23:59:59.123_456)), edge(datetime!(2024-02-29 23:59:59.123_456_789)),
                edge(PrimitiveDateTime::MAX), edge(datetime!(0001-01-01 0:00)),
            ];
            "time::OffsetDateTime" OffsetDateTime = vec![
                usual(datetime!(2024-02-29 12:34:56 UTC), "'2024-02-29 12:34:56Z'", "'2024-02-29 12:34:56Z'"),
                edge(datetime!(2024-02-29 23:59:59.123_456 UTC)), edge(datetime!(2024-02-29 23:59:59.123_456_789 UTC)),
                edge(PrimitiveDateTime::MAX.assume_utc()), edge(datetime!(0001-01-01 0:00 UTC)),
            ];
            "Json<T>" Json<serde_json::Value> = vec![
                usual(Json(serde_json::json!({"a": [1, null]})), r#"'{"a":1}'"#, r#"'{"a":1}'"#),
                edge(Json(serde_json::json!(5))), edge(Json(serde_json::json!("\u{1F9CA}"))), edge(Json(serde_json::json!(u64::MAX))),
            ];
            "an enum" Mood = vec![usual(Mood::Happy, "'happy'", "'happy'"), usual(Mood::Grumpy, "'grumpy'", "'grumpy'")];
        }
        options! { $types, $database,
            "Option<i64>" i64 = vec![usual(Some(5_i64), "", "5"), edge(None::<i64>)];
            "Option<String>" String = vec![usual(Some("text".to_owned()), "'text'", "'text'"), edge(None::<String>)];
            "Option<an enum>" Mood = vec![usual(Some(Mood::Happy), "'happy'", "'happy'"), edge(None::<Mood>)];
        }
    };
}

const UUID: Uuid = Uuid::from_u128(0x0123_4567_89AB_4DEF_8123_4567_89AB_CDEF);
const NOON: DateTime<Utc> = DateTime::from_timestamp(1_709_210_096, 0).expect("it is in range");

fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).expect("it is a date")
}

fn at(hour: u32, minute: u32, second: u32, nanos: u32) -> NaiveTime {
    NaiveTime::from_hms_nano_opt(hour, minute, second, nanos).expect("it is a time")
}

fn hyphenated() -> Vec<Sample> {
    vec![
        usual(
            UUID.hyphenated(),
            "'01234567-89ab-4def-8123-456789abcdef'",
            "'01234567-89ab-4def-8123-456789abcdef'",
        ),
        edge(Uuid::nil().hyphenated()),
    ]
}

fn decimals() -> Vec<Sample> {
    vec![
        usual(Decimal::new(125, 1), "", "12.5"),
        usual(Decimal::ONE, "", "1"),
        edge(Decimal::MAX),
        edge(Decimal::MIN),
        edge(Decimal::new(1, 28)),
    ]
}

/// The types that sqlx maps to Postgres.
pub(crate) fn postgres() -> Vec<RustType<Postgres>> {
    let mut types = Vec::new();
    common!(
        types,
        Postgres,
        r"'\x00ff80'::bytea",
        r"'\x0123456789ab4def8123456789abcdef'::bytea"
    );
    types! { types, Postgres,
        "rust_decimal::Decimal" Decimal = decimals();
        "Vec<i32>" Vec<i32> = vec![usual(vec![1_i32, 2], "", ""), edge(vec![0_i32; 0]), edge(vec![i32::MIN])];
        "Vec<i64>" Vec<i64> = vec![usual(vec![1_i64, 2], "", ""), edge(vec![0_i64; 0]), edge(vec![i64::MIN])];
        "Vec<String>" Vec<String> = vec![
            usual(vec!["text".to_owned()], "", ""), edge(Vec::<String>::new()), edge(vec![String::new(), "a,\"b".to_owned()]),
        ];
    }
    types
}

/// The types that sqlx maps to MySQL and MariaDB.
pub(crate) fn mysql() -> Vec<RustType<MySql>> {
    let mut types = Vec::new();
    common!(
        types,
        MySql,
        "x'00ff80'",
        "x'0123456789ab4def8123456789abcdef'"
    );
    integers!(types, MySql, u8, u16, u32, u64);
    types! { types, MySql,
        "rust_decimal::Decimal" Decimal = decimals();
        "uuid::fmt::Hyphenated" Hyphenated = hyphenated();
    }
    types
}

/// The types that sqlx maps to SQLite.
pub(crate) fn sqlite() -> Vec<RustType<Sqlite>> {
    let mut types = Vec::new();
    common!(
        types,
        Sqlite,
        "x'00ff80'",
        "x'0123456789ab4def8123456789abcdef'"
    );
    integers!(types, Sqlite, u8, u16, u32);
    types! { types, Sqlite,
        "uuid::fmt::Hyphenated" Hyphenated = hyphenated();
    }
    types
}
