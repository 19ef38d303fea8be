//! All rows that a lookup finds, changed or deleted at once: what is written, who sees it when, and what a failure leaves.
//!
//! The controls leave out the announcement, and show that the same scene then serves old rows and lists.

use larder::{
    Cached, ErrorKind, Origin, Transaction,
    store::{Mechanism, faulty::Operation},
};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use crate::world::{Tested, World, at_once, everywhere, filled, on_both_stores, on_postgres};

everywhere!(
    all_rows_of_a_value_are_changed_and_seen_at_once,
    rows_that_are_written_through_are_seen_at_once,
    rows_that_move_are_right_in_both_lists,
    a_version_is_incremented_if_the_row_is_changed,
    a_refusal_rolls_everything_back,
    all_rows_of_a_value_are_deleted,
    a_transaction_that_is_rolled_back_leaves_the_cache_as_it_was,
    a_transaction_continues_after_a_refusal,
    a_text_is_compared_byte_for_byte,
    rows_are_found_by_two_columns,
    more_rows_than_one_statement_takes,
    one_connection_is_enough,
    changes_at_the_same_time_are_all_made,
    few_statements_are_sent,
);
on_both_stores!(
    a_value_without_rows_changes_nothing,
    a_row_that_gets_another_id_is_refused,
    a_reader_between_statement_and_commit_caches_no_old_row,
    without_the_intent_a_reader_before_the_commit_caches_the_old_row,
    without_the_intent_a_deleted_row_stays_cached,
    between_the_commit_and_the_end_nobody_is_served_an_old_row,
    without_the_intent_an_old_row_is_served_after_the_commit,
    without_the_announcement_the_list_of_the_new_value_misses_a_row,
);
on_postgres!(
    more_rows_than_one_array_takes,
    a_row_that_is_locked_elsewhere_is_changed_as_it_then_is,
);

const GOODS: &str = "CREATE TABLE goods (id BIGINT NOT NULL PRIMARY KEY, category BIGINT NOT NULL, kind VARCHAR(20) NOT NULL, \
                     sku VARCHAR(20) NOT NULL, price BIGINT NOT NULL, version BIGINT NOT NULL)";

macro_rules! goods {
    ($name:ident, [$($option:tt)*], $(#[$version:meta])*) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(
            table = "goods",
            ttl = "10m",
            negative_ttl = "10m",
            jitter = 0,
            lease(ttl = "20s", wait = "10s"),
            index(category, order_by = "price"),
            index(category, kind),
            $($option)*
        )]
        struct $name {
            #[cached(id)]
            id: i64,
            category: i64,
            #[cached(index)]
            kind: String,
            #[cached(unique)]
            sku: String,
            price: i64,
            $(#[$version])*
            version: i64,
        }

        impl $name {
            /// The higher the id, the lower the price.
            fn new(id: i64, category: i64) -> Self {
                Self {
                    id,
                    category,
                    kind: "tea".to_owned(),
                    sku: format!("sku-{id}"),
                    price: 1_000 - 100 * id,
                    version: 1,
                }
            }
        }
    };
}

