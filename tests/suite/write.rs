//! Writes: what reaches the database, what comes back, and how failures are told.

use larder::{Cached, ErrorKind, Origin};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};

use crate::support::proxy::Point;
use crate::world::{Item, Tested, World, at_once, everywhere, on_both_stores, on_postgres};

everywhere!(
    insert_update_save_and_delete_reach_the_database,
    missing_rows_are_not_found_and_never_a_silent_success,
    duplicates_are_told_apart,
    the_database_chooses_ids_and_fills_columns_in,
    a_save_never_changes_a_row_with_another_id,
    a_change_that_changes_nothing_is_a_success,
    a_row_of_nothing_but_its_id_can_be_written,
);
on_both_stores!(
    many_writers_and_readers_never_see_an_older_row,
    two_fields_for_one_column_are_refused_at_start,
);
on_postgres!(
    a_write_whose_outcome_is_unknown_keeps_its_key_uncached,
    an_insert_that_is_rolled_back_leaves_no_trace,
);

async fn insert_update_save_and_delete_reach_the_database<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let mut item = Item::new(7, "inserted");
    assert_eq!(*items.insert(&item).await.unwrap(), item);
    assert_eq!(
        items.find_uncached(7).await.unwrap().as_deref(),
        Some(&item)
    );
    item.note = Some("updated".to_owned());
    assert_eq!(*items.update(&item).await.unwrap(), item);
    assert_eq!(
        items.find_uncached(7).await.unwrap().as_deref(),
        Some(&item)
    );
    item.note = None;
    item.quantity = 9;
    assert_eq!(*items.save(&item).await.unwrap(), item);
    assert_eq!(
        items.find_uncached(7).await.unwrap().as_deref(),
        Some(&item)
    );
    items.delete(7).await.unwrap();
    assert_eq!(items.find_uncached(7).await.unwrap(), None);
    assert_eq!(
        *items.save(&item).await.unwrap(),
        item,
        "a save also inserts"
    );
    assert_eq!(items.find(7).await.unwrap().as_deref(), Some(&item));
}

async fn missing_rows_are_not_found_and_never_a_silent_success<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let error = items.update(&Item::new(404, "nobody")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("update") && error.to_string().contains("Item:404"),
        "{error}"
    );
    assert_eq!(
        items.delete(404).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

async fn duplicates_are_told_apart<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "one")).await.unwrap();
    let error = items.insert(&Item::new(1, "again")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(matches!(
        error.database_error(),
        Some(sqlx::Error::Database(_))
    ));
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
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

async fn the_database_chooses_ids_and_fills_columns_in<DB: Tested>(world: &World<DB>) {
    let id = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => "BIGSERIAL PRIMARY KEY",
        name if name == <MySql as sqlx::Database>::NAME => {
            "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
        }
        name if name == <Sqlite as sqlx::Database>::NAME => "INTEGER PRIMARY KEY AUTOINCREMENT",
        other => panic!("an unknown database: {other}"),
    };
    world
        .sql(format!("CREATE TABLE tickets (id {id}, title VARCHAR(100) NOT NULL, state VARCHAR(20) NOT NULL DEFAULT 'open')"))
        .await;
    let tickets = Ticket::repository(&world.cache, world.pool.clone());
    let draft = Ticket {
        id: 0,
        title: "first".to_owned(),
        state: "ignored".to_owned(),
    };
    assert_eq!(
        tickets.find(1).await.unwrap(),
        None,
        "known to be absent before it is inserted"
    );
    let first = tickets.insert(&draft).await.unwrap();
    assert_eq!((first.id, first.state.as_str()), (1, "open"));
    assert_eq!(
        tickets.find(1).await.unwrap().as_ref(),
        Some(&first),
        "visible to the very next read"
    );
    let second = tickets.insert(&draft).await.unwrap();
    assert_eq!(second.id, 2);
    world
        .sql("UPDATE tickets SET state = 'closed' WHERE id = 1")
        .await;
    let renamed = Ticket {
        title: "renamed".to_owned(),
        ..(*first).clone()
    };
    let updated = tickets.update(&renamed).await.unwrap();
    assert_eq!(
        (updated.title.as_str(), updated.state.as_str()),
        ("renamed", "closed"),
        "what the database holds"
    );
    assert_eq!(tickets.find(1).await.unwrap(), Some(updated));
    let saved = tickets
        .save(&Ticket {
            title: "saved".to_owned(),
            ..(*second).clone()
        })
        .await
        .unwrap();
    assert_eq!(
        (saved.id, saved.title.as_str(), saved.state.as_str()),
        (2, "saved", "open")
    );
    assert_eq!(tickets.find(2).await.unwrap(), Some(saved));
    let error = tickets
        .update(&Ticket { id: 404, ..draft })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "accounts")]
struct Account {
    #[cached(id)]
    id: i64,
    email: String,
}

/// MySQL's own upsert would change whichever row a unique key collides with.
async fn a_save_never_changes_a_row_with_another_id<DB: Tested>(world: &World<DB>) {
    world.sql("CREATE TABLE accounts (id BIGINT NOT NULL PRIMARY KEY, email VARCHAR(100) NOT NULL UNIQUE)").await;
    let accounts = Account::repository(&world.cache, world.pool.clone());
    let first = Account {
        id: 1,
        email: "a@example.org".to_owned(),
    };
    accounts.save(&first).await.unwrap();
    let thief = Account {
        id: 2,
        email: "a@example.org".to_owned(),
    };
    assert_eq!(
        accounts.save(&thief).await.unwrap_err().kind(),
        ErrorKind::Duplicate
    );
    assert_eq!(accounts.find(1).await.unwrap().as_deref(), Some(&first));
    assert_eq!(accounts.find(2).await.unwrap(), None);
}

