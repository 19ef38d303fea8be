//! The schema check finds every difference between a struct and its table, and tells them all at once.

use larder::{Cached, ErrorKind};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};

use crate::world::{Item, Tested, World, everywhere};

everywhere!(
    a_table_that_fits_is_reported_to_fit,
    every_difference_is_reported_at_once,
    a_missing_table_is_reported,
    a_folding_collation_of_an_id_is_remarked,
);

async fn a_table_that_fits_is_reported_to_fit<DB: Tested>(world: &World<DB>) {
    let report = world.items().check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.to_string(), "Item fits the table items");
    report.into_result().unwrap();
    let _ = Item::new(1, "");
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "crooked")]
struct Crooked {
    #[cached(id)]
    id: i64,
    #[cached(id)]
    part: i64,
    missing: String,
    retyped: i64,
    nullable: i64,
    strict: Option<i64>,
}

async fn every_difference_is_reported_at_once<DB: Tested>(world: &World<DB>) {
    world
        .sql(
            "CREATE TABLE crooked (id BIGINT NOT NULL PRIMARY KEY, part BIGINT NOT NULL, retyped TEXT NOT NULL, nullable BIGINT, \
             strict BIGINT NOT NULL, surprise BIGINT NOT NULL, harmless BIGINT NOT NULL DEFAULT 1)",
        )
        .await;
    let rows = Crooked::repository(&world.cache, world.pool.clone());
    let report = rows.check_schema().await.unwrap();
    let text = report.to_string();
    for part in [
        "Crooked does not fit the table crooked:",
        "column missing: the table has no such column",
        "column retyped: the column has type",
        "column nullable: the column can be NULL",
        "column surprise: the struct has no such field",
        "the fields marked `id` are id, part, the primary key of the table is id;",
        "note: column strict: the field is an `Option`",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(report.differences.len(), 5, "{text}");
    assert!(!text.contains("harmless"), "{text}");
    assert_eq!(
        report.into_result().unwrap_err().kind(),
        ErrorKind::Configuration
    );
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "nowhere")]
struct Nowhere {
    #[cached(id)]
    id: i64,
}

async fn a_missing_table_is_reported<DB: Tested>(world: &World<DB>) {
    let report = Nowhere::repository(&world.cache, world.pool.clone())
        .check_schema()
        .await
        .unwrap();
    assert!(
        report.to_string().contains("there is no such table"),
        "{report}"
    );
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "codes")]
struct Code {
    #[cached(id)]
    code: String,
}

async fn a_folding_collation_of_an_id_is_remarked<DB: Tested>(world: &World<DB>) {
    let statements: &[&str] = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => &[
            "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "CREATE TABLE codes (code TEXT COLLATE folding NOT NULL PRIMARY KEY)",
        ],
        name if name == <MySql as sqlx::Database>::NAME => &[
            "CREATE TABLE codes (code VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL PRIMARY KEY)",
        ],
        name if name == <Sqlite as sqlx::Database>::NAME => {
            &["CREATE TABLE codes (code TEXT COLLATE NOCASE NOT NULL PRIMARY KEY)"]
        }
        other => panic!("an unknown database: {other}"),
    };
    for statement in statements {
        world.sql(*statement).await;
    }
    let report = Code::repository(&world.cache, world.pool.clone())
        .check_schema()
        .await
        .unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.remarks.len(), 1, "{report}");
    assert!(
        report
            .to_string()
            .contains("calls different spellings of an id equal"),
        "{report}"
    );
}
