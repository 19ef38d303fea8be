//! A union is no row.

use larder::Cached;

#[derive(Clone, Copy, Cached)]
#[cached(table = "flights")]
union Flight {
    id: i64,
    gate: u8,
}

fn main() {}
