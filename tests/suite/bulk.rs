//! Batches: many rows with few statements, all or none, and every key is invalidated or updated.

use larder::{Cached, ErrorKind, Origin, store::faulty::Operation};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, MySql, Postgres, Sqlite};

use crate::{
    entities::{Item, ItemRepository},
    world::{Tested, World, everywhere, on_both_stores, on_mysql, on_postgres},
};

everywhere!(
    a_batch_reaches_the_database_and_every_reader,
    a_batch_that_is_refused_changes_no_row_and_no_entry,
    a_batch_returns_its_rows_in_the_order_of_the_input,
    ids_that_the_database_chooses_belong_to_their_rows,
    a_batch_larger_than_a_statement_is_split,
    a_batch_larger_than_a_message_is_split,
    text_ids_of_a_batch_are_compared_byte_for_byte,
    every_type_survives_a_batch,
);
on_both_stores!(
    an_empty_batch_does_nothing,
    a_row_given_twice_is_refused,
    a_batch_announces_all_keys_at_once,
    a_store_that_fails_within_a_batch_leaves_no_old_row,
);
on_mysql!(an_id_that_the_database_pads_is_one_a_batch_can_insert,);
on_postgres!(
    a_batch_of_postgres_is_one_statement,
    a_row_that_a_trigger_suppresses_is_an_error_of_its_batch,
);

fn items(ids: impl IntoIterator<Item = i64>, name: &str) -> Vec<Item> {
    ids.into_iter().map(|id| Item::new(id, name)).collect()
}

async fn names<DB: Tested>(items: &ItemRepository<DB>, ids: &[i64]) -> Vec<Option<String>> {
    let mut names = Vec::new();
    for id in ids {
        let row = items.find(*id).await.unwrap();
        names.push(row.map(|row| row.name.clone()));
    }
    names
}

async fn a_batch_reaches_the_database_and_every_reader<DB: Tested>(world: &World<DB>) {
    let (here, there) = (world.items(), world.items_elsewhere().await);
    let ids = [1, 2, 3];
    assert_eq!(names(&there, &ids).await, [None, None, None]);
    let inserted = here.inner().insert_many(&items(ids, "old")).await.unwrap();
    assert_eq!(inserted.len(), 3);
    let old = Some("old".to_owned());
    assert_eq!(
        names(&there, &ids).await,
        [old.clone(), old.clone(), old.clone()]
    );
    here.inner()
        .update_many(&items([3, 1], "new"))
        .await
        .unwrap();
    let new = Some("new".to_owned());
    assert_eq!(names(&there, &ids).await, [new.clone(), old, new.clone()]);
    let deleted = here.inner().delete_many(&[2, 9, 3]).await.unwrap();
    assert_eq!(deleted, 2, "an id without a row is no error");
    assert_eq!(names(&there, &ids).await, [new, None, None]);
    assert_eq!(here.stats().writes, 3);
}

