//! Hits and misses: what a read costs, and what it returns.

use std::sync::Arc;

use larder::{ErrorKind, Origin};

use crate::{
    entities::Item,
    world::{Tested, World, eventually, everywhere, on_both_stores},
};

everywhere!(
    first_read_loads_once_and_the_second_makes_no_statement,
    empty_values_are_values,
    rows_come_back_as_the_database_holds_them,
);

on_both_stores!(
    a_hit_takes_no_connection,
    a_returned_row_cannot_change_what_the_next_caller_gets,
    a_load_error_reaches_the_caller_and_leaves_nothing,
    refresh_reads_the_database_whatever_is_cached,
    find_uncached_neither_asks_nor_fills,
    invalidate_drops_what_is_cached,
    outcome_tells_origin_and_age,
    exists_is_answered_from_the_cache,
);

async fn first_read_loads_once_and_the_second_makes_no_statement<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let before = world.database.statements();
    assert_eq!(
        items.find(1).await.unwrap().as_deref(),
        Some(&Item::new(1, "one"))
    );
    assert_eq!(
        world.database.statements() - before,
        1,
        "the first read makes one statement"
    );
    for _ in 0..5 {
        assert_eq!(
            items.find(1).await.unwrap().as_deref(),
            Some(&Item::new(1, "one"))
        );
    }
    assert_eq!(
        world.database.statements() - before,
        1,
        "later reads make none"
    );
    assert_eq!(items.stats().loads, 1);
}

async fn a_hit_takes_no_connection<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    let gate = world.close_gate().await;
    assert_eq!(
        items.find(1).await.unwrap().as_deref(),
        Some(&Item::new(1, "one"))
    );
    drop(gate);
}

async fn empty_values_are_values<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let empty = Item {
        id: 0,
        name: String::new(),
        note: None,
        quantity: 0,
    };
    let blank = Item {
        note: Some(String::new()),
        ..empty.clone()
    };
    items.insert(&empty).await.unwrap();
    items
        .insert(&Item {
            id: -1,
            ..blank.clone()
        })
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(items.find(0).await.unwrap().as_deref(), Some(&empty));
        assert_eq!(
            items.find(-1).await.unwrap().as_deref(),
            Some(&Item {
                id: -1,
                ..blank.clone()
            })
        );
        assert_eq!(items.find(1).await.unwrap(), None);
    }
    assert_eq!(items.stats().loads, 3, "each was loaded once and then hit");
}

/// A row is shared and cannot be changed in place. A caller that wants to change it clones it.
async fn a_returned_row_cannot_change_what_the_next_caller_gets<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    items.find(1).await.unwrap();
    let mut mine: Arc<Item> = items.find(1).await.unwrap().unwrap();
    Arc::make_mut(&mut mine).name = "mine".to_owned();
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
}

async fn a_load_error_reaches_the_caller_and_leaves_nothing<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    world.sql("ALTER TABLE items RENAME TO hidden").await;
    let items = world.items();
    let error = items.find(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database);
    assert!(error.to_string().contains("Item"), "{error}");
    let cause = error
        .database_error()
        .expect("the cause is sqlx's own error");
    assert!(matches!(cause, sqlx::Error::Database(_)), "{cause:?}");
    world.sql("ALTER TABLE hidden RENAME TO items").await;
    assert!(
        items.find(1).await.unwrap().is_some(),
        "no absence, no lease was left"
    );
    assert_eq!(
        items.stats().lease_waits,
        0,
        "nobody had to wait for a lease left behind"
    );
}

async fn rows_come_back_as_the_database_holds_them<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let item = Item {
        id: i64::MAX,
        name: "näme 'quoted' \"twice\" \\ %".to_owned(),
        note: Some("\u{1F370} cake".to_owned()),
        quantity: i64::MIN,
    };
    items.insert(&item).await.unwrap();
    let loaded = items.find(i64::MAX).await.unwrap();
    let cached = items.find(i64::MAX).await.unwrap();
    assert_eq!(loaded.as_deref(), Some(&item));
    assert_eq!(cached.as_deref(), Some(&item));
    assert_eq!(
        items.find_uncached(i64::MAX).await.unwrap().as_deref(),
        Some(&item)
    );
}

async fn refresh_reads_the_database_whatever_is_cached<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    items.find(1).await.unwrap();
    world.sql("UPDATE items SET name = 'new'").await;
    assert_eq!(
        items.find(1).await.unwrap().unwrap().name,
        "old",
        "past the repository nobody knows"
    );
    assert_eq!(items.refresh(1).await.unwrap().unwrap().name, "new");
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
    assert_eq!(items.stats().loads, 2);
}

async fn find_uncached_neither_asks_nor_fills<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    items.find_uncached(1).await.unwrap();
    assert_eq!(
        items.find_outcome(1).await.unwrap().origin,
        Origin::Database,
        "it did not fill"
    );
    items.find(1).await.unwrap();
    world.sql("UPDATE items SET name = 'new'").await;
    assert_eq!(items.find_uncached(1).await.unwrap().unwrap().name, "new");
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "old");
}

async fn invalidate_drops_what_is_cached<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    items.find(1).await.unwrap();
    elsewhere.find(1).await.unwrap();
    world.sql("UPDATE items SET name = 'new'").await;
    items.invalidate(1).await.unwrap();
    assert_eq!(elsewhere.find(1).await.unwrap().unwrap().name, "new");
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
}

async fn outcome_tells_origin_and_age<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let first = items.find_outcome(1).await.unwrap();
    assert_eq!((first.origin, first.age.as_nanos()), (Origin::Database, 0));
    eventually("the row is stored", async || {
        items.stats().fills_accepted == 1
    })
    .await;
    let second = items.find_outcome(1).await.unwrap();
    assert_eq!(second.origin, Origin::Cache);
    assert_eq!(second.row, first.row);
    let third = items.find_outcome(1).await.unwrap();
    assert!(third.age >= second.age, "an entry only gets older");
    world.warm(&items, 2).await;
    let absent = items.find_outcome(2).await.unwrap();
    assert_eq!((absent.row, absent.origin), (None, Origin::Cache));
}

async fn exists_is_answered_from_the_cache<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    for _ in 0..3 {
        assert!(items.exists(1).await.unwrap());
        assert!(!items.exists(2).await.unwrap());
    }
    assert_eq!(items.stats().loads, 2);
}

/// Every operation can be awaited in a spawned task. It is enough that this compiles.
#[test]
fn futures_are_send() {
    fn sendable<F: Future + Send>(_: F) {}
    let _compiles = |items: &crate::entities::ItemRepository<sqlx::Sqlite>, item: &Item| {
        sendable(items.find(1));
        sendable(items.find_outcome(1));
        sendable(items.find_uncached(1));
        sendable(items.exists(1));
        sendable(items.insert(item));
        sendable(items.update(item));
        sendable(items.save(item));
        sendable(items.delete(1));
        sendable(items.invalidate(1));
        sendable(items.refresh(1));
        sendable(items.check_schema());
    };
}
