//! Generated code means the same whatever is shadowed around it.
#![allow(dead_code, unused_macros, non_camel_case_types, reason = "the names are only there to be in the way")]

mod core {}
mod std {}
mod larder {}

struct Option;
struct Result;
struct Arc;
struct String;
trait Clone {}
trait Debug {}
type bool = ();

macro_rules! assert {
    ($($tokens:tt)*) => {
        compile_error!("the assertion is not the one of core")
    };
}

#[derive(
    ::core::clone::Clone, ::serde::Serialize, ::serde::Deserialize, ::sqlx::FromRow, ::larder::Cached,
)]
#[cached(table = "flights", crate = ::larder)]
struct Flight {
    #[cached(id)]
    id: i64,
    gate: i32,
}

fn main() {}