/// The second row of the batch is rejected after the first one was written.
async fn a_batch_that_is_refused_changes_no_row_and_no_entry<DB: Tested>(world: &World<DB>) {
    let (here, there) = (world.items(), world.items_elsewhere().await);
    here.inner()
        .insert_many(&items([1, 2], "old"))
        .await
        .unwrap();
    for id in [1, 2] {
        world.warm(&there, id).await;
    }
    let error = here
        .inner()
        .insert_many(&items([3, 1], "new"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
    let error = here
        .inner()
        .update_many(&items([1, 7, 2], "new"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("Item:7"), "{error}");
    for id in [1, 2] {
        let outcome = there.find_outcome(id).await.unwrap();
        assert_eq!(outcome.row.unwrap().name, "old");
        assert_eq!(outcome.origin, Origin::Cache, "the entry was not touched");
    }
    assert_eq!(there.find(3).await.unwrap(), None);
}

async fn a_batch_returns_its_rows_in_the_order_of_the_input<DB: Tested>(world: &World<DB>) {
    let items_here = world.items();
    let wanted = [5, 1, 4, 2, 3];
    let order = |rows: Vec<std::sync::Arc<Item>>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let inserted = items_here
        .inner()
        .insert_many(&items(wanted, "old"))
        .await
        .unwrap();
    assert_eq!(order(inserted), wanted);
    let updated = items_here
        .inner()
        .update_many(&items(wanted, "new"))
        .await
        .unwrap();
    assert_eq!(order(updated), wanted);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "tickets")]
struct Ticket {
    #[cached(id, generated)]
    id: i64,
    title: String,
    #[cached(generated)]
    state: String,
}

async fn ids_that_the_database_chooses_belong_to_their_rows<DB: Tested>(world: &World<DB>) {
    let id = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => "BIGSERIAL PRIMARY KEY",
        name if name == <MySql as sqlx::Database>::NAME => {
            "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
        }
        _ => "INTEGER PRIMARY KEY AUTOINCREMENT",
    };
    world
        .sql(format!("CREATE TABLE tickets (id {id}, title VARCHAR(100) NOT NULL, state VARCHAR(20) NOT NULL DEFAULT 'open')"))
        .await;
    let tickets = Ticket::repository(&world.cache, world.pool.clone());
    for id in 1..=3 {
        assert_eq!(tickets.find(id).await.unwrap(), None, "known to be absent");
    }
    let drafts: Vec<_> = ["a", "b", "c"]
        .map(|title| Ticket {
            id: 0,
            title: title.to_owned(),
            state: String::new(),
        })
        .into();
    let written = tickets.inner().insert_many(&drafts).await.unwrap();
    assert_eq!(
        written
            .iter()
            .map(|ticket| &*ticket.title)
            .collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    for ticket in written {
        assert_eq!(ticket.state, "open");
        assert_eq!(tickets.find(ticket.id).await.unwrap(), Some(ticket));
    }
}

async fn a_batch_larger_than_a_statement_is_split<DB: Tested>(world: &World<DB>) {
    let repository = world.items();
    // More rows than fit into one statement on any database, with a remainder.
    let count = if DB::NAME == <Postgres as sqlx::Database>::NAME {
        5_321
    } else {
        1_321
    };
    repository
        .inner()
        .insert_many(&items(0..count, "old"))
        .await
        .unwrap();
    let changed: Vec<_> = (0..count).filter(|id| id % 3 == 0).collect();
    repository
        .inner()
        .update_many(&items(changed, "new"))
        .await
        .unwrap();
    for id in [0, 1, 499, 500, 501, 1_000, count - 1] {
        let name = if id % 3 == 0 { "new" } else { "old" };
        assert_eq!(repository.find(id).await.unwrap().unwrap().name, name);
    }
    let all: Vec<_> = (0..count).collect();
    assert_eq!(
        repository.inner().delete_many(&all).await.unwrap(),
        u64::try_from(count).unwrap()
    );
    assert_eq!(repository.find(count - 1).await.unwrap(), None);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "words")]
struct Word {
    #[cached(id)]
    word: String,
    #[cached(id)]
    language: String,
    meaning: String,
}

/// In the tests' setup, MySQL accepts at most 16 MiB in one message.
async fn a_batch_larger_than_a_message_is_split<DB: Tested>(world: &World<DB>) {
    let text = if DB::NAME == <MySql as sqlx::Database>::NAME {
        "LONGTEXT"
    } else {
        "TEXT"
    };
    world.sql("DROP TABLE items").await;
    world
        .sql(format!(
            "CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, name {text} NOT NULL, note VARCHAR(200), quantity BIGINT NOT NULL)"
        ))
        .await;
    let rows = items(1..=32, &"x".repeat(600_000));
    let inserted = world.items().inner().insert_many(&rows).await.unwrap();
    assert_eq!(inserted.len(), 32);
    let count = world.text("SELECT CONCAT(COUNT(*), '') FROM items").await;
    assert_eq!(count, "32");
}

/// MariaDB and SQLite's NOCASE treat `Ox` and `ox` as equal. The cache has two keys for them.
async fn text_ids_of_a_batch_are_compared_byte_for_byte<DB: Tested>(world: &World<DB>) {
    let collation = if DB::NAME == <Sqlite as sqlx::Database>::NAME {
        "COLLATE NOCASE"
    } else {
        ""
    };
    world
        .sql(format!("CREATE TABLE words (word VARCHAR(50) {collation} NOT NULL, language VARCHAR(9) NOT NULL, meaning VARCHAR(99) NOT NULL, PRIMARY KEY (word, language))"))
        .await;
    let words = Word::repository(&world.cache, world.pool.clone());
    let word = |word: &str, meaning: &str| Word {
        word: word.to_owned(),
        language: "en".to_owned(),
        meaning: meaning.to_owned(),
    };
    words
        .inner()
        .insert_many(&[word("Ox", "cattle"), word("yak", "cattle")])
        .await
        .unwrap();
    let error = words
        .inner()
        .update_many(&[word("ox", "changed")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let id = |word: &str| (word.to_owned(), "en".to_owned());
    assert_eq!(
        words
            .inner()
            .delete_many(&[id("ox"), id("YAK")])
            .await
            .unwrap(),
        0
    );
    let updated = words
        .inner()
        .update_many(&[word("yak", "bovine"), word("Ox", "bovine")])
        .await
        .unwrap();
    assert_eq!((&*updated[0].word, &*updated[1].word), ("yak", "Ox"));
    assert_eq!(
        words
            .inner()
            .delete_many(&[id("Ox"), id("yak")])
            .await
            .unwrap(),
        2
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "samples")]
struct Sample {
    #[cached(id)]
    id: i64,
    flag: bool,
    small: i16,
    middle: Option<i32>,
    weight: f64,
    bytes: Vec<u8>,
    day: Option<chrono::NaiveDate>,
    moment: chrono::NaiveDateTime,
    #[sqlx(json)]
    tags: Vec<String>,
    #[sqlx(json(nullable))]
    extra: Option<Vec<i32>>,
}

async fn every_type_survives_a_batch<DB: Tested>(world: &World<DB>) {
    let (bytes, float, moment, json) = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => {
            ("BYTEA", "DOUBLE PRECISION", "TIMESTAMP", "JSONB")
        }
        name if name == <MySql as sqlx::Database>::NAME => {
            ("VARBINARY(99)", "DOUBLE", "DATETIME(6)", "JSON")
        }
        _ => ("BLOB", "REAL", "TEXT", "TEXT"),
    };
    world
        .sql(format!("CREATE TABLE samples (id BIGINT NOT NULL PRIMARY KEY, flag BOOLEAN NOT NULL, small SMALLINT NOT NULL, middle INT, weight {float} NOT NULL, bytes {bytes} NOT NULL, day DATE, moment {moment} NOT NULL, tags {json} NOT NULL, extra {json})"))
        .await;
    let samples = Sample::repository(&world.cache, world.pool.clone());
    let sample = |id: i64| Sample {
        id,
        flag: id % 2 == 0,
        small: -7,
        middle: (id != 2).then_some(1 << 30),
        weight: 0.1 + f64::from(i32::try_from(id).unwrap()),
        bytes: vec![0, 255, 92, 39],
        day: (id != 3).then(|| chrono::NaiveDate::from_ymd_opt(2024, 2, 29).unwrap()),
        moment: chrono::NaiveDate::from_ymd_opt(1999, 12, 31)
            .unwrap()
            .and_hms_micro_opt(23, 59, 59, 999_999)
            .unwrap(),
        tags: vec!["a\"b".to_owned(), "{,}".to_owned()],
        extra: (id != 1).then(|| vec![1, 2]),
    };
    let written: Vec<_> = (1..=3).map(sample).collect();
    samples.inner().insert_many(&written).await.unwrap();
    for row in &written {
        assert_eq!(
            samples.find_uncached(row.id).await.unwrap().as_deref(),
            Some(row)
        );
    }
    let swapped: Vec<_> = (1..=3)
        .map(|id| Sample {
            id,
            ..sample(4 - id)
        })
        .collect();
    samples.inner().update_many(&swapped).await.unwrap();
    for row in &swapped {
        assert_eq!(
            samples.find_uncached(row.id).await.unwrap().as_deref(),
            Some(row)
        );
    }
}

async fn an_empty_batch_does_nothing<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let gate = world.close_gate().await;
    assert!(items.inner().insert_many(&[]).await.unwrap().is_empty());
    assert!(items.inner().update_many(&[]).await.unwrap().is_empty());
    assert_eq!(items.inner().delete_many(&[]).await.unwrap(), 0);
    drop(gate);
}

async fn a_row_given_twice_is_refused<DB: Tested>(world: &World<DB>) {
    let repository = world.items();
    repository
        .inner()
        .insert_many(&items([1, 2], "old"))
        .await
        .unwrap();
    let error = repository
        .inner()
        .update_many(&items([1, 2, 1], "new"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(error.to_string().contains("given twice"), "{error}");
    assert_eq!(repository.find(1).await.unwrap().unwrap().name, "old");
}

async fn a_batch_announces_all_keys_at_once<DB: Tested>(world: &World<DB>) {
    let repository = world.items();
    repository
        .inner()
        .insert_many(&items(0..700, "one"))
        .await
        .unwrap();
    assert_eq!(world.faults.calls(Operation::Begin), 1);
    assert_eq!(world.faults.calls(Operation::End), 1);
    for id in [0, 499, 500, 699] {
        let key = repository.inner().key(id).unwrap();
        assert_eq!(world.cache.store().remaining_ms(&key).await.unwrap(), None);
    }
}

/// The intents cannot be placed. The entries are dropped after the commit.
async fn a_store_that_fails_within_a_batch_leaves_no_old_row<DB: Tested>(world: &World<DB>) {
    let repository = world.items();
    repository
        .inner()
        .insert_many(&items([1, 2], "old"))
        .await
        .unwrap();
    for id in [1, 2] {
        world.warm(&repository, id).await;
    }
    world.faults.fail(Operation::Begin, 1);
    repository
        .inner()
        .update_many(&items([1, 2], "new"))
        .await
        .unwrap();
    let new = Some("new".to_owned());
    assert_eq!(names(&repository, &[1, 2]).await, [new.clone(), new]);
}

async fn a_batch_of_postgres_is_one_statement(world: &World<Postgres>) {
    let repository = world.items();
    repository
        .inner()
        .insert_many(&items(0..1_000, "old"))
        .await
        .unwrap();
    repository
        .inner()
        .update_many(&items(0..1_000, "new"))
        .await
        .unwrap();
    let ids: Vec<_> = (0..1_000).collect();
    repository.inner().delete_many(&ids).await.unwrap();
    assert_eq!(world.database.statement_log().count_on("items"), 3);
    world.pool.acquire().await.unwrap().ping().await.unwrap();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "codes")]
struct Code {
    #[cached(id)]
    code: String,
    name: String,
}

/// A CHAR strips trailing blanks, so the id of the returned row is spelled differently from the given one.
async fn an_id_that_the_database_pads_is_one_a_batch_can_insert(world: &World<MySql>) {
    world
        .sql("CREATE TABLE codes (code CHAR(10) NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL)")
        .await;
    let codes = Code::repository(&world.cache, world.pool.clone());
    let code = |code: &str| Code {
        code: code.to_owned(),
        name: "padded".to_owned(),
    };
    codes.insert(&code("a ")).await.unwrap();
    let inserted = codes.inner().insert_many(&[code("b "), code("c")]).await;
    assert_eq!(inserted.unwrap().len(), 2);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "drafts")]
struct Draft {
    #[cached(id, generated)]
    id: i64,
    title: String,
}

/// The database reports fewer rows than it was given, and no error.
async fn a_row_that_a_trigger_suppresses_is_an_error_of_its_batch(world: &World<Postgres>) {
    world
        .sql("CREATE TABLE drafts (id BIGSERIAL PRIMARY KEY, title TEXT NOT NULL)")
        .await;
    world
        .sql("CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        .await;
    world.sql("CREATE TRIGGER suppress BEFORE INSERT ON items FOR EACH ROW WHEN (NEW.name = 'bad') EXECUTE FUNCTION suppress()").await;
    world.sql("CREATE TRIGGER suppress BEFORE INSERT ON drafts FOR EACH ROW WHEN (NEW.title = 'bad') EXECUTE FUNCTION suppress()").await;
    let items = world.items();
    let rows = [Item::new(1, "bad"), Item::new(2, "good")];
    let error = items.inner().insert_many(&rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    for id in [1, 2] {
        assert_eq!(items.find_uncached(id).await.unwrap(), None);
        assert_eq!(items.find(id).await.unwrap(), None);
    }
    let drafts = Draft::repository(&world.cache, world.pool.clone());
    let rows = ["bad", "good"].map(|title| Draft {
        id: 0,
        title: title.to_owned(),
    });
    let error = drafts.inner().insert_many(&rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    let kept = world.text("SELECT COUNT(*)::TEXT FROM drafts").await;
    assert_eq!(kept, "0");
}
