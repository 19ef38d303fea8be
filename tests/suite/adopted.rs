//! Transactions of sqlx in which repositories write too: what others see at each step, and what happens if a step is left out.

use larder::{ErrorKind, Repository, Transaction, store::Mechanism};
use sqlx::{AssertSqlSafe, Connection, Postgres, SqlSafeStr, Sqlite};

use crate::{
    entities::{Item, Through, of_items},
    world::{Tested, World, eventually, everywhere, filled, on_both_stores, on_postgres},
};

everywhere!(
    one_transaction_has_statements_of_sqlx_and_of_larder,
    what_is_dropped_before_it_is_announced_is_not_written,
    a_savepoint_is_not_adopted,
    a_transaction_that_is_not_committed_changes_nothing,
    another_transaction_is_not_committed_in_its_place,
);
on_both_stores!(
    a_reader_after_the_announcement_caches_no_old_row,
    without_the_announcement_a_reader_caches_the_old_row,
    a_commit_without_larder_leaves_no_old_row,
    callbacks_run_after_the_commit,
);
on_postgres!(
    a_transaction_that_has_failed_is_not_committed,
    a_transaction_that_has_failed_is_not_adopted,
);

mod a_transaction_that_sqlite_has_rolled_back_is_given_up {
    crate::world::case!(
        a_transaction_that_sqlite_has_rolled_back_is_given_up,
        memory,
        Memory,
        Sqlite
    );
}

of_items! {
    /// The same row, whose intents end soon.
    #[cached(
        name = "Brief",
        ttl = "10m",
        jitter = 0,
        lease(ttl = "20s", wait = "10s"),
        intent(ttl = "2s")
    )]
    struct Brief
}

/// Runs a statement of the caller in its own transaction.
async fn raw<DB: Tested>(transaction: &mut sqlx::Transaction<'_, DB>, text: &str) {
    let text = AssertSqlSafe(text.to_owned()).into_sql_str();
    DB::run(transaction, text).await.unwrap();
}

fn name_of(row: Option<std::sync::Arc<Item>>) -> Option<String> {
    row.map(|row| row.name.clone())
}

async fn one_transaction_has_statements_of_sqlx_and_of_larder<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    world.put(&Item::new(2, "old")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    for repository in [&items, &elsewhere] {
        for id in [1, 2, 3] {
            repository.find(id).await.unwrap();
        }
        filled(|| repository.stats()).await;
    }
    let mut transaction = world.pool.begin().await.unwrap();
    raw(
        &mut transaction,
        "UPDATE items SET name = 'raw' WHERE id = 2",
    )
    .await;
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    within.update(&Item::new(1, "new")).await.unwrap();
    within.insert(&Item::new(3, "new")).await.unwrap();
    within.mark_changed(2).unwrap();
    assert_eq!(name_of(within.find(2).await.unwrap()).unwrap(), "raw");
    let mut savepoint = adopted.savepoint().await.unwrap();
    items.within(&mut savepoint).delete(1).await.unwrap();
    savepoint.rollback().await.unwrap();
    let announced = adopted.announce().await.unwrap();
    raw(
        &mut transaction,
        "UPDATE items SET name = 'last' WHERE id = 3",
    )
    .await;
    for repository in [&items, &elsewhere] {
        assert_eq!(name_of(repository.find(1).await.unwrap()).unwrap(), "old");
        assert!(repository.find(3).await.unwrap().is_none());
    }
    announced.commit(transaction).await.unwrap();
    for repository in [&items, &elsewhere] {
        let names = repository.find_many(&[1, 2, 3]).await.unwrap();
        let names: Vec<_> = names.into_iter().map(|row| name_of(row).unwrap()).collect();
        assert_eq!(names, ["new", "raw", "last"]);
    }
}

async fn what_is_dropped_before_it_is_announced_is_not_written<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    items.find(1).await.unwrap();
    filled(|| items.stats()).await;
    let before = items.stats().hits;
    for is_dropped in [true, false] {
        let mut transaction = world.pool.begin().await.unwrap();
        raw(
            &mut transaction,
            "UPDATE items SET quantity = quantity + 1 WHERE id = 1",
        )
        .await;
        let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
        let mut within = items.within(&mut adopted);
        within.update(&Item::new(1, "new")).await.unwrap();
        match is_dropped {
            true => drop(adopted),
            false => adopted.rollback().await.unwrap(),
        }
        transaction.commit().await.unwrap();
    }
    let row = items.find_uncached(1).await.unwrap().unwrap();
    assert_eq!((&*row.name, row.quantity), ("old", 3));
    items.find(1).await.unwrap();
    assert_eq!(items.stats().hits, before + 1, "the cache was left alone");
}