goods!(Good, [],);
goods!(Written, [strategy = "write_through"],);
goods!(Counted, [], #[cached(version)]);

/// The goods, as this process and another one see them.
struct Scene<DB: Tested> {
    here: GoodRepository<DB>,
    elsewhere: GoodRepository<DB>,
}

impl<DB: Tested> Scene<DB> {
    /// Three goods of category 7, and one of category 8. All are cached, and so are the lists.
    async fn open(world: &World<DB>) -> Self {
        world.sql(GOODS).await;
        let scene = Self {
            here: Good::repository(&world.cache, world.pool.clone()),
            elsewhere: Good::repository(&world.cache_elsewhere().await, world.pool.clone()),
        };
        let rows = [(1, 7), (2, 7), (3, 7), (4, 8)].map(|(id, category)| Good::new(id, category));
        scene.here.insert_many(&rows).await.unwrap();
        for goods in [&scene.here, &scene.elsewhere] {
            assert!(goods.find(9).await.unwrap().is_none());
        }
        scene.see(&[900, 800, 700, 600]).await;
        scene.lists(&[3, 2, 1], &[4]).await;
        scene.settle().await;
        scene
    }

    /// Waits until everything that was read is cached.
    async fn settle(&self) {
        filled(|| self.here.stats()).await;
        filled(|| self.elsewhere.stats()).await;
    }

    /// Both see these prices, by id and by sku.
    async fn see(&self, prices: &[i64]) {
        for goods in [&self.elsewhere, &self.here] {
            for (id, price) in (1..).zip(prices) {
                let row = goods.find(id).await.unwrap().unwrap();
                assert_eq!(row.price, *price, "{id}");
                let row = goods.find_by_sku(&format!("sku-{id}")).await.unwrap();
                assert_eq!(row.unwrap().price, *price, "{id}");
            }
        }
    }

    /// Both see these ids in categories 7 and 8.
    async fn lists(&self, seven: &[i64], eight: &[i64]) {
        for goods in [&self.elsewhere, &self.here] {
            for (category, ids) in [(7, seven), (8, eight)] {
                assert_eq!(list(goods, category).await, ids, "{category}");
                let count = goods.count_by_category(category).await.unwrap();
                assert_eq!(count, ids.len() as u64, "{category}");
            }
        }
    }

    /// Both see what they saw at the beginning, and all of it is cached.
    async fn is_untouched(&self, world: &World<DB>) {
        let statements = world.database.statements();
        self.see(&[900, 800, 700, 600]).await;
        self.lists(&[3, 2, 1], &[4]).await;
        assert_eq!(world.database.statements(), statements, "all is cached");
    }
}

async fn list<DB: Tested>(goods: &GoodRepository<DB>, category: i64) -> Vec<i64> {
    let page = goods.find_all_by_category(category).await.unwrap();
    page.iter().map(|good| good.id).collect()
}

async fn all_rows_of_a_value_are_changed_and_seen_at_once<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let rows = scene
        .here
        .modify_by_category(7, |good| good.price = good.price * 9 / 10)
        .await
        .unwrap();
    let rows: Vec<_> = rows.iter().map(|good| (good.id, good.price)).collect();
    assert_eq!(rows, [(1, 810), (2, 720), (3, 630)]);
    let other = scene.elsewhere.find_outcome(4).await.unwrap();
    assert_eq!(other.origin, Origin::Cache);
    scene.see(&[810, 720, 630, 600]).await;
    scene.lists(&[3, 2, 1], &[4]).await;
    scene.settle().await;
    // The order of the list changes, and one row does not.
    let rows = scene
        .elsewhere
        .modify_by_category(&7, |good| match good.id {
            3 => good.price = 5_000,
            2 => {}
            _ => good.price = 10,
        })
        .await
        .unwrap();
    let rows: Vec<_> = rows.iter().map(|good| (good.id, good.price)).collect();
    assert_eq!(rows, [(1, 10), (2, 720), (3, 5_000)]);
    scene.see(&[10, 720, 5_000, 600]).await;
    scene.lists(&[1, 2, 3], &[4]).await;
}

async fn rows_that_are_written_through_are_seen_at_once<DB: Tested>(world: &World<DB>) {
    world.sql(GOODS).await;
    let here = Written::repository(&world.cache, world.pool.clone());
    let elsewhere = Written::repository(&world.cache_elsewhere().await, world.pool.clone());
    let rows = [(1, 7), (2, 7), (3, 8)].map(|(id, category)| Written::new(id, category));
    here.insert_many(&rows).await.unwrap();
    here.modify_by_category(7, |good| good.price = good.id)
        .await
        .unwrap();
    let statements = world.database.statements();
    for id in [1, 2] {
        assert_eq!(elsewhere.find(id).await.unwrap().unwrap().price, id);
    }
    assert_eq!(world.database.statements(), statements, "both are cached");
    assert_eq!(elsewhere.delete_by_category(7).await.unwrap(), 2);
    for goods in [&here, &elsewhere] {
        assert!(goods.find(1).await.unwrap().is_none());
        assert!(goods.find(2).await.unwrap().is_none());
        assert_eq!(goods.find(3).await.unwrap().unwrap().price, 700);
        assert!(goods.find_all_by_category(7).await.unwrap().rows.is_empty());
    }
}

async fn rows_that_move_are_right_in_both_lists<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    scene
        .here
        .modify_by_category(7, |good| {
            if good.id != 2 {
                good.category = 8;
            }
        })
        .await
        .unwrap();
    scene.lists(&[2], &[4, 3, 1]).await;
    scene.see(&[900, 800, 700, 600]).await;
    scene.settle().await;
    scene
        .elsewhere
        .modify_by_category(8, |good| good.category = 7)
        .await
        .unwrap();
    scene.lists(&[4, 3, 2, 1], &[]).await;
}

