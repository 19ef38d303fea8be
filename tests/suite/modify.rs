//! Changes that depend on the row: none is lost, only what changed is written, and a refusal writes nothing.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use larder::{Cached, ErrorKind, Transaction, store::faulty::Operation};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres};

use crate::{
    entities::{Behind, Item, Through},
    world::{Tested, World, eventually, everywhere, on_both_stores, on_mysql, on_postgres},
};

everywhere!(
    concurrent_changes_of_one_row_are_all_made,
    concurrent_changes_of_a_row_with_a_version_are_all_made,
    only_what_changed_is_written,
    a_refusal_writes_nothing_and_is_passed_on,
    a_row_is_changed_or_inserted,
    a_transaction_changes_or_inserts_a_row,
    a_change_in_a_transaction_belongs_to_it,
);
on_both_stores!(
    every_strategy_passes_values_on,
    a_changed_row_is_served_at_once,
    a_change_that_changes_nothing_writes_nothing,
);
on_postgres!(two_transactions_that_insert_one_row_both_count);
on_mysql!(of_two_transactions_that_block_each_other_one_is_rolled_back);

/// A reason to refuse a change.
#[derive(Debug)]
struct SoldOut;

impl fmt::Display for SoldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is nothing left")
    }
}

impl std::error::Error for SoldOut {}

fn take_one(item: &mut Item) -> Result<i64, SoldOut> {
    if item.quantity == 0 {
        return Err(SoldOut);
    }
    item.quantity -= 1;
    Ok(item.quantity)
}

async fn concurrent_changes_of_one_row_are_all_made<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let elsewhere = world.items_elsewhere().await;
    let stock = Item {
        quantity: 20,
        ..Item::new(1, "one")
    };
    items.insert(&stock).await.unwrap();
    let buyers = (0..30).map(|number| {
        let items = if number % 2 == 0 {
            items.clone()
        } else {
            elsewhere.clone()
        };
        tokio::spawn(async move { items.modify(1, take_one).await })
    });
    let mut left = Vec::new();
    for buyer in buyers.collect::<Vec<_>>() {
        match buyer.await.unwrap() {
            Ok(bought) => left.push(bought.value),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Refused, "{error}"),
        }
    }
    left.sort_unstable();
    assert_eq!(left, (0..20).collect::<Vec<_>>());
    assert_eq!(items.find(1).await.unwrap().unwrap().quantity, 0);
    assert_eq!(
        elsewhere.find_uncached(1).await.unwrap().unwrap().quantity,
        0
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "accounts", ttl = "10m", jitter = 0)]
struct Account {
    #[cached(id)]
    id: i64,
    balance: i64,
    owner: String,
    #[cached(version)]
    version: i64,
}

async fn concurrent_changes_of_a_row_with_a_version_are_all_made<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE accounts (id BIGINT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL, owner VARCHAR(40) NOT NULL, version BIGINT NOT NULL)")
        .await;
    let accounts = Account::repository(&world.cache, world.pool.clone());
    let account = Account {
        id: 1,
        balance: 0,
        owner: "ada".to_owned(),
        version: 1,
    };
    accounts.insert(&account).await.unwrap();
    let writers = (0..12).map(|_| {
        let accounts = accounts.clone();
        tokio::spawn(async move { accounts.modify(1, |account| account.balance += 1).await })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let account = accounts.find(1).await.unwrap().unwrap();
    assert_eq!((account.balance, account.version), (12, 13));
}

async fn only_what_changed_is_written<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "one")).await.unwrap();
    // Another program adds a column, or changes one that the closure does not touch.
    let texts = || world.database.statement_log().texts();
    let before = texts().len();
    let modified = items
        .modify(1, |item| item.note = Some("new".to_owned()))
        .await;
    assert_eq!(modified.unwrap().note.as_deref(), Some("new"));
    let updates: Vec<_> = texts().split_off(before);
    let updates: Vec<_> = updates
        .iter()
        .filter(|text| text.starts_with("UPDATE"))
        .collect();
    assert_eq!(updates.len(), 1, "{updates:?}");
    let set = updates[0].split("WHERE").next().unwrap();
    assert!(
        set.contains("note") && !set.contains("name") && !set.contains("quantity"),
        "{set}"
    );
}

