//! What identifies a row, and which tables take writes: the schema check knows unique keys and views, and entities that are
//! only read.

use larder::{Cached, ErrorKind};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};

use crate::{
    entities::Item,
    world::{Tested, World, everywhere, on_all_databases, on_postgres},
};

on_all_databases!(
    an_id_that_is_unique_and_not_the_primary_key_fits,
    a_composite_id_that_is_unique_fits,
    an_id_that_can_be_null_is_a_difference,
    a_key_of_other_columns_is_a_difference,
    a_view_without_writes_wants_read_only,
);
everywhere!(a_view_is_read_through_the_cache);
on_postgres!(
    a_key_with_a_condition_is_no_key,
    a_deferrable_key_is_reported_to_break_saves,
    a_view_that_takes_writes_fits,
    a_materialized_view_is_read_through_the_cache,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "airports")]
struct Airport {
    #[cached(id)]
    code: String,
    name: String,
}

impl Airport {
    fn new(code: &str, name: &str) -> Self {
        Self {
            code: code.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// Returns the type of a text that the database compares byte for byte.
fn exact<DB: Tested>() -> &'static str {
    match DB::NAME {
        name if name == <MySql as sqlx::Database>::NAME => {
            "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        }
        _ => "VARCHAR(20)",
    }
}

/// Returns a primary key that the database fills in.
fn own_key<DB: Tested>() -> &'static str {
    match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => "BIGSERIAL PRIMARY KEY",
        name if name == <MySql as sqlx::Database>::NAME => {
            "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
        }
        _ => "INTEGER PRIMARY KEY",
    }
}

async fn an_id_that_is_unique_and_not_the_primary_key_fits<DB: Tested>(world: &World<DB>) {
    let (key, text) = (own_key::<DB>(), exact::<DB>());
    world
        .sql(format!("CREATE TABLE airports (row_no {key}, code {text} NOT NULL UNIQUE, name {text} NOT NULL)"))
        .await;
    let airports = Airport::repository(&world.cache, world.pool.clone());
    let report = airports.check_schema().await.unwrap();
    assert_eq!(report.to_string(), "Airport fits the table airports");
    airports
        .insert(&Airport::new("SYD", "Sydney"))
        .await
        .unwrap();
    airports
        .save(&Airport::new("SYD", "Kingsford Smith"))
        .await
        .unwrap();
    airports
        .save(&Airport::new("MEL", "Melbourne"))
        .await
        .unwrap();
    assert_eq!(
        airports.find("SYD").await.unwrap().unwrap().name,
        "Kingsford Smith"
    );
    airports.delete("MEL").await.unwrap();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "gates")]
struct Gate {
    #[cached(id)]
    number: i64,
    #[cached(id)]
    airport: i64,
    name: String,
}

async fn a_composite_id_that_is_unique_fits<DB: Tested>(world: &World<DB>) {
    let key = own_key::<DB>();
    world
        .sql(format!(
            "CREATE TABLE gates (row_no {key}, airport BIGINT NOT NULL, number BIGINT NOT NULL, name VARCHAR(20) NOT NULL, \
             UNIQUE (airport, number), UNIQUE (name))"
        ))
        .await;
    let gates = Gate::repository(&world.cache, world.pool.clone());
    let report = gates.check_schema().await.unwrap();
    assert_eq!(report.to_string(), "Gate fits the table gates");
    let gate = Gate {
        number: 1,
        airport: 2,
        name: "A1".to_owned(),
    };
    gates.save(&gate).await.unwrap();
    gates.save(&gate).await.unwrap();
    assert_eq!(gates.find((1, 2)).await.unwrap().as_deref(), Some(&gate));
}

async fn an_id_that_can_be_null_is_a_difference<DB: Tested>(world: &World<DB>) {
    let (key, text) = (own_key::<DB>(), exact::<DB>());
    world
        .sql(format!(
            "CREATE TABLE airports (row_no {key}, code {text} UNIQUE, name {text} NOT NULL)"
        ))
        .await;
    let airports = Airport::repository(&world.cache, world.pool.clone());
    let report = airports.check_schema().await.unwrap();
    assert_eq!(report.differences.len(), 1, "{report}");
    assert_eq!(report.differences[0].column.as_deref(), Some("code"));
    assert!(
        report.to_string().contains("the column can be NULL"),
        "{report}"
    );
}

async fn a_key_of_other_columns_is_a_difference<DB: Tested>(world: &World<DB>) {
    let (key, text) = (own_key::<DB>(), exact::<DB>());
    world
        .sql(format!(
            "CREATE TABLE airports (row_no {key}, code {text} NOT NULL, name {text} NOT NULL, UNIQUE (code, name))"
        ))
        .await;
    let airports = Airport::repository(&world.cache, world.pool.clone());
    let report = airports.check_schema().await.unwrap();
    assert_eq!(report.differences.len(), 1, "{report}");
    let text = report.to_string();
    assert!(
        text.contains("the primary key of the table is row_no"),
        "{text}"
    );
    assert!(text.contains("UNIQUE"), "the way out: {text}");
    // Two rows, one id.
    world
        .sql("INSERT INTO airports (code, name) VALUES ('SYD', 'a'), ('SYD', 'b')")
        .await;
}