async fn a_version_is_incremented_if_the_row_is_changed<DB: Tested>(world: &World<DB>) {
    world.sql(GOODS).await;
    let goods = Counted::repository(&world.cache, world.pool.clone());
    let rows = [1, 2, 3].map(|id| Counted::new(id, 7));
    goods.insert_many(&rows).await.unwrap();
    let changed = goods
        .modify_by_category(7, |good| {
            if good.id != 2 {
                good.price += 1;
            }
        })
        .await
        .unwrap();
    let versions: Vec<_> = changed.iter().map(|good| good.version).collect();
    assert_eq!(versions, [2, 1, 2]);
    for (id, version) in [(1, 2), (2, 1), (3, 2)] {
        assert_eq!(goods.find(id).await.unwrap().unwrap().version, version);
    }
    // Who has read before is told.
    let error = goods.update(&rows[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.current::<Counted>().unwrap().price, 901);
}

async fn a_refusal_rolls_everything_back<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let mut calls = 0;
    let refused = scene.here.modify_by_category(7, |good| {
        calls += 1;
        good.price = 1;
        match good.id {
            3 => Err("the last one is not for sale"),
            _ => Ok(()),
        }
    });
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let text = error.to_string();
    assert!(text.contains("the last one is not for sale"), "{text}");
    assert!(text.contains("Good:3"), "{text}");
    assert_eq!(calls, 3);
    scene.is_untouched(world).await;
    // No lock is left.
    let rows = scene
        .elsewhere
        .modify_by_category(7, |good| good.price += 1);
    assert_eq!(rows.await.unwrap().len(), 3);
    scene.see(&[901, 801, 701, 600]).await;
}

async fn all_rows_of_a_value_are_deleted<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    assert_eq!(scene.here.delete_by_category(7).await.unwrap(), 3);
    for goods in [&scene.elsewhere, &scene.here] {
        for id in 1..=3 {
            assert!(goods.find(id).await.unwrap().is_none(), "{id}");
            let sku = format!("sku-{id}");
            assert!(goods.find_by_sku(&sku).await.unwrap().is_none(), "{id}");
        }
        assert_eq!(goods.find(4).await.unwrap().unwrap().price, 600);
    }
    scene.lists(&[], &[4]).await;
    assert_eq!(scene.elsewhere.delete_by_category(7).await.unwrap(), 0);
    scene.here.insert(&Good::new(1, 7)).await.unwrap();
    scene.lists(&[1], &[4]).await;
}

async fn a_transaction_that_is_rolled_back_leaves_the_cache_as_it_was<DB: Tested>(
    world: &World<DB>,
) {
    let scene = Scene::open(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = scene.here.within(&mut transaction);
    let rows = within.modify_by_category(7, |good| good.category = 8).await;
    assert_eq!(rows.unwrap().len(), 3);
    assert_eq!(within.count_by_category(8).await.unwrap(), 4);
    assert_eq!(within.delete_by_category(8).await.unwrap(), 4);
    assert_eq!(within.count_by_category(8).await.unwrap(), 0);
    transaction.rollback().await.unwrap();
    scene.is_untouched(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = scene.here.within(&mut transaction);
    let moved = within.modify_by_category(8, |good| good.category = 7).await;
    assert_eq!(moved.unwrap().len(), 1);
    let mut savepoint = transaction.savepoint().await.unwrap();
    let mut within = scene.here.within(&mut savepoint);
    assert_eq!(within.delete_by_category(7).await.unwrap(), 4);
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    scene.lists(&[4, 3, 2, 1], &[]).await;
}

async fn a_transaction_continues_after_a_refusal<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = scene.here.within(&mut transaction);
    let refused = within.modify_by_category(7, |_| Err::<(), _>("no"));
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let changed = within.modify_by_category(8, |good| good.price = 1).await;
    assert_eq!(changed.unwrap().len(), 1);
    transaction.commit().await.unwrap();
    scene.see(&[900, 800, 700, 1]).await;
}

async fn a_text_is_compared_byte_for_byte<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let loud = Good {
        kind: "TEA".to_owned(),
        ..Good::new(5, 8)
    };
    scene.here.insert(&loud).await.unwrap();
    let changed = scene.here.modify_by_kind("TEA", |good| good.price = 1);
    assert_eq!(changed.await.unwrap().len(), 1);
    scene.see(&[900, 800, 700, 600, 1]).await;
    assert_eq!(scene.here.delete_by_kind("tea").await.unwrap(), 4);
    assert!(scene.elsewhere.find(4).await.unwrap().is_none());
    assert!(scene.elsewhere.find(5).await.unwrap().is_some());
    scene.lists(&[], &[5]).await;
}

