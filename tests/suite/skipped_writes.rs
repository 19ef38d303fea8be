//! A write that the database accepts and does not make: a trigger returned NULL, a rule did nothing. The error says so, and
//! does not claim that the row is missing, has another version, or another spelling.

use larder::{Cached, Error, ErrorKind, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Sqlite};

use crate::{
    entities::{Item, Through},
    world::{Kind, Tested, World, on_postgres},
};

on_postgres!(
    a_rule_that_does_nothing_is_said_to_skip_the_row,
    a_view_whose_trigger_writes_nothing_is_said_to_skip_the_row,
);

/// Makes a test of each case for the databases whose triggers can skip a row.
macro_rules! with_triggers {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, postgres, Memory, Postgres);
            crate::world::case!($case, sqlite, Memory, Sqlite);
        })*
    };
}

with_triggers!(
    a_trigger_that_skips_an_insert_is_named_and_no_spelling,
    a_trigger_that_skips_an_update_is_named_and_no_missing_row,
    a_trigger_that_skips_a_deletion_is_named,
    a_skipped_update_of_a_versioned_row_is_no_conflict,
    a_skipped_row_of_a_batch_undoes_the_batch,
);

/// Makes the database skip all rows of such a statement (`INSERT`, `UPDATE` or `DELETE`).
async fn skip<DB: Tested>(world: &World<DB>, table: &str, statement: &str) {
    if DB::NAME == <Postgres as sqlx::Database>::NAME {
        world
            .raw(format!(
                "CREATE OR REPLACE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
                 CREATE TRIGGER skip_{statement} BEFORE {statement} ON {table} FOR EACH ROW EXECUTE FUNCTION skip()"
            ))
            .await;
    } else {
        world
            .raw(format!(
                "CREATE TRIGGER skip_{statement}_{table} BEFORE {statement} ON {table} BEGIN SELECT RAISE(IGNORE); END"
            ))
            .await;
    }
}

#[track_caller]
fn is_skipped(error: &Error) {
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Database, "{text}");
    assert!(text.contains("skipped the row"), "{text}");
    assert!(text.contains("trigger"), "{text}");
    for claim in ["other bytes", "no such row", "version"] {
        assert!(!text.contains(claim), "{text}");
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "pages")]
struct Page {
    #[cached(id)]
    path: String,
    title: String,
}

async fn a_trigger_that_skips_an_insert_is_named_and_no_spelling<DB: Tested>(world: &World<DB>) {
    skip(world, "items", "INSERT").await;
    let items = world.items();
    is_skipped(&items.save(&Item::new(1, "one")).await.unwrap_err());
    is_skipped(&items.insert(&Item::new(1, "one")).await.unwrap_err());
    let through = Through::repository(&world.cache, world.pool.clone());
    is_skipped(&through.save(&Through::new(1, "one")).await.unwrap_err());
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let saved = items
        .within(&mut transaction)
        .save(&Item::new(1, "one"))
        .await;
    is_skipped(&saved.unwrap_err());
    transaction.rollback().await.unwrap();
    // A text id could have another spelling, and has none.
    world
        .sql("CREATE TABLE pages (path VARCHAR(50) NOT NULL PRIMARY KEY, title VARCHAR(50) NOT NULL)")
        .await;
    skip(world, "pages", "INSERT").await;
    let pages = Page::repository(&world.cache, world.pool.clone());
    let page = Page {
        path: "/home".to_owned(),
        title: "Home".to_owned(),
    };
    is_skipped(&pages.save(&page).await.unwrap_err());
    assert_eq!(pages.find("/home").await.unwrap(), None);
}

async fn a_trigger_that_skips_an_update_is_named_and_no_missing_row<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    skip(world, "items", "UPDATE").await;
    let items = world.items();
    let new = Item::new(1, "new");
    is_skipped(&items.update(&new).await.unwrap_err());
    is_skipped(&items.save(&new).await.unwrap_err());
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "old");
    let missing = items.update(&Item::new(2, "two")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
}

async fn a_trigger_that_skips_a_deletion_is_named<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    skip(world, "items", "DELETE").await;
    let items = world.items();
    is_skipped(&items.delete(1).await.unwrap_err());
    assert!(items.exists(1).await.unwrap());
    let missing = items.delete(2).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items")]
struct Versioned {
    #[cached(id)]
    id: i64,
    name: String,
    note: Option<String>,
    #[cached(version)]
    quantity: i64,
}

async fn a_skipped_update_of_a_versioned_row_is_no_conflict<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    skip(world, "items", "UPDATE").await;
    skip(world, "items", "DELETE").await;
    let rows = Versioned::repository(&world.cache, world.pool.clone());
    let row = Versioned {
        id: 1,
        name: "new".to_owned(),
        note: None,
        quantity: 1,
    };
    for error in [
        rows.update(&row).await.unwrap_err(),
        rows.save(&row).await.unwrap_err(),
        rows.delete(&row).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Database, "{error}");
        assert!(error.to_string().contains("skipped the row"), "{error}");
    }
    let stale = Versioned { quantity: 7, ..row };
    let conflict = rows.update(&stale).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict, "{conflict}");
    assert_eq!(conflict.current::<Versioned>().unwrap().quantity, 1);
}

async fn a_skipped_row_of_a_batch_undoes_the_batch<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    world.put(&Item::new(2, "two")).await;
    skip(world, "items", "UPDATE").await;
    let items = world.items();
    let rows = [Item::new(1, "new"), Item::new(2, "new")];
    is_skipped(&items.update_many(&rows).await.unwrap_err());
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
}

async fn a_rule_that_does_nothing_is_said_to_skip_the_row(world: &World<Postgres>) {
    world.put(&Item::new(1, "one")).await;
    for statement in ["UPDATE", "DELETE"] {
        world
            .sql(format!(
                "CREATE RULE no_{statement} AS ON {statement} TO items DO INSTEAD NOTHING"
            ))
            .await;
    }
    let items = world.items();
    is_skipped(&items.update(&Item::new(1, "new")).await.unwrap_err());
    is_skipped(&items.delete(1).await.unwrap_err());
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "shown")]
struct Shown {
    #[cached(id)]
    id: i64,
    name: String,
}

async fn a_view_whose_trigger_writes_nothing_is_said_to_skip_the_row(world: &World<Postgres>) {
    world.put(&Item::new(1, "one")).await;
    world
        .raw(
            "CREATE VIEW shown AS SELECT id, name FROM items; \
             CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
             CREATE TRIGGER skip INSTEAD OF INSERT OR UPDATE OR DELETE ON shown FOR EACH ROW EXECUTE FUNCTION skip()",
        )
        .await;
    let rows = Shown::repository(&world.cache, world.pool.clone());
    let shown = |id| Shown {
        id,
        name: "new".to_owned(),
    };
    is_skipped(&rows.insert(&shown(2)).await.unwrap_err());
    is_skipped(&rows.update(&shown(1)).await.unwrap_err());
    is_skipped(&rows.delete(1).await.unwrap_err());
}

/// The claim that is left: the same id in another spelling.
#[tokio::test]
async fn another_spelling_is_still_said_to_be_one() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world
        .sql("CREATE TABLE pages (path TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, title TEXT NOT NULL)")
        .await;
    world
        .sql("INSERT INTO pages VALUES ('/Home', 'Home')")
        .await;
    let pages = Page::repository(&world.cache, world.pool.clone());
    let page = Page {
        path: "/home".to_owned(),
        title: "new".to_owned(),
    };
    let error = pages.save(&page).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
    assert!(error.to_string().contains("other bytes"), "{error}");
    world.database.close().await;
}
