//! A row has at least one column.

use larder::Cached;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Cached)]
#[cached(table = "flights")]
struct Flight {}

fn main() {}
