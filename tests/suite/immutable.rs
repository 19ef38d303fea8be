//! Columns that updates never change: an update with another value is refused, and leaves the lists of these columns alone.

use larder::{Cached, Error, ErrorKind, Transaction, store::faulty::Operation};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

use crate::world::{Tested, World, everywhere, filled, on_both_stores};

everywhere!(
    an_update_with_another_value_is_refused_and_changes_nothing,
    a_version_and_immutable_columns_are_both_compared,
    an_update_leaves_the_lists_of_immutable_columns_alone,
);
mod a_value_that_the_database_holds_unequal_is_named {
    crate::world::case!(
        a_value_that_the_database_holds_unequal_is_named,
        sqlite,
        Memory,
        Sqlite
    );
}

on_both_stores!(
    inserts_and_deletes_change_the_lists_of_immutable_columns,
    a_write_through_update_leaves_them_alone,
);

/// Orders of a customer, as they came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "orders",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0,
    index(customer, order_by = "placed desc, id desc"),
    index(state, order_by = "placed")
)]
struct Order {
    #[cached(id)]
    id: i64,
    #[cached(immutable)]
    customer: i64,
    #[cached(immutable)]
    placed: i64,
    #[cached(immutable, unique)]
    code: String,
    #[cached(immutable)]
    referrer: Option<i64>,
    state: String,
}

type Change = fn(&mut Order);

impl Order {
    fn new(id: i64, state: &str) -> Self {
        Self {
            id,
            customer: 7,
            placed: id * 10,
            code: format!("code{id}"),
            referrer: (id == 2).then_some(5),
            state: state.to_owned(),
        }
    }
}

/// The same table with a version, written through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "versioned_orders",
    strategy = "write_through",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0
)]
struct VersionedOrder {
    #[cached(id)]
    id: i64,
    #[cached(immutable, index)]
    customer: i64,
    state: String,
    #[cached(version)]
    version: i64,
}

impl VersionedOrder {
    fn new(id: i64, customer: i64, state: &str) -> Self {
        Self {
            id,
            customer,
            state: state.to_owned(),
            version: 1,
        }
    }
}

async fn orders<DB: Tested>(world: &World<DB>) -> OrderRepository<DB> {
    let collation = match DB::NAME {
        "MySQL" => " COLLATE utf8mb4_general_ci",
        "SQLite" => " COLLATE NOCASE",
        _ => "",
    };
    world
        .sql(format!(
            "CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, customer BIGINT NOT NULL, placed BIGINT NOT NULL, \
             code VARCHAR(40){collation} NOT NULL UNIQUE, referrer BIGINT, state VARCHAR(40) NOT NULL)"
        ))
        .await;
    Order::repository(&world.cache, world.pool.clone())
}

async fn versioned<DB: Tested>(world: &World<DB>) -> VersionedOrderRepository<DB> {
    world
        .sql("CREATE TABLE versioned_orders (id BIGINT NOT NULL PRIMARY KEY, customer BIGINT NOT NULL, state VARCHAR(40) NOT NULL, version BIGINT NOT NULL)")
        .await;
    VersionedOrder::repository(&world.cache, world.pool.clone())
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, column: &str) {
    let Err(error) = result else {
        panic!("`{column}` was changed");
    };
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("`{column}`, which is declared `immutable`")),
        "{text}"
    );
}

