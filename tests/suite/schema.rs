//! The schema check finds all differences between a struct and its table, and reports them together.

use larder::{Cached, ErrorKind};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};

use crate::world::{Tested, World, everywhere, on_postgres};

everywhere!(
    a_table_that_fits_is_reported_to_fit,
    every_difference_is_reported_at_once,
    a_missing_table_is_reported,
    a_case_insensitive_collation_of_an_id_is_reported,
    a_case_insensitive_collation_outside_the_id_is_not_reported,
    a_written_field_on_a_computed_column_is_a_difference,
    a_generated_field_on_a_computed_column_fits,
    an_id_that_the_database_pads_is_reported,
);
on_postgres!(
    a_column_that_a_primary_key_only_includes_is_no_part_of_it,
    an_identity_that_takes_no_value_wants_a_generated_field,
);

async fn a_table_that_fits_is_reported_to_fit<DB: Tested>(world: &World<DB>) {
    let report = world.items().check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.to_string(), "Item fits the table items");
    report.into_result().unwrap();
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

async fn a_case_insensitive_collation_of_an_id_is_reported<DB: Tested>(world: &World<DB>) {
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
            .contains("treats different spellings of an id as equal"),
        "{report}"
    );
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "codes")]
struct Named {
    #[cached(id)]
    code: String,
    name: String,
}

async fn a_case_insensitive_collation_outside_the_id_is_not_reported<DB: Tested>(
    world: &World<DB>,
) {
    let (id, name) = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => {
            world
                .sql("CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
                .await;
            ("TEXT", "TEXT COLLATE folding")
        }
        name if name == <MySql as sqlx::Database>::NAME => (
            "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        ),
        _ => ("TEXT", "TEXT COLLATE NOCASE"),
    };
    world
        .sql(format!(
            "CREATE TABLE codes (code {id} NOT NULL PRIMARY KEY, name {name} NOT NULL UNIQUE)"
        ))
        .await;
    let report = Named::repository(&world.cache, world.pool.clone())
        .check_schema()
        .await
        .unwrap();
    assert_eq!(report.to_string(), "Named fits the table codes");
}

/// Creates a table with a computed column, and with a column that needs a value on insert.
async fn create_squares<DB: Tested>(world: &World<DB>) {
    let touched = match DB::NAME {
        name if name == <MySql as sqlx::Database>::NAME => {
            "TIMESTAMP NOT NULL DEFAULT 0 ON UPDATE CURRENT_TIMESTAMP"
        }
        _ => "TIMESTAMP NOT NULL",
    };
    world
        .sql(format!(
            "CREATE TABLE squares (id BIGINT NOT NULL PRIMARY KEY, side BIGINT NOT NULL, \
             area BIGINT GENERATED ALWAYS AS (side * side) STORED, touched {touched})"
        ))
        .await;
    if DB::NAME == <MySql as sqlx::Database>::NAME {
        world
            .sql("ALTER TABLE squares ALTER COLUMN touched DROP DEFAULT")
            .await;
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "squares")]
struct Written {
    #[cached(id)]
    id: i64,
    side: i64,
    area: Option<i64>,
}

async fn a_written_field_on_a_computed_column_is_a_difference<DB: Tested>(world: &World<DB>) {
    create_squares(world).await;
    let written = Written::repository(&world.cache, world.pool.clone());
    let report = written.check_schema().await.unwrap();
    let text = report.to_string();
    for part in [
        "column area: the database computes the column and takes no value for it",
        "column touched: the struct has no such field",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(report.differences.len(), 2, "{text}");
    let square = Written {
        id: 1,
        side: 2,
        area: Some(4),
    };
    let refused = written.insert(&square).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Database, "as the report says");
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "squares")]
struct Square {
    #[cached(id)]
    id: i64,
    side: i64,
    #[cached(generated)]
    area: Option<i64>,
}

async fn a_generated_field_on_a_computed_column_fits<DB: Tested>(world: &World<DB>) {
    create_squares(world).await;
    world.sql("ALTER TABLE squares DROP COLUMN touched").await;
    let squares = Square::repository(&world.cache, world.pool.clone());
    let report = squares.check_schema().await.unwrap();
    assert_eq!(report.to_string(), "Square fits the table squares");
    let draft = Square {
        id: 1,
        side: 3,
        area: None,
    };
    assert_eq!(squares.insert(&draft).await.unwrap().area, Some(9));
}

async fn an_id_that_the_database_pads_is_reported<DB: Tested>(world: &World<DB>) {
    let id = match DB::NAME {
        name if name == <MySql as sqlx::Database>::NAME => {
            "CHAR(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        }
        _ => "CHAR(10)",
    };
    world
        .sql(format!(
            "CREATE TABLE codes (code {id} NOT NULL PRIMARY KEY, name CHAR(10) NOT NULL)"
        ))
        .await;
    let report = Named::repository(&world.cache, world.pool.clone())
        .check_schema()
        .await
        .unwrap();
    if DB::NAME == <Sqlite as sqlx::Database>::NAME {
        // SQLite treats all names of text types alike, and stores values unchanged.
        assert_eq!(report.to_string(), "Named fits the table codes");
        return;
    }
    assert!(report.is_ok(), "{report}");
    let difference = &report.remarks[0];
    assert_eq!(difference.column.as_deref(), Some("code"));
    assert!(
        difference.message.contains("pads or strips blanks"),
        "{report}"
    );
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "included")]
struct Included {
    #[cached(id)]
    id: i64,
    name: String,
}

async fn a_column_that_a_primary_key_only_includes_is_no_part_of_it(world: &World<Postgres>) {
    world
        .sql("CREATE TABLE included (name TEXT NOT NULL, id BIGINT NOT NULL, PRIMARY KEY (id) INCLUDE (name))")
        .await;
    let report = Included::repository(&world.cache, world.pool.clone())
        .check_schema()
        .await
        .unwrap();
    assert_eq!(report.to_string(), "Included fits the table included");
}

async fn an_identity_that_takes_no_value_wants_a_generated_field(world: &World<Postgres>) {
    world
        .sql("CREATE TABLE included (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL)")
        .await;
    let report = Included::repository(&world.cache, world.pool.clone())
        .check_schema()
        .await
        .unwrap();
    assert!(
        report
            .to_string()
            .contains("column id: the database computes the column"),
        "{report}"
    );
}
