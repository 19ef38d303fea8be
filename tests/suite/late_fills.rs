//! A row that was read before a write is not served after it, on any path.
//!
//! The controls disable each mechanism that prevents it, and show that the same scene then serves the old row.

use larder::{
    Cached,
    store::{Mechanism, faulty::Operation},
};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, pool::PoolConnection};

use crate::{
    entities::Item,
    world::{Tested, World, eventually, on_both_stores, on_postgres},
};

on_both_stores!(
    a_row_read_before_an_update_is_not_stored_after_it,
    a_row_read_before_an_update_is_not_stored_after_it_though_the_key_was_written_before,
    a_read_that_begins_after_an_update_fills_at_once,
    without_the_lease_comparison_a_late_fill_is_stale,
    between_commit_and_return_nobody_is_served_the_old_row,
    without_intents_the_old_row_is_served_after_the_commit,
    a_row_read_during_a_write_is_not_stored,
    a_write_that_fails_leaves_the_key_usable,
    a_write_whose_caller_is_gone_runs_to_its_end,
);
on_postgres!(
    a_caller_that_joins_late_does_not_get_a_row_from_before_its_call,
    a_late_caller_gets_no_old_row_if_the_invalidation_is_not_delivered,
    a_late_caller_gets_no_old_row_if_the_invalidation_is_delivered_late,
    without_repairs_a_late_caller_gets_an_old_row_if_the_invalidation_is_not_delivered,
    without_the_rule_for_joiners_a_late_caller_gets_an_old_row,
    callers_that_may_not_share_a_load_share_the_next_one,
);

/// A row is read, then changed by another process, and then filled. Returns the row that is served afterwards.
async fn fill_after_update<DB: Tested>(world: &World<DB>) -> String {
    let items = world.items();
    let elsewhere = world.items_elsewhere().await;
    let fill = world.faults.pause(Operation::Fill);
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "old");
    fill.reached().await;
    elsewhere.update(&Item::new(1, "new")).await.unwrap();
    fill.resume();
    eventually("the late fill has been judged", async || {
        let stats = items.stats();
        stats.fills_accepted + stats.fills_refused == 1
    })
    .await;
    let served = elsewhere.find(1).await.unwrap().unwrap().name.clone();
    assert_eq!(
        items.find(1).await.unwrap().unwrap().name,
        served,
        "all see the same"
    );
    served
}

async fn a_row_read_before_an_update_is_not_stored_after_it<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    assert_eq!(fill_after_update(world).await, "new");
}

async fn a_row_read_before_an_update_is_not_stored_after_it_though_the_key_was_written_before<
    DB: Tested,
>(
    world: &World<DB>,
) {
    world.put(&Item::new(1, "older")).await;
    world.items().find(1).await.unwrap();
    world.items().update(&Item::new(1, "old")).await.unwrap();
    assert_eq!(fill_after_update(world).await, "new");
}

async fn without_the_lease_comparison_a_late_fill_is_stale<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::FillCompare);
    world.put(&Item::new(1, "old")).await;
    assert_eq!(
        fill_after_update(world).await,
        "old",
        "the scene must show what the comparison prevents"
    );
}

async fn a_read_that_begins_after_an_update_fills_at_once<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    items.update(&Item::new(1, "new")).await.unwrap();
    world.warm(&items, 1).await;
    let loads = items.stats().loads;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
    assert_eq!(
        items.stats().loads,
        loads,
        "the first read after the update had filled"
    );
}

/// Between a commit and its return: returns what a cached read sees after another read has seen the new row.
async fn read_between_commit_and_return<DB: Tested>(world: &World<DB>) -> String {
    let items = world.items();
    world.warm(&items, 1).await;
    let end = world.faults.pause(Operation::End);
    let write = tokio::spawn({
        let items = items.clone();
        async move { items.update(&Item::new(1, "new")).await }
    });
    end.reached().await;
    assert_eq!(
        items.find_uncached(1).await.unwrap().unwrap().name,
        "new",
        "the commit is done"
    );
    let elsewhere = world.items_elsewhere().await;
    let served = elsewhere.find(1).await.unwrap().unwrap().name.clone();
    end.resume();
    write.await.unwrap().unwrap();
    assert_eq!(
        elsewhere.find(1).await.unwrap().unwrap().name,
        "new",
        "at the latest when the write has returned"
    );
    served
}

async fn between_commit_and_return_nobody_is_served_the_old_row<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    assert_eq!(read_between_commit_and_return(world).await, "new");
}

async fn without_intents_the_old_row_is_served_after_the_commit<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Intent);
    world.put(&Item::new(1, "old")).await;
    assert_eq!(
        read_between_commit_and_return(world).await,
        "old",
        "the scene must show what intents prevent"
    );
}

async fn a_row_read_during_a_write_is_not_stored<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    let end = world.faults.pause(Operation::End);
    let write = tokio::spawn({
        let items = items.clone();
        async move { items.update(&Item::new(1, "new")).await }
    });
    end.reached().await;
    for _ in 0..3 {
        items.find(1).await.unwrap();
    }
    let stats = items.stats();
    assert_eq!((stats.fills_accepted, stats.uncached_loads), (0, 3));
    end.resume();
    write.await.unwrap().unwrap();
}

async fn a_write_that_fails_leaves_the_key_usable<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    assert!(items.insert(&Item::new(1, "again")).await.is_err());
    assert!(items.update(&Item::new(2, "nobody")).await.is_err());
    for id in [1, 2] {
        world.warm(&items, id).await;
        items.find(id).await.unwrap();
    }
    let stats = items.stats();
    assert_eq!(
        (stats.hits, stats.negative_hits, stats.uncached_loads),
        (1, 1, 0)
    );
}

