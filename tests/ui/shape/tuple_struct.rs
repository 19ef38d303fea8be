//! Columns have names.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Cached)]
#[cached(table = "flights")]
struct Flight(i64);

fn main() {}
