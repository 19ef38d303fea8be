//! An enum is no row.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Cached)]
#[cached(table = "flights")]
enum Flight {
    Arrival,
    Departure,
}

fn main() {}