async fn a_change_that_changes_nothing_is_a_success<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let item = Item::new(1, "same");
    items.insert(&item).await.unwrap();
    items.update(&item).await.unwrap();
    items.save(&item).await.unwrap();
    assert_eq!(items.find(1).await.unwrap().as_deref(), Some(&item));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "members")]
struct Member {
    #[cached(id)]
    team: i64,
    #[cached(id)]
    person: i64,
}

async fn a_row_of_nothing_but_its_id_can_be_written<DB: Tested>(world: &World<DB>) {
    world.sql("CREATE TABLE members (team BIGINT NOT NULL, person BIGINT NOT NULL, PRIMARY KEY (team, person))").await;
    let members = Member::repository(&world.cache, world.pool.clone());
    let member = Member { team: 1, person: 2 };
    assert!(!members.exists((1, 2)).await.unwrap());
    members.insert(&member).await.unwrap();
    members.update(&member).await.unwrap();
    members.save(&member).await.unwrap();
    members.save(&Member { team: 2, person: 1 }).await.unwrap();
    assert!(members.exists((1, 2)).await.unwrap() && members.exists((2, 1)).await.unwrap());
    assert_eq!(
        members
            .update(&Member { team: 3, person: 3 })
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    members.delete((1, 2)).await.unwrap();
    assert!(!members.exists((1, 2)).await.unwrap());
}

/// Readers never see a row older than the newest whose write had returned before they asked.
async fn many_writers_and_readers_never_see_an_older_row<DB: Tested>(world: &World<DB>) {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };
    const WRITES: i64 = 60;
    world
        .put(&Item {
            quantity: 0,
            ..Item::new(1, "counted")
        })
        .await;
    let acknowledged = Arc::new(AtomicI64::new(0));
    let writer = tokio::spawn({
        let (items, acknowledged) = (world.items(), Arc::clone(&acknowledged));
        async move {
            for quantity in 1..=WRITES {
                items
                    .update(&Item {
                        quantity,
                        ..Item::new(1, "counted")
                    })
                    .await
                    .unwrap();
                acknowledged.store(quantity, Ordering::SeqCst);
            }
        }
    });
    let (here, elsewhere) = (world.items(), world.items_elsewhere().await);
    at_once(8, |number| {
        let items = if number % 2 == 0 {
            here.clone()
        } else {
            elsewhere.clone()
        };
        let acknowledged = Arc::clone(&acknowledged);
        async move {
            let mut last = 0;
            while last < WRITES {
                let known = acknowledged.load(Ordering::SeqCst);
                let seen = items.find(1).await.unwrap().unwrap().quantity;
                assert!(
                    seen >= known,
                    "read {seen} although {known} had been acknowledged"
                );
                assert!(seen >= last, "read {seen} after {last}");
                last = seen;
            }
        }
    })
    .await;
    writer.await.unwrap();
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
struct Address {
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items")]
struct Twice {
    #[cached(id)]
    id: i64,
    name: String,
    #[sqlx(flatten)]
    address: Address,
}

async fn two_fields_for_one_column_are_refused_at_start<DB: Tested>(world: &World<DB>) {
    let error = Twice::try_repository(&world.cache, world.pool.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let message = error.to_string();
    assert!(
        message.contains("two fields of Twice are the column name"),
        "{message}"
    );
}

/// The connection breaks after the statement was sent: it may be applied at any later time, so nothing may be stored until
/// the intent has expired.
async fn a_write_whose_outcome_is_unknown_keeps_its_key_uncached(world: &World<Postgres>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    // The name is sent as a parameter, so it marks the message that carries the update.
    let cut = world
        .database
        .proxy()
        .cut(Point::BeforeReply, "marked by its name");
    let error = items
        .update(&Item::new(1, "marked by its name"))
        .await
        .unwrap_err();
    cut.sprung().await;
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
    for _ in 0..3 {
        let outcome = items.find_outcome(1).await.unwrap();
        assert_eq!(
            outcome.origin,
            Origin::Database,
            "the intent keeps readers off the cache"
        );
    }
    let key = items.inner().key(1).unwrap();
    let left = world
        .cache
        .store()
        .remaining_ms(&key)
        .await
        .unwrap()
        .expect("the intent stands");
    assert!(left <= 10_000, "and expires by itself: {left} ms");
}

async fn an_insert_that_is_rolled_back_leaves_no_trace(world: &World<Postgres>) {
    world
        .sql("CREATE TABLE tickets (id BIGSERIAL PRIMARY KEY, title TEXT NOT NULL UNIQUE, state TEXT NOT NULL DEFAULT 'open')")
        .await;
    let tickets = Ticket::repository(&world.cache, world.pool.clone());
    let draft = Ticket {
        id: 0,
        title: "unique".to_owned(),
        state: String::new(),
    };
    tickets.insert(&draft).await.unwrap();
    assert_eq!(
        tickets.insert(&draft).await.unwrap_err().kind(),
        ErrorKind::Duplicate
    );
    assert_eq!(tickets.find(2).await.unwrap(), None);
    let third = tickets
        .insert(&Ticket {
            title: "other".to_owned(),
            ..draft
        })
        .await
        .unwrap();
    assert_eq!(
        tickets.find(third.id).await.unwrap(),
        Some(third),
        "the pool's connections are usable"
    );
}
