//! A column of a nested struct has a type that a database can store. All columns that have none are reported.

use larder::Columns;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Columns)]
struct Route {
    status: Status,
    miles: usize,
}

#[derive(Clone, Serialize, Deserialize)]
enum Status {
    Open,
}

fn main() {}