async fn a_savepoint_is_not_adopted<DB: Tested>(world: &World<DB>) {
    let mut transaction = world.pool.begin().await.unwrap();
    let mut savepoint = transaction.begin().await.unwrap();
    let error = Transaction::adopt(&mut savepoint).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("outermost"), "{error}");
    savepoint.rollback().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let items = world.items();
    let mut within = items.within(&mut adopted);
    within.insert(&Item::new(1, "new")).await.unwrap();
    let announced = adopted.announce().await.unwrap();
    announced.commit(transaction).await.unwrap();
    assert!(items.find(1).await.unwrap().is_some());
}

async fn a_transaction_that_is_not_committed_changes_nothing<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = Repository::<Brief, DB>::new(&world.cache, world.pool.clone());
    let mut transaction = world.pool.begin().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    let mut row = (*within.find(1).await.unwrap().unwrap()).clone();
    "new".clone_into(&mut row.name);
    within.update(&row).await.unwrap();
    let announced = adopted.announce().await.unwrap();
    transaction.rollback().await.unwrap();
    drop(announced);
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "old");
    // It is cached again when the intent has expired.
    let before = items.stats().hits;
    eventually("the row is cached", async || {
        assert_eq!(items.find(1).await.unwrap().unwrap().name, "old");
        items.stats().hits > before
    })
    .await;
}

/// Reads the row between the announcement and the commit. Returns what is read after the commit.
async fn read_in_between<DB: Tested>(world: &World<DB>) -> String {
    world.put(&Item::new(1, "old")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    items.find(1).await.unwrap();
    filled(|| items.stats()).await;
    let mut transaction = world.pool.begin().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    within.update(&Item::new(1, "new")).await.unwrap();
    let announced = adopted.announce().await.unwrap();
    for repository in [&items, &elsewhere] {
        assert_eq!(name_of(repository.find(1).await.unwrap()).unwrap(), "old");
        filled(|| repository.stats()).await;
    }
    // The end of the write is lost with the process.
    world.faults.leave_out(Mechanism::End);
    announced.commit(transaction).await.unwrap();
    name_of(elsewhere.find(1).await.unwrap()).unwrap()
}

async fn a_reader_after_the_announcement_caches_no_old_row<DB: Tested>(world: &World<DB>) {
    assert_eq!(read_in_between(world).await, "new");
}

async fn without_the_announcement_a_reader_caches_the_old_row<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Intent);
    assert_eq!(read_in_between(world).await, "old");
}

async fn a_commit_without_larder_leaves_no_old_row<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    items.find(1).await.unwrap();
    filled(|| items.stats()).await;
    let mut transaction = world.pool.begin().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    within.update(&Item::new(1, "new")).await.unwrap();
    let announced = adopted.announce().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(name_of(elsewhere.find(1).await.unwrap()).unwrap(), "new");
    drop(announced);
    for repository in [&items, &elsewhere] {
        assert_eq!(name_of(repository.find(1).await.unwrap()).unwrap(), "new");
    }
}

async fn callbacks_run_after_the_commit<DB: Tested>(world: &World<DB>) {
    let items = Repository::<Through, DB>::new(&world.cache, world.pool.clone());
    let mut transaction = world.pool.begin().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    within.insert(&Through::new(1, "new")).await.unwrap();
    let (told, heard) = tokio::sync::oneshot::channel();
    let reader = items.clone();
    adopted.after_commit(async move {
        let row = reader.find(1).await.unwrap();
        told.send(row.map(|row| row.name.clone())).unwrap();
    });
    let announced = adopted.announce().await.unwrap();
    announced.commit(transaction).await.unwrap();
    assert_eq!(heard.await.unwrap().unwrap(), "new");
}