async fn rows_are_found_by_two_columns<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let coffee = Good {
        kind: "coffee".to_owned(),
        ..Good::new(5, 7)
    };
    scene.here.insert(&coffee).await.unwrap();
    let changed = scene
        .here
        .modify_by_category_and_kind(7, "coffee", |good| good.price = 1);
    assert_eq!(changed.await.unwrap().len(), 1);
    scene.see(&[900, 800, 700, 600, 1]).await;
    let deleted = scene.here.delete_by_category_and_kind(7, "tea").await;
    assert_eq!(deleted.unwrap(), 3);
    scene.lists(&[5], &[4]).await;
}

/// Changes this many rows at once, and deletes them at once.
async fn change_and_delete<DB: Tested>(world: &World<DB>, count: i64) {
    world.sql(GOODS).await;
    let here = Good::repository(&world.cache, world.pool.clone());
    let elsewhere = Good::repository(&world.cache_elsewhere().await, world.pool.clone());
    let rows: Vec<_> = (1..=count).map(|id| Good::new(id, 7)).collect();
    here.insert_many(&rows).await.unwrap();
    let ids: Vec<_> = rows.iter().map(|good| good.id).collect();
    elsewhere.find_many(&ids).await.unwrap();
    filled(|| elsewhere.stats()).await;
    let changed = here
        .modify_by_category(7, |good| good.price = -good.id)
        .await
        .unwrap();
    assert_eq!(changed.len(), rows.len());
    for found in [&changed, &flat(elsewhere.find_many(&ids).await.unwrap())] {
        assert!(found.iter().zip(&ids).all(|(good, id)| good.price == -id));
    }
    filled(|| elsewhere.stats()).await;
    assert_eq!(here.delete_by_category(7).await.unwrap(), rows.len() as u64);
    assert!(flat(elsewhere.find_many(&ids).await.unwrap()).is_empty());
}

fn flat<T>(rows: Vec<Option<T>>) -> Vec<T> {
    rows.into_iter().flatten().collect()
}

async fn more_rows_than_one_statement_takes<DB: Tested>(world: &World<DB>) {
    change_and_delete(world, 620).await;
}

async fn more_rows_than_one_array_takes<DB: Tested>(world: &World<DB>) {
    change_and_delete(world, 5_100).await;
}

async fn one_connection_is_enough<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let options = world.pool.options().clone().max_connections(1);
    let pool: Pool<DB> = options.connect_lazy_with((*world.pool.connect_options()).clone());
    // It is not bound yet.
    let goods = Good::repository(&world.cache, pool.clone());
    let changed = goods.modify_by_category(7, |good| good.price = 1).await;
    assert_eq!(changed.unwrap().len(), 3);
    assert_eq!(goods.delete_by_category(8).await.unwrap(), 1);
    scene.see(&[1, 1, 1]).await;
    scene.lists(&[1, 2, 3], &[]).await;
    pool.close().await;
}

async fn changes_at_the_same_time_are_all_made<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let (here, elsewhere) = (scene.here.clone(), scene.elsewhere.clone());
    let done = at_once(10, move |number| {
        let goods = match number % 2 {
            0 => here.clone(),
            _ => elsewhere.clone(),
        };
        async move {
            let changed = goods.modify_by_category(7, |good| good.price += 1).await;
            changed.unwrap().len()
        }
    });
    assert_eq!(done.await, [3; 10]);
    scene.see(&[910, 810, 710, 600]).await;
}

async fn few_statements_are_sent<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let statements = || {
        let texts = world.database.statement_log().texts();
        let words = texts
            .iter()
            .map(|text| text.split(' ').next().unwrap().to_owned());
        words.collect::<Vec<_>>()
    };
    let before = statements().len();
    let changed = scene.here.modify_by_category(7, |good| {
        if good.id != 2 {
            good.price = 1;
        }
    });
    changed.await.unwrap();
    let updates = match DB::NAME {
        "PostgreSQL" => vec!["SELECT", "UPDATE"],
        _ => vec!["SELECT", "UPDATE", "UPDATE"],
    };
    assert_eq!(statements().split_off(before), updates);
    let before = statements().len();
    scene.here.delete_by_category(7).await.unwrap();
    let deletes = match DB::NAME {
        "MySQL" => vec!["SELECT", "DELETE"],
        _ => vec!["DELETE"],
    };
    assert_eq!(statements().split_off(before), deletes);
}