async fn a_refusal_writes_nothing_and_is_passed_on<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let none = Item {
        quantity: 0,
        ..Item::new(1, "one")
    };
    items.insert(&none).await.unwrap();
    let refused = items.modify(1, take_one).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(
        refused.to_string().contains("there is nothing left"),
        "{refused}"
    );
    let source = std::error::Error::source(&refused).unwrap();
    assert!(source.downcast_ref::<SoldOut>().is_some());
    let missing = items.modify(2, take_one).await.map(|_| ()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let moved = items
        .modify(1, |item| item.id = 3)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(moved.kind(), ErrorKind::Conversion);
    assert_eq!(*items.find_uncached(1).await.unwrap().unwrap(), none);
    // No lock is left.
    items.modify(1, |item| item.quantity = 5).await.unwrap();
    assert_eq!(items.find(1).await.unwrap().unwrap().quantity, 5);
}

async fn a_row_is_changed_or_inserted<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let calls = AtomicU32::new(0);
    let first = Item {
        quantity: 1,
        ..Item::new(1, "one")
    };
    let add = |item: &mut Item| {
        calls.fetch_add(1, Ordering::Relaxed);
        item.quantity += 1;
    };
    let inserted = items.modify_or_insert(&first, add).await.unwrap();
    assert_eq!((inserted.quantity, calls.load(Ordering::Relaxed)), (1, 0));
    let changed = items.modify_or_insert(&first, add).await.unwrap();
    assert_eq!((changed.quantity, calls.load(Ordering::Relaxed)), (2, 1));
    let writers = (0..8).map(|_| {
        let (items, new) = (items.clone(), Item::new(2, "two"));
        tokio::spawn(async move {
            items
                .modify_or_insert(&new, |item| item.quantity += 1)
                .await
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap().unwrap();
    }
    let quantity = Item::new(2, "two").quantity;
    assert_eq!(items.find(2).await.unwrap().unwrap().quantity, quantity + 7);
}

async fn a_transaction_changes_or_inserts_a_row<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    assert!(items.find(1).await.unwrap().is_none());
    let first = Item {
        quantity: 1,
        ..Item::new(1, "one")
    };
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = items.within(&mut transaction);
    let inserted = within.modify_or_insert(&first, |item| item.quantity += 1);
    assert_eq!(inserted.await.unwrap().quantity, 1);
    let changed = within.modify_or_insert(&first, |item| item.quantity += 1);
    assert_eq!(changed.await.unwrap().quantity, 2);
    let refused = within.modify_or_insert(&first, |_| Err::<(), _>(SoldOut));
    assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::Refused);
    assert!(items.find(1).await.unwrap().is_none());
    transaction.commit().await.unwrap();
    assert_eq!(items.find(1).await.unwrap().unwrap().quantity, 2);
}

/// Who comes second finds the row that the first has inserted after its own look, and its transaction continues.
async fn two_transactions_that_insert_one_row_both_count(world: &World<Postgres>) {
    let items = world.items();
    let mut first = Transaction::begin(&world.pool).await.unwrap();
    let one = Item {
        quantity: 1,
        ..Item::new(1, "one")
    };
    items.within(&mut first).insert(&one).await.unwrap();
    let second = tokio::spawn({
        let (items, pool, one) = (items.clone(), world.pool.clone(), one.clone());
        async move {
            let mut transaction = Transaction::begin(&pool).await?;
            let mut within = items.within(&mut transaction);
            within.insert(&Item::new(2, "two")).await?;
            let changed = within.modify_or_insert(&one, |item| item.quantity += 1);
            let changed = changed.await?;
            transaction.commit().await?;
            Ok::<_, larder::Error>(changed.quantity)
        }
    });
    eventually("the second waits for the first", async || {
        let waits = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        world.text(waits).await == "1"
    })
    .await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), 2);
    assert_eq!(items.find(1).await.unwrap().unwrap().quantity, 2);
    assert!(items.find(2).await.unwrap().is_some());
}

