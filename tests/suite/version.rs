//! Optimistic locking: a row that was changed since it was read is not overwritten.

use larder::{Cached, Error, ErrorKind, Origin, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::MySql;

use crate::{
    entities::Item,
    world::{Tested, World, at_once, everywhere, on_mysql},
};

everywhere!(
    a_version_is_compared_and_counted_up_by_every_write,
    a_lost_race_is_a_conflict_that_carries_the_current_row,
    a_conflict_in_a_batch_changes_nothing,
    updates_are_lost_without_a_version_and_never_with_one,
);
on_mysql!(
    a_conflict_carries_the_current_row_and_not_the_one_of_the_snapshot,
    a_row_that_the_snapshot_does_not_hold_is_a_conflict_and_not_missing,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "accounts", strategy = "write_through")]
struct Account {
    #[cached(id)]
    id: i64,
    balance: i64,
    #[cached(version)]
    version: i64,
}

fn account(balance: i64, version: i64) -> Account {
    Account {
        id: 1,
        balance,
        version,
    }
}

async fn accounts<DB: Tested>(world: &World<DB>) -> AccountRepository<DB> {
    world
        .sql("CREATE TABLE accounts (id BIGINT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)")
        .await;
    Account::repository(&world.cache, world.pool.clone())
}

async fn a_version_is_compared_and_counted_up_by_every_write<DB: Tested>(world: &World<DB>) {
    let accounts = accounts(world).await;
    assert_eq!(
        *accounts.insert(&account(10, 1)).await.unwrap(),
        account(10, 1)
    );
    assert_eq!(
        *accounts.update(&account(20, 1)).await.unwrap(),
        account(20, 2)
    );
    let outcome = accounts.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    assert_eq!(outcome.row.as_deref(), Some(&account(20, 2)));
    assert_eq!(
        *accounts.save(&account(30, 2)).await.unwrap(),
        account(30, 3)
    );
    let many = accounts.update_many(&[account(40, 3)]).await.unwrap();
    assert_eq!(*many[0], account(40, 4));
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = accounts.within(&mut transaction);
    assert_eq!(
        *within.update(&account(50, 4)).await.unwrap(),
        account(50, 5)
    );
    assert_eq!(
        *within.update(&account(60, 5)).await.unwrap(),
        account(60, 6)
    );
    transaction.commit().await.unwrap();
    accounts.delete(&account(0, 6)).await.unwrap();
    assert_eq!(accounts.find(1).await.unwrap(), None);
    assert_eq!(
        *accounts.save(&account(7, 7)).await.unwrap(),
        account(7, 7),
        "a save inserts"
    );
}