async fn a_transaction_that_has_failed_is_not_committed(world: &World<Postgres>) {
    let items = world.items();
    let mut transaction = world.pool.begin().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    within.insert(&Item::new(1, "new")).await.unwrap();
    let announced = adopted.announce().await.unwrap();
    let failed = sqlx::query("SELECT 1 / 0").execute(&mut *transaction).await;
    assert!(failed.is_err());
    let error = announced.commit(transaction).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    assert!(items.find(1).await.unwrap().is_none());
}

async fn a_transaction_that_has_failed_is_not_adopted(world: &World<Postgres>) {
    let mut transaction = world.pool.begin().await.unwrap();
    let failed = sqlx::query("SELECT 1 / 0").execute(&mut *transaction).await;
    assert!(failed.is_err());
    for _ in 0..2 {
        let error = Transaction::adopt(&mut transaction).await.unwrap_err();
        let kinds = [ErrorKind::Database, ErrorKind::TransactionAborted];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    transaction.rollback().await.unwrap();
}

async fn another_transaction_is_not_committed_in_its_place<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    items.find(1).await.unwrap();
    filled(|| items.stats()).await;
    let mut transaction = world.pool.begin().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    within.update(&Item::new(1, "new")).await.unwrap();
    let announced = adopted.announce().await.unwrap();
    let other = world.pool.begin().await.unwrap();
    let error = announced.commit(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    for repository in [&items, &elsewhere] {
        assert_eq!(name_of(repository.find(1).await.unwrap()).unwrap(), "old");
    }
    // The intents are still there, so a commit without larder leaves no old row.
    transaction.commit().await.unwrap();
    for repository in [&items, &elsewhere] {
        assert_eq!(name_of(repository.find(1).await.unwrap()).unwrap(), "new");
    }
}

async fn a_transaction_that_sqlite_has_rolled_back_is_given_up(world: &World<Sqlite>) {
    world
        .sql("CREATE TRIGGER strict BEFORE INSERT ON items WHEN NEW.name = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'bad'); END")
        .await;
    let items = world.items();
    let insert_bad = "INSERT INTO items VALUES (9, 'bad', NULL, 1)";
    // Before the adoption.
    let mut transaction = world.pool.begin().await.unwrap();
    raw(
        &mut transaction,
        "INSERT INTO items VALUES (1, 'first', NULL, 1)",
    )
    .await;
    let refused = sqlx::query(insert_bad).execute(&mut *transaction).await;
    assert!(refused.is_err());
    let error = Transaction::adopt(&mut transaction).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransactionAborted, "{error}");
    transaction.rollback().await.unwrap();
    // By larder, and by raw SQL in the adopted part: the caller is told that its own statements are gone as well.
    for is_raw in [false, true] {
        let mut transaction = world.pool.begin().await.unwrap();
        raw(
            &mut transaction,
            "INSERT INTO items VALUES (1, 'first', NULL, 1)",
        )
        .await;
        let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
        match is_raw {
            false => {
                let mut within = items.within(&mut adopted);
                within.insert(&Item::new(9, "bad")).await.unwrap_err();
            }
            true => {
                let connection = adopted.connection();
                let refused = sqlx::query(insert_bad).execute(connection).await;
                refused.map(drop).unwrap_err();
            }
        }
        let error = adopted.rollback().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TransactionAborted, "{error}");
        transaction.rollback().await.unwrap();
        assert!(items.find_uncached(1).await.unwrap().is_none());
    }
    // Between the announcement and the commit.
    let mut transaction = world.pool.begin().await.unwrap();
    let mut adopted = Transaction::adopt(&mut transaction).await.unwrap();
    let mut within = items.within(&mut adopted);
    within.insert(&Item::new(2, "second")).await.unwrap();
    let announced = adopted.announce().await.unwrap();
    let refused = sqlx::query(insert_bad).execute(&mut *transaction).await;
    assert!(refused.is_err());
    let error = announced.commit(transaction).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransactionAborted, "{error}");
    assert!(items.find(2).await.unwrap().is_none());
    // The connections are as before.
    for id in 3..10 {
        let begun = Transaction::begin_with(&world.pool, "BEGIN IMMEDIATE").await;
        let mut transaction = begun.unwrap();
        let mut within = items.within(&mut transaction);
        within.insert(&Item::new(id, "later")).await.unwrap();
        transaction.commit().await.unwrap();
    }
}