/// Both have locked the gap that each inserts into. The database takes the savepoint of one with its transaction.
async fn of_two_transactions_that_block_each_other_one_is_rolled_back(world: &World<MySql>) {
    let items = world.items();
    items.insert(&Item::new(1, "old")).await.unwrap();
    let begin = async |id: i64| {
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        let mut within = items.within(&mut transaction);
        let nothing = within.modify(id, |_| ()).await.map(drop);
        assert_eq!(nothing.unwrap_err().kind(), ErrorKind::NotFound);
        transaction
    };
    let (mut one, mut two) = (begin(10).await, begin(11).await);
    let insert = async |transaction: &mut Transaction<'_, MySql>, id: i64| {
        let mut within = items.within(transaction);
        let row = Item::new(id, "new");
        let inserted = within.modify_or_insert(&row, |_| ()).await.map(drop);
        inserted.map(|()| id)
    };
    let inserted = tokio::join!(insert(&mut one, 10), insert(&mut two, 11));
    let (mut victim, error, survivor, id) = match inserted {
        (Err(error), Ok(id)) => (one, error, two, id),
        (Ok(id), Err(error)) => (two, error, one, id),
        both => panic!("one of two was not rolled back: {both:?}"),
    };
    let cause = error.database_error();
    let cause = cause.and_then(sqlx::Error::as_database_error);
    let code = cause.and_then(sqlx::error::DatabaseError::code);
    assert_eq!(code.as_deref(), Some("40001"), "a deadlock: {error:?}");
    // It would be committed by itself.
    let late = items
        .within(&mut victim)
        .update(&Item::new(1, "late"))
        .await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TransactionAborted);
    let aborted = victim.commit().await.unwrap_err();
    assert_eq!(aborted.kind(), ErrorKind::TransactionAborted);
    survivor.commit().await.unwrap();
    let rows = items.find_many(&[1, 10, 11]).await.unwrap();
    let names = rows.iter().map(|row| Some(row.as_ref()?.name.as_str()));
    let new = |of: i64| (of == id).then_some("new");
    assert_eq!(names.collect::<Vec<_>>(), [Some("old"), new(10), new(11)]);
}

async fn a_change_in_a_transaction_belongs_to_it<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "one")).await.unwrap();
    world.warm(&items, 1).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = items.within(&mut transaction);
    let changed = within.modify(1, |item| {
        item.name = "changed".to_owned();
        Ok::<_, SoldOut>(item.id + 1)
    });
    let changed = changed.await.unwrap();
    assert_eq!((changed.name.as_str(), changed.value), ("changed", 2));
    let refused = within.modify(1, |_| Err::<(), _>(SoldOut)).await;
    assert_eq!(refused.map(|_| ()).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(within.find(1).await.unwrap().unwrap().name, "changed");
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    transaction.commit().await.unwrap();
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "changed");
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = items.within(&mut transaction);
    within.modify(1, |item| item.name.clear()).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "changed");
}

async fn every_strategy_passes_values_on<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let through = Through::repository(&world.cache, world.pool.clone());
    let behind = Behind::repository(&world.cache, world.pool.clone());
    behind.install().await.unwrap();
    for id in 1..=3 {
        world.put(&Item::new(id, "old")).await;
    }
    let of_item = items
        .modify(1, |row| Ok::<_, SoldOut>(row.name.len()))
        .await;
    assert_eq!(of_item.unwrap().value, 3);
    let of_through = through.modify(2, |row| {
        row.name = "newer".to_owned();
        Ok::<_, SoldOut>(row.name.len())
    });
    let of_through = of_through.await.unwrap();
    assert_eq!((of_through.value, of_through.name.as_str()), (5, "newer"));
    let of_behind = behind.modify(3, |row| {
        row.name = "newest".to_owned();
        Ok::<_, SoldOut>(row.name.len())
    });
    let of_behind = of_behind.await.unwrap();
    assert_eq!((of_behind.value, of_behind.name.as_str()), (6, "newest"));
    let refused = behind.modify(3, |row| {
        row.name.clear();
        Err::<(), _>(SoldOut)
    });
    assert_eq!(
        refused.await.map(|_| ()).unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(behind.find(3).await.unwrap().unwrap().name, "newest");
    behind.flush().await.unwrap();
}

async fn a_changed_row_is_served_at_once<DB: Tested>(world: &World<DB>) {
    let through = Through::repository(&world.cache, world.pool.clone());
    let items = world.items_elsewhere().await;
    through.insert(&Through::new(1, "old")).await.unwrap();
    through
        .modify(1, |row| row.name = "new".to_owned())
        .await
        .unwrap();
    let gate = world.close_gate().await;
    assert_eq!(through.find(1).await.unwrap().unwrap().name, "new");
    drop(gate);
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
}

async fn a_change_that_changes_nothing_writes_nothing<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    world.put(&Item::new(1, "one")).await;
    world.warm(&items, 1).await;
    let begins = world.faults.calls(Operation::Begin);
    let row = items.modify(1, |_| ()).await.unwrap();
    assert_eq!(row.name, "one");
    assert_eq!(world.faults.calls(Operation::Begin), begins);
    let gate = world.close_gate().await;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    drop(gate);
}