async fn a_value_without_rows_changes_nothing<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let begun = world.faults.calls(Operation::Begin);
    let changed = scene.here.modify_by_category(9, |good| good.price = 1);
    assert!(changed.await.unwrap().is_empty());
    let changed = scene.here.modify_by_category(7, |_| {}).await.unwrap();
    assert_eq!(changed.len(), 3);
    assert_eq!(
        world.faults.calls(Operation::Begin),
        begun,
        "nothing is announced"
    );
    assert_eq!(scene.here.delete_by_category(9).await.unwrap(), 0);
    scene.is_untouched(world).await;
}

async fn a_row_that_gets_another_id_is_refused<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let changed = scene.here.modify_by_category(7, |good| good.id += 10);
    let error = changed.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    scene.is_untouched(world).await;
}

/// Rows are changed in a transaction, and read elsewhere before it is committed. Returns the price and the list that are served
/// afterwards.
async fn read_before_the_commit<DB: Tested>(world: &World<DB>) -> (i64, Vec<i64>) {
    let scene = Scene::open(world).await;
    scene.here.inner().invalidate_all().await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = scene.here.within(&mut transaction);
    let changed = within.modify_by_category(7, |good| {
        good.price = 1;
        good.category = 8;
    });
    assert_eq!(changed.await.unwrap().len(), 3);
    scene.see(&[900, 800, 700, 600]).await;
    scene.lists(&[3, 2, 1], &[4]).await;
    scene.settle().await;
    transaction.commit().await.unwrap();
    let row = scene.elsewhere.find(1).await.unwrap().unwrap();
    (row.price, list(&scene.elsewhere, 8).await)
}

async fn a_reader_between_statement_and_commit_caches_no_old_row<DB: Tested>(world: &World<DB>) {
    assert_eq!(read_before_the_commit(world).await, (1, vec![1, 2, 3, 4]));
}

async fn without_the_intent_a_reader_before_the_commit_caches_the_old_row<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::Intent);
    world.faults.leave_out(Mechanism::End);
    assert_eq!(read_before_the_commit(world).await, (900, vec![4]));
}

async fn without_the_intent_a_deleted_row_stays_cached<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Intent);
    world.faults.leave_out(Mechanism::End);
    let scene = Scene::open(world).await;
    assert_eq!(scene.here.delete_by_category(7).await.unwrap(), 3);
    assert!(scene.elsewhere.find(1).await.unwrap().is_some());
}

/// Rows are changed. Returns the price that another process is served after the commit, before the change has ended.
async fn before_the_end<DB: Tested>(world: &World<DB>) -> i64 {
    let scene = Scene::open(world).await;
    let end = world.faults.pause(Operation::End);
    let writer = tokio::spawn({
        let goods = scene.here.clone();
        async move { goods.modify_by_category(7, |good| good.price = 1).await }
    });
    end.reached().await;
    let stored = scene.here.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(stored.price, 1, "the commit is done");
    let served = scene.elsewhere.find(1).await.unwrap().unwrap();
    end.resume();
    writer.await.unwrap().unwrap();
    scene.see(&[1, 1, 1, 600]).await;
    served.price
}

async fn between_the_commit_and_the_end_nobody_is_served_an_old_row<DB: Tested>(world: &World<DB>) {
    assert_eq!(before_the_end(world).await, 1);
}

async fn without_the_intent_an_old_row_is_served_after_the_commit<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Intent);
    assert_eq!(before_the_end(world).await, 900);
}

async fn without_the_announcement_the_list_of_the_new_value_misses_a_row<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::ListIntent);
    let scene = Scene::open(world).await;
    let moved = scene.here.modify_by_category(7, |good| good.category = 8);
    moved.await.unwrap();
    assert_eq!(list(&scene.elsewhere, 8).await, [4]);
}

/// Another transaction has the lock of a row, and moves it away.
async fn a_row_that_is_locked_elsewhere_is_changed_as_it_then_is<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = scene.elsewhere.within(&mut transaction);
    within.modify(1, |good| good.category = 8).await.unwrap();
    within.modify(2, |good| good.price = 5).await.unwrap();
    let writer = tokio::spawn({
        let goods = scene.here.clone();
        async move { goods.modify_by_category(7, |good| good.price += 1).await }
    });
    crate::world::eventually("the rows are waited for", async || {
        let waiting = "SELECT COUNT(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        world.text(waiting).await == "1"
    })
    .await;
    transaction.commit().await.unwrap();
    let changed = writer.await.unwrap().unwrap();
    let changed: Vec<_> = changed.iter().map(|good| (good.id, good.price)).collect();
    assert_eq!(changed, [(2, 6), (3, 701)]);
    scene.see(&[900, 6, 701, 600]).await;
    scene.lists(&[2, 3], &[4, 1]).await;
}