async fn an_update_with_another_value_is_refused_and_changes_nothing<DB: Tested>(
    world: &World<DB>,
) {
    let orders = orders(world).await;
    let row = Order::new(1, "new");
    let with_referrer = Order::new(2, "new");
    orders.insert(&row).await.unwrap();
    orders.insert(&with_referrer).await.unwrap();
    let changes: [(&str, Change); 5] = [
        ("customer", |row| row.customer = 8),
        ("placed", |row| row.placed += 1),
        // Equal under a collation that ignores case.
        ("code", |row| row.code = row.code.to_uppercase()),
        ("referrer", |row| row.referrer = Some(6)),
        ("referrer", |row| {
            row.referrer = match row.referrer {
                Some(_) => None,
                None => Some(0),
            };
        }),
    ];
    for old in [&row, &with_referrer] {
        for (column, change) in changes {
            let mut new = (*old).clone();
            "changed".clone_into(&mut new.state);
            change(&mut new);
            refused(orders.update(&new).await, column);
            refused(orders.save(&new).await, column);
            let both = [Order::new(3 - old.id, "changed"), new.clone()];
            refused(orders.update_many(&both).await, column);
            let modified = orders.modify(old.id, |row| {
                "changed".clone_into(&mut row.state);
                change(row);
            });
            refused(modified.await, column);
            let mut transaction = Transaction::begin(&world.pool).await.unwrap();
            let mut within = orders.within(&mut transaction);
            refused(within.update(&new).await, column);
            refused(within.save(&new).await, column);
            let changed = Order::new(3 - old.id, "new");
            within.update(&changed).await.unwrap();
            transaction.commit().await.unwrap();
            for row in [&row, &with_referrer] {
                assert_eq!(*orders.find(row.id).await.unwrap().unwrap(), *row);
                assert_eq!(*orders.find_uncached(row.id).await.unwrap().unwrap(), *row);
            }
        }
    }
    let error = orders.update(&Order::new(9, "new")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // The same values are no change.
    for old in [row, with_referrer] {
        let mut new = old.clone();
        "sent".clone_into(&mut new.state);
        orders.update(&new).await.unwrap();
        assert_eq!(*orders.find(old.id).await.unwrap().unwrap(), new);
        "paid".clone_into(&mut new.state);
        orders.save(&new).await.unwrap();
        assert_eq!(*orders.find(old.id).await.unwrap().unwrap(), new);
        "done".clone_into(&mut new.state);
        orders
            .update_many(std::slice::from_ref(&new))
            .await
            .unwrap();
        assert_eq!(*orders.find(old.id).await.unwrap().unwrap(), new);
    }
    orders.save(&Order::new(3, "new")).await.unwrap();
    assert_eq!(orders.count_by_customer(7).await.unwrap(), 3);
}

async fn a_version_and_immutable_columns_are_both_compared<DB: Tested>(world: &World<DB>) {
    let orders = versioned(world).await;
    let row = orders
        .insert(&VersionedOrder::new(1, 7, "new"))
        .await
        .unwrap();
    let mut other = (*row).clone();
    other.customer = 8;
    refused(orders.update(&other).await, "customer");
    refused(orders.save(&other).await, "customer");
    refused(orders.update_many(&[other.clone()]).await, "customer");
    other.version += 1;
    // Another version is a conflict, whatever else differs.
    let error = orders.update(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let error = orders.save(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    refused(orders.modify(1, |row| row.customer = 8).await, "customer");
    let modified = orders
        .modify(1, |row| "sent".clone_into(&mut row.state))
        .await
        .unwrap();
    assert_eq!((modified.row.customer, &*modified.row.state), (7, "sent"));
    // The version says which row is deleted; its other values do not matter.
    let mut last = (*modified.row).clone();
    last.customer = 9;
    orders.delete(&last).await.unwrap();
    assert!(orders.find(1).await.unwrap().is_none());
}

async fn an_update_leaves_the_lists_of_immutable_columns_alone<DB: Tested>(world: &World<DB>) {
    let orders = orders(world).await;
    for id in 1..=3 {
        orders.insert(&Order::new(id, "new")).await.unwrap();
    }
    let read = async || {
        let before = world.database.statements();
        let page = orders.find_all_by_customer(7).await.unwrap();
        let ids: Vec<_> = page.iter().map(|order| order.id).collect();
        assert_eq!(ids, [3, 2, 1]);
        let code = orders.find_by_code("code2").await.unwrap().unwrap();
        assert_eq!(code.id, 2);
        filled(|| orders.stats()).await;
        world.database.statements() - before
    };
    assert_eq!(read().await, 3, "the ids and rows of the list, an id");
    assert_eq!(read().await, 0);
    let writes: [(&str, Change); 3] = [
        ("update", |row| "paid".clone_into(&mut row.state)),
        ("modify", |row| "sent".clone_into(&mut row.state)),
        ("update_many", |row| "done".clone_into(&mut row.state)),
    ];
    for (name, change) in writes {
        let mut row = Order::new(2, "new");
        change(&mut row);
        match name {
            "update" => drop(orders.update(&row).await.unwrap()),
            "modify" => drop(orders.modify(2, change).await.unwrap()),
            _ => drop(orders.update_many(&[row.clone()]).await.unwrap()),
        }
        assert_eq!(read().await, 1, "after {name}, only the row is read");
        // It has moved in the other list.
        let moved = orders.find_all_by_state(row.state).await.unwrap();
        assert_eq!(moved.len(), 1, "after {name}");
    }
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = orders.within(&mut transaction);
    within.update(&Order::new(2, "back")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(read().await, 1, "after a transaction, only the row is read");
    assert_eq!(orders.find_all_by_state("back").await.unwrap().len(), 1);
}

async fn inserts_and_deletes_change_the_lists_of_immutable_columns<DB: Tested>(world: &World<DB>) {
    let orders = orders(world).await;
    let ids = async || {
        let page = orders.find_all_by_customer(7).await.unwrap();
        filled(|| orders.stats()).await;
        page.iter().map(|order| order.id).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, [0_i64; 0]);
    orders.insert(&Order::new(1, "new")).await.unwrap();
    assert_eq!(ids().await, [1]);
    orders.save(&Order::new(2, "new")).await.unwrap();
    assert_eq!(ids().await, [2, 1]);
    let code = orders.find_by_code("code3").await.unwrap();
    assert!(code.is_none());
    orders.insert_many(&[Order::new(3, "new")]).await.unwrap();
    assert_eq!(ids().await, [3, 2, 1]);
    assert_eq!(orders.find_by_code("code3").await.unwrap().unwrap().id, 3);
    orders.delete(2).await.unwrap();
    assert_eq!(ids().await, [3, 1]);
    // Deleted and inserted again with other values.
    orders.delete(3).await.unwrap();
    let mut again = Order::new(3, "new");
    again.customer = 8;
    orders.insert(&again).await.unwrap();
    assert_eq!(ids().await, [1]);
    let page = orders.find_all_by_customer(8).await.unwrap();
    assert_eq!(page.len(), 1);
}

async fn a_write_through_update_leaves_them_alone<DB: Tested>(world: &World<DB>) {
    let orders = versioned(world).await;
    for id in 1..=3 {
        let row = VersionedOrder::new(id, 7, "new");
        orders.insert(&row).await.unwrap();
    }
    assert_eq!(orders.find_all_by_customer(7).await.unwrap().len(), 3);
    filled(|| orders.stats()).await;
    let (statements, invalidations) = (
        world.database.statements(),
        world.faults.calls(Operation::Invalidate),
    );
    orders
        .modify(2, |row| "sent".clone_into(&mut row.state))
        .await
        .unwrap();
    let written = world.database.statements() - statements;
    let page = orders.find_all_by_customer(7).await.unwrap();
    assert_eq!(page[1].state, "sent");
    assert_eq!(
        world.database.statements() - statements,
        written,
        "the list and its rows are still cached"
    );
    assert_eq!(world.faults.calls(Operation::Invalidate), invalidations);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "stamped", ttl = "10m", jitter = 0)]
struct Stamped {
    #[cached(id)]
    id: i64,
    #[cached(immutable)]
    created: chrono::DateTime<chrono::Utc>,
    name: String,
}

/// SQLite has a time as a text, and there is more than one of the same time.
async fn a_value_that_the_database_holds_unequal_is_named(world: &World<Sqlite>) {
    world
        .sql("CREATE TABLE stamped (id BIGINT PRIMARY KEY, created DATETIME NOT NULL, name TEXT NOT NULL)")
        .await;
    world
        .sql("INSERT INTO stamped VALUES (1, '2024-01-01 00:00:00', 'one')")
        .await;
    let rows = Stamped::repository(&world.cache, world.pool.clone());
    let mut row = (*rows.find(1).await.unwrap().unwrap()).clone();
    "changed".clone_into(&mut row.name);
    let error = rows.update(&row).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("in an `immutable` column (`created`)"),
        "{text}"
    );
    row.id = 2;
    rows.insert(&row).await.unwrap();
    "changed again".clone_into(&mut row.name);
    rows.update(&row).await.unwrap();
}