async fn a_key_with_a_condition_is_no_key(world: &World<Postgres>) {
    for text in [
        "CREATE TABLE airports (code TEXT NOT NULL, name TEXT NOT NULL)",
        "CREATE UNIQUE INDEX named ON airports (code) WHERE name <> ''",
        "CREATE UNIQUE INDEX lowered ON airports (lower(code))",
    ] {
        world.sql(text).await;
    }
    let airports = Airport::repository(&world.cache, world.pool.clone());
    let report = airports.check_schema().await.unwrap();
    assert!(!report.is_ok(), "{report}");
    let saved = airports
        .save(&Airport::new("SYD", "Sydney"))
        .await
        .unwrap_err();
    assert_eq!(
        saved.kind(),
        ErrorKind::Database,
        "as the report says: {saved}"
    );
}

async fn a_deferrable_key_is_reported_to_break_saves(world: &World<Postgres>) {
    world
        .sql("CREATE TABLE airports (code TEXT PRIMARY KEY DEFERRABLE, name TEXT NOT NULL)")
        .await;
    let airports = Airport::repository(&world.cache, world.pool.clone());
    let report = airports.check_schema().await.unwrap();
    assert!(
        report.is_ok() && report.to_string().contains("DEFERRABLE"),
        "{report}"
    );
    let saved = airports
        .save(&Airport::new("SYD", "Sydney"))
        .await
        .unwrap_err();
    assert_eq!(
        saved.kind(),
        ErrorKind::Database,
        "as the report says: {saved}"
    );
    airports
        .insert(&Airport::new("SYD", "Sydney"))
        .await
        .unwrap();
    airports
        .update(&Airport::new("SYD", "Kingsford Smith"))
        .await
        .unwrap();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "totals", read_only, ttl = "10m")]
struct Total {
    #[cached(id)]
    name: String,
    rows: i64,
}

/// The same view, for writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "totals")]
struct Written {
    #[cached(id)]
    name: String,
    rows: i64,
}

/// Counts the items of a name. `COUNT` has a type of its own in each database.
fn counted<DB: Tested>(kind: &str) -> String {
    let rows = match DB::NAME {
        name if name == <Sqlite as sqlx::Database>::NAME => "COUNT(*)",
        name if name == <MySql as sqlx::Database>::NAME => "COUNT(*)",
        _ => "COUNT(*)::bigint",
    };
    let name = match DB::NAME {
        name if name == <MySql as sqlx::Database>::NAME => "name COLLATE utf8mb4_bin",
        _ => "name",
    };
    let quoted = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => "\"rows\"",
        _ => "`rows`",
    };
    format!(
        "CREATE {kind} totals AS SELECT {name} AS name, {rows} AS {quoted} FROM items GROUP BY name"
    )
}

async fn a_view_is_read_through_the_cache<DB: Tested>(world: &World<DB>) {
    world.sql(counted::<DB>("VIEW")).await;
    world.put(&Item::new(1, "bolt")).await;
    let totals = Total::repository(&world.cache, world.pool.clone());
    let report = totals.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(
        report
            .to_string()
            .contains("which columns of a view identify a row"),
        "{report}"
    );
    for _ in 0..3 {
        assert_eq!(totals.find("bolt").await.unwrap().unwrap().rows, 1);
        assert_eq!(totals.find("nut").await.unwrap(), None);
    }
    assert!(totals.exists("bolt").await.unwrap());
    world.put(&Item::new(2, "bolt")).await;
    totals.invalidate("bolt").await.unwrap();
    assert_eq!(totals.find("bolt").await.unwrap().unwrap().rows, 2);
    assert_eq!(totals.refresh("bolt").await.unwrap().unwrap().rows, 2);
}

async fn a_view_without_writes_wants_read_only<DB: Tested>(world: &World<DB>) {
    world.sql(counted::<DB>("VIEW")).await;
    let rows = Written::repository(&world.cache, world.pool.clone());
    let report = rows.check_schema().await.unwrap();
    assert_eq!(report.differences.len(), 1, "{report}");
    assert!(
        report.to_string().contains("`#[cached(read_only)]`"),
        "{report}"
    );
    let row = Written {
        name: "bolt".to_owned(),
        rows: 1,
    };
    let refused = rows.insert(&row).await.unwrap_err();
    assert_eq!(
        refused.kind(),
        ErrorKind::Database,
        "as the report says: {refused}"
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "shown")]
struct Shown {
    #[cached(id)]
    id: i64,
    name: String,
    quantity: i64,
}

async fn a_view_that_takes_writes_fits(world: &World<Postgres>) {
    world
        .sql("CREATE VIEW shown AS SELECT id, name, quantity FROM items WHERE quantity < 100")
        .await;
    let rows = Shown::repository(&world.cache, world.pool.clone());
    let report = rows.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    let shown = |name: &str| Shown {
        id: 1,
        name: name.to_owned(),
        quantity: 1,
    };
    rows.insert(&shown("a")).await.unwrap();
    rows.update(&shown("b")).await.unwrap();
    rows.save(&shown("c")).await.unwrap();
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "c");
    rows.delete(1).await.unwrap();
}

async fn a_materialized_view_is_read_through_the_cache(world: &World<Postgres>) {
    world.put(&Item::new(1, "bolt")).await;
    world.sql(counted::<Postgres>("MATERIALIZED VIEW")).await;
    world
        .sql("CREATE UNIQUE INDEX by_name ON totals (name)")
        .await;
    let totals = Total::repository(&world.cache, world.pool.clone());
    let report = totals.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(!report.to_string().contains("identify a row"), "{report}");
    assert_eq!(totals.find("bolt").await.unwrap().unwrap().rows, 1);
}