async fn a_write_whose_caller_is_gone_runs_to_its_end<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    items.find(1).await.unwrap();
    let end = world.faults.pause(Operation::End);
    let caller = tokio::spawn({
        let items = items.clone();
        async move { items.update(&Item::new(1, "new")).await }
    });
    end.reached().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    end.resume();
    eventually("the write has ended", async || items.stats().writes == 1).await;
    world.warm(&items, 1).await;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
    assert!(
        items.stats().hits >= 1,
        "the key is cached again: {:?}",
        items.stats()
    );
}

/// Rows of a view. A statement on it waits, after it has read the row, until the test releases a lock.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "slow_items", lease(ttl = "60s", wait = "20s"))]
struct SlowItem {
    #[cached(id)]
    id: i64,
    name: String,
}

/// Creates the view of [`SlowItem`], and takes the lock that its readers wait for.
pub(crate) async fn slow_items(world: &World<Postgres>) -> PoolConnection<Postgres> {
    world
        .sql(
            "CREATE VIEW slow_items AS SELECT id, name FROM (SELECT id, name::text, \
             pg_advisory_xact_lock_shared(4711) FROM items OFFSET 0) AS rows",
        )
        .await;
    let mut holder = world.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(4711)")
        .execute(&mut *holder)
        .await
        .unwrap();
    holder
}

/// Returns when a statement has read its row and waits for the lock.
pub(crate) async fn a_statement_waits(world: &World<Postgres>) {
    eventually("a statement has read its row and waits", async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = \
             (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .fetch_one(&world.pool)
        .await
        .unwrap();
        waiting == 1
    })
    .await;
}

pub(crate) async fn let_go(mut holder: PoolConnection<Postgres>) {
    sqlx::query("SELECT pg_advisory_unlock(4711)")
        .execute(&mut *holder)
        .await
        .unwrap();
}

/// The store is unreachable, so nothing can be filled. Callers that come during a statement cannot share its row, but they
/// all share the next one.
async fn callers_that_may_not_share_a_load_share_the_next_one(world: &World<Postgres>) {
    world.put(&Item::new(1, "one")).await;
    for operation in [Operation::Get, Operation::Acquire, Operation::Wait] {
        world.faults.fail(operation, u64::MAX);
    }
    let slow = SlowItem::repository(&world.cache, world.pool.clone());
    let holder = slow_items(world).await;
    let find = || {
        let slow = slow.clone();
        tokio::spawn(async move { slow.find(1).await.unwrap().unwrap().name.clone() })
    };
    let first = find();
    a_statement_waits(world).await;
    let late: Vec<_> = (0..50).map(|_| find()).collect();
    eventually("all have missed", async || slow.stats().misses == 51).await;
    let_go(holder).await;
    assert_eq!(first.await.unwrap(), "one");
    for caller in late {
        assert_eq!(caller.await.unwrap(), "one");
    }
    assert_eq!(
        slow.stats().loads,
        2,
        "one statement for the first, one for all others"
    );
}

/// Caller A has read the old row, and its statement has not ended. The row is changed and invalidated, and then B asks.
/// Returns B's row. The first `failures` attempts to invalidate fail.
async fn join_a_load_that_read_before_the_call(world: &World<Postgres>, failures: u64) -> String {
    world.put(&Item::new(1, "old")).await;
    let slow = SlowItem::repository(&world.cache, world.pool.clone());
    let holder = slow_items(world).await;
    let a = tokio::spawn({
        let slow = slow.clone();
        async move { slow.find(1).await }
    });
    a_statement_waits(world).await;
    world.sql("UPDATE items SET name = 'new'").await;
    world.faults.fail(Operation::Invalidate, failures);
    assert_eq!(slow.invalidate(1).await.is_err(), failures > 0);
    let b = tokio::spawn({
        let slow = slow.clone();
        async move { slow.find(1).await }
    });
    eventually("B has joined", async || slow.stats().misses == 2).await;
    let_go(holder).await;
    assert_eq!(
        a.await.unwrap().unwrap().unwrap().name,
        "old",
        "A asked before the change"
    );
    b.await.unwrap().unwrap().unwrap().name.clone()
}

async fn a_caller_that_joins_late_does_not_get_a_row_from_before_its_call(world: &World<Postgres>) {
    assert_eq!(join_a_load_that_read_before_the_call(world, 0).await, "new");
}

/// The store receives the invalidation late, or never. In both cases, callers that ask after the change do not share the
/// load.
async fn a_late_caller_gets_no_old_row_if_the_invalidation_is_not_delivered(
    world: &World<Postgres>,
) {
    assert_eq!(
        join_a_load_that_read_before_the_call(world, u64::MAX).await,
        "new"
    );
    assert_eq!(world.cache.repairs().pending, 1);
}

async fn a_late_caller_gets_no_old_row_if_the_invalidation_is_delivered_late(
    world: &World<Postgres>,
) {
    assert_eq!(join_a_load_that_read_before_the_call(world, 1).await, "new");
}

async fn without_repairs_a_late_caller_gets_an_old_row_if_the_invalidation_is_not_delivered(
    world: &World<Postgres>,
) {
    world.faults.leave_out(Mechanism::Repair);
    assert_eq!(
        join_a_load_that_read_before_the_call(world, u64::MAX).await,
        "old",
        "the scene must show what the memory of untold writes prevents"
    );
}

async fn without_the_rule_for_joiners_a_late_caller_gets_an_old_row(world: &World<Postgres>) {
    world.faults.leave_out(Mechanism::AcceptedFill);
    assert_eq!(
        join_a_load_that_read_before_the_call(world, 0).await,
        "old",
        "the scene must show what the rule prevents"
    );
}
