//! A raw identifier is its name without the `r#`.
use larder::{Cached, Entity};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "events")]
struct r#Event {
    #[cached(id)]
    r#type: i64,
    r#match: Option<String>,
}

fn main() {
    let event = Event { r#type: 7, r#match: None };
    assert_eq!(event.id(), 7);
    assert_eq!(Event::SPEC.name, "Event");
    let _: fn(&larder::Cache, sqlx::SqlitePool) -> EventRepository<sqlx::Sqlite> = Event::repository;
}