async fn a_lost_race_is_a_conflict_that_carries_the_current_row<DB: Tested>(world: &World<DB>) {
    let accounts = accounts(world).await;
    accounts.insert(&account(10, 1)).await.unwrap();
    accounts.update(&account(20, 1)).await.unwrap();
    let stale = account(99, 1);
    let conflict = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(error.current::<Account>().as_deref(), Some(&account(20, 2)));
        assert!(error.current::<Item>().is_none());
    };
    conflict(accounts.update(&stale).await.unwrap_err());
    conflict(accounts.save(&stale).await.unwrap_err());
    conflict(accounts.delete(&stale).await.unwrap_err());
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    conflict(
        accounts
            .within(&mut transaction)
            .update(&stale)
            .await
            .unwrap_err(),
    );
    conflict(
        accounts
            .within(&mut transaction)
            .delete_row(&stale)
            .await
            .unwrap_err(),
    );
    transaction.rollback().await.unwrap();
    assert_eq!(
        accounts.find(1).await.unwrap().as_deref(),
        Some(&account(20, 2))
    );
    let nobody = Account { id: 9, ..stale };
    let error = accounts.update(&nobody).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(
        accounts.delete(&nobody).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

/// A transaction of MySQL reads from a snapshot, which is older than the row that its statement has matched.
async fn a_conflict_carries_the_current_row_and_not_the_one_of_the_snapshot(world: &World<MySql>) {
    let accounts = accounts(world).await;
    accounts.insert(&account(10, 1)).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = accounts.within(&mut transaction);
    assert_eq!(
        within.find(1).await.unwrap().as_deref(),
        Some(&account(10, 1))
    );
    accounts.update(&account(20, 1)).await.unwrap();
    let error = within.update(&account(99, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.current::<Account>().as_deref(), Some(&account(20, 2)));
    transaction.rollback().await.unwrap();
}

async fn a_row_that_the_snapshot_does_not_hold_is_a_conflict_and_not_missing(world: &World<MySql>) {
    let accounts = accounts(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = accounts.within(&mut transaction);
    assert_eq!(within.find(1).await.unwrap(), None);
    accounts.insert(&account(10, 5)).await.unwrap();
    for error in [
        within.save(&account(99, 1)).await.unwrap_err(),
        within.update(&account(99, 1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(error.current::<Account>().as_deref(), Some(&account(10, 5)));
    }
    transaction.rollback().await.unwrap();
}

async fn a_conflict_in_a_batch_changes_nothing<DB: Tested>(world: &World<DB>) {
    let accounts = accounts(world).await;
    let row = |id: i64, balance: i64, version: i64| Account {
        id,
        balance,
        version,
    };
    accounts
        .insert_many(&[row(1, 10, 1), row(2, 10, 5)])
        .await
        .unwrap();
    let changed = [row(1, 20, 1), row(2, 20, 4)];
    for error in [
        accounts.update_many(&changed).await.unwrap_err(),
        accounts.delete_many(&changed).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(error.current::<Account>().as_deref(), Some(&row(2, 10, 5)));
    }
    assert_eq!(
        accounts.find_uncached(1).await.unwrap().as_deref(),
        Some(&row(1, 10, 1))
    );
    let missing = [row(1, 0, 1), row(9, 0, 1)];
    let error = accounts.delete_many(&missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    accounts
        .delete_many(&[row(1, 0, 1), row(2, 0, 5)])
        .await
        .unwrap();
    assert_eq!(accounts.find(1).await.unwrap(), None);
}

/// Two tellers read the same balance, and each adds to it. The second one must not overwrite the first.
async fn updates_are_lost_without_a_version_and_never_with_one<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "account")).await.unwrap();
    let (first, second) = (
        items.find(1).await.unwrap().unwrap(),
        items.find(1).await.unwrap().unwrap(),
    );
    for read in [first, second] {
        let deposited = Item {
            quantity: read.quantity + 100,
            ..(*read).clone()
        };
        items.update(&deposited).await.unwrap();
    }
    assert_eq!(
        items.find(1).await.unwrap().unwrap().quantity,
        101,
        "one deposit is lost"
    );

    let accounts = accounts(world).await;
    accounts.insert(&account(0, 1)).await.unwrap();
    let (tellers, deposits) = (4, 5);
    let conflicts: u64 = at_once(tellers, |_| {
        let accounts = accounts.clone();
        async move {
            let mut conflicts = 0;
            for _ in 0..deposits {
                let mut read = accounts.find(1).await.unwrap().unwrap();
                loop {
                    let deposited = Account {
                        balance: read.balance + 1,
                        ..(*read).clone()
                    };
                    match accounts.update(&deposited).await {
                        Ok(_) => break,
                        Err(error) => {
                            read = error.current().unwrap_or_else(|| panic!("{error:?}"));
                            conflicts += 1;
                        }
                    }
                }
            }
            conflicts
        }
    })
    .await
    .into_iter()
    .sum();
    let total = i64::try_from(tellers * deposits).unwrap();
    let account = accounts.find(1).await.unwrap().unwrap();
    assert_eq!(
        (account.balance, account.version),
        (total, total + 1),
        "{conflicts} conflicts"
    );
}
