//! Many callers of one cold key: one load, and no caller waits forever for a leader that fails, hangs or disappears.

use std::time::Duration;

use larder::{
    Cached, ErrorKind, Origin,
    state::Lease,
    store::{Over, Store, faulty::Operation},
    token::Token,
};
use serde::{Deserialize, Serialize};
use sqlx::Postgres;

use crate::{
    entities::{Item, of_items},
    world::{Tested, World, at_once, eventually, on_both_stores, on_postgres, on_redis},
};

on_both_stores!(
    simultaneous_misses_make_one_load,
    simultaneous_misses_of_an_absent_row_make_one_load,
    dropped_leader_blocks_no_caller_and_its_load_continues,
    a_stuck_load_of_one_key_does_not_hold_up_another,
    an_abandoned_lease_delays_readers_only_for_the_wait_budget,
    an_abandoned_lease_expires_and_the_key_is_cached_again,
    simultaneous_misses_without_a_store_make_few_loads,
    simultaneous_misses_of_what_is_not_cached_make_few_loads,
);
on_redis!(
    simultaneous_misses_in_several_caches_make_one_load,
    callers_that_come_after_the_lease_command_find_the_entry,
    a_waiter_is_woken_by_the_fill,
    a_waiter_is_woken_when_the_load_fails,
);
on_postgres!(a_leader_that_fails_twice_does_not_fail_its_followers);

async fn simultaneous_misses_make_one_load<DB: Tested>(world: &World<DB>) {
    for (id, tasks) in [(1, 10), (2, 100), (3, 1000)] {
        world.put(&Item::new(id, "hot")).await;
        let items = world.items();
        let before = world.database.statements();
        let gate = world.close_gate().await;
        let callers = tokio::spawn({
            let items = items.clone();
            async move {
                at_once(tasks, |_| {
                    let items = items.clone();
                    async move { items.find(id).await }
                })
                .await
            }
        });
        // The gate holds the load until all callers have missed.
        eventually("all callers have missed", async || {
            items.stats().misses == tasks as u64
        })
        .await;
        drop(gate);
        for row in callers.await.unwrap() {
            assert_eq!(row.unwrap().unwrap().name, "hot");
        }
        assert_eq!(world.database.statements() - before, 1, "{tasks} callers");
        let stats = items.stats();
        assert_eq!(
            (stats.loads, stats.coalesced + stats.hits_after_wait),
            (1, tasks as u64 - 1)
        );
    }
}

async fn simultaneous_misses_of_an_absent_row_make_one_load<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let gate = world.close_gate().await;
    let callers = tokio::spawn({
        let items = items.clone();
        async move {
            at_once(100, |_| {
                let items = items.clone();
                async move { items.find(404).await }
            })
            .await
        }
    });
    eventually("all callers have missed", async || {
        items.stats().misses == 100
    })
    .await;
    drop(gate);
    for row in callers.await.unwrap() {
        assert_eq!(row.unwrap(), None);
    }
    assert_eq!(items.stats().loads, 1);
}

/// Nothing can be filled. Callers that have asked before a statement was sent still share its row.
async fn simultaneous_misses_without_a_store_make_few_loads<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "hot")).await;
    let items = world.items();
    for operation in [
        Operation::Get,
        Operation::Acquire,
        Operation::Wait,
        Operation::Fill,
        Operation::Release,
        Operation::Invalidate,
    ] {
        world.faults.fail(operation, u64::MAX);
    }
    let before = world.database.statements();
    let gate = world.close_gate().await;
    let callers = tokio::spawn({
        let items = items.clone();
        async move {
            at_once(200, |_| {
                let items = items.clone();
                async move { items.find(1).await }
            })
            .await
        }
    });
    eventually("all callers have missed", async || {
        items.stats().misses == 200
    })
    .await;
    drop(gate);
    for row in callers.await.unwrap() {
        assert_eq!(row.unwrap().unwrap().name, "hot");
    }
    let statements = world.database.statements() - before;
    assert!((1..=4).contains(&statements), "{statements} statements");
}

of_items! {
    #[cached(
        negative_ttl = false,
        lease(ttl = "60s", wait = "20s")
    )]
    struct Uncached
}

/// The absence of the row is not cached, so no fill is accepted.
async fn simultaneous_misses_of_what_is_not_cached_make_few_loads<DB: Tested>(world: &World<DB>) {
    let rows = Uncached::repository(&world.cache, world.pool.clone());
    let before = world.database.statements();
    let gate = world.close_gate().await;
    let callers = tokio::spawn({
        let rows = rows.clone();
        async move {
            at_once(200, |_| {
                let rows = rows.clone();
                async move { rows.find(404).await }
            })
            .await
        }
    });
    eventually("all callers have missed", async || {
        rows.stats().misses == 200
    })
    .await;
    drop(gate);
    for row in callers.await.unwrap() {
        assert!(row.unwrap().is_none());
    }
    let statements = world.database.statements() - before;
    assert!((1..=4).contains(&statements), "{statements} statements");
    assert_eq!(rows.stats().fills_accepted, 0);
}

/// Several caches act as several processes: they share only the server.
async fn simultaneous_misses_in_several_caches_make_one_load<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "hot")).await;
    let mut processes = vec![world.items()];
    for _ in 0..3 {
        processes.push(world.items_elsewhere().await);
    }
    let before = world.database.statements();
    let gate = world.close_gate().await;
    let callers = tokio::spawn({
        let processes = processes.clone();
        async move {
            at_once(200, |number| {
                let items = processes[number % processes.len()].clone();
                async move { items.find(1).await }
            })
            .await
        }
    });
    eventually("one loads and the others wait", async || {
        let waiting = processes
            .iter()
            .map(|items| items.stats().lease_waits)
            .sum::<u64>();
        let missed = processes
            .iter()
            .map(|items| items.stats().misses)
            .sum::<u64>();
        waiting >= 3 && missed == 200
    })
    .await;
    drop(gate);
    for row in callers.await.unwrap() {
        assert_eq!(row.unwrap().unwrap().name, "hot");
    }
    assert_eq!(world.database.statements() - before, 1);
}

/// Another process fills the key while this one asks for the lease. Callers that join in between may not share the answer to that
/// command, because it may be older than they are. They find the entry, and do not read the database one by one.
async fn callers_that_come_after_the_lease_command_find_the_entry<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "hot")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    let before = world.database.statements();
    let acquire = world.faults.pause(Operation::Acquire);
    let leader = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    acquire.reached().await;
    let callers = tokio::spawn({
        let items = items.clone();
        async move {
            at_once(100, |_| {
                let items = items.clone();
                async move { items.find(1).await }
            })
            .await
        }
    });
    eventually("all callers have missed", async || {
        items.stats().misses == 101
    })
    .await;
    assert_eq!(elsewhere.find(1).await.unwrap().unwrap().name, "hot");
    eventually("the key is filled", async || {
        elsewhere.stats().fills_accepted == 1
    })
    .await;
    acquire.resume();
    leader.await.unwrap().unwrap();
    for row in callers.await.unwrap() {
        assert_eq!(row.unwrap().unwrap().name, "hot");
    }
    assert_eq!(world.database.statements() - before, 1);
    let stats = items.stats();
    assert_eq!(
        (stats.loads, stats.hits_after_wait),
        (0, 101),
        "the entry of the other process answers all: {stats:?}"
    );
}

/// The wait budget is ten seconds. A waiter that is not woken would need all of it.
async fn a_waiter_is_woken_by_the_fill<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "hot")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    let gate = world.close_gate().await;
    let leader = tokio::spawn(async move { items.find(1).await });
    let key = elsewhere.inner().key(1).unwrap();
    eventually("the lease is taken", async || {
        world
            .cache
            .store()
            .remaining_ms(&key)
            .await
            .unwrap()
            .is_some()
    })
    .await;
    let waiter = tokio::spawn({
        let elsewhere = elsewhere.clone();
        async move { elsewhere.find_outcome(1).await }
    });
    eventually("the other waits", async || {
        elsewhere.stats().lease_waits == 1
    })
    .await;
    drop(gate);
    leader.await.unwrap().unwrap();
    let woken = tokio::time::timeout(Duration::from_secs(8), waiter).await;
    let outcome = woken
        .expect("the waiter was woken, and did not sit out its budget")
        .unwrap()
        .unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    assert_eq!(elsewhere.stats().loads, 0);
}

async fn a_waiter_is_woken_when_the_load_fails<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "hot")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    world.sql("ALTER TABLE items RENAME TO hidden").await;
    let gate = world.close_gate().await;
    let leader = tokio::spawn(async move { items.find(1).await });
    let key = elsewhere.inner().key(1).unwrap();
    eventually("the lease is taken", async || {
        world
            .cache
            .store()
            .remaining_ms(&key)
            .await
            .unwrap()
            .is_some()
    })
    .await;
    let waiter = tokio::spawn({
        let elsewhere = elsewhere.clone();
        async move { elsewhere.find(1).await }
    });
    eventually("the other waits", async || {
        elsewhere.stats().lease_waits == 1
    })
    .await;
    drop(gate);
    assert_eq!(
        leader.await.unwrap().unwrap_err().kind(),
        ErrorKind::Database
    );
    let woken = tokio::time::timeout(Duration::from_secs(8), waiter).await;
    let own = woken.expect("the waiter was woken").unwrap();
    assert_eq!(
        own.unwrap_err().kind(),
        ErrorKind::Database,
        "it tried by itself"
    );
    assert_eq!(elsewhere.stats().loads, 1);
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "fragile", lease(ttl = "60s", wait = "20s"))]
struct Fragile {
    #[cached(id)]
    id: i64,
    name: String,
}

/// The table is a view. Its first two evaluations fail.
async fn a_leader_that_fails_twice_does_not_fail_its_followers(world: &World<Postgres>) {
    world.sql("CREATE SEQUENCE attempts").await;
    world
        .sql(
            "CREATE FUNCTION attempt() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$ \
             DECLARE number bigint := nextval('attempts'); \
             BEGIN IF number <= 2 THEN RAISE EXCEPTION 'attempt % fails', number; END IF; RETURN 1; END $$",
        )
        .await;
    world
        .sql("CREATE VIEW fragile AS SELECT attempt() AS id, 'whole'::text AS name")
        .await;
    let fragile = Fragile::repository(&world.cache, world.pool.clone());
    let gate = world.close_gate().await;
    let callers = tokio::spawn({
        let fragile = fragile.clone();
        async move {
            at_once(50, |_| {
                let fragile = fragile.clone();
                async move { fragile.find(1).await }
            })
            .await
        }
    });
    eventually("all callers have missed", async || {
        fragile.stats().misses == 50
    })
    .await;
    drop(gate);
    let results = callers.await.unwrap();
    let failed = results.iter().filter(|result| result.is_err()).count();
    assert_eq!(failed, 2, "only the two leaders failed");
    for result in results.iter().flatten() {
        assert_eq!(result.as_ref().unwrap().name, "whole");
    }
    assert_eq!(fragile.stats().loads, 3, "each attempt ran alone");
    assert_eq!(fragile.find_outcome(1).await.unwrap().origin, Origin::Cache);
}

of_items! {
    #[cached(lease(ttl = "1s", wait = "50ms"))]
    struct Hasty
}

/// Takes the fill lease of a row, as a process that then dies.
async fn abandon_lease<DB: Tested>(
    world: &World<DB>,
    hasty: &HastyRepository<DB>,
) -> larder::key::Key {
    let key = hasty.inner().key(1).unwrap();
    let lease = Lease {
        token: Token::draw(),
        identity: hasty.inner().identity(),
    };
    let granted = world
        .cache
        .store()
        .acquire(&key, lease, 1_000, Over::Nothing, None)
        .await
        .unwrap();
    assert!(granted.is_none(), "the lease was free");
    key
}

async fn an_abandoned_lease_delays_readers_only_for_the_wait_budget<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let hasty = Hasty::repository(&world.cache, world.pool.clone());
    abandon_lease(world, &hasty).await;
    let rows = at_once(10, |_| {
        let hasty = hasty.clone();
        async move { hasty.find(1).await }
    })
    .await;
    for row in rows {
        assert_eq!(row.unwrap().unwrap().name, "one");
    }
    let stats = hasty.stats();
    assert!(
        stats.uncached_loads >= 1,
        "somebody read past the lease: {stats:?}"
    );
    assert_eq!(stats.fills_accepted, 0, "and stored nothing");
}

async fn an_abandoned_lease_expires_and_the_key_is_cached_again<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let hasty = Hasty::repository(&world.cache, world.pool.clone());
    let key = abandon_lease(world, &hasty).await;
    eventually("the lease has expired", async || {
        world
            .cache
            .store()
            .remaining_ms(&key)
            .await
            .unwrap()
            .is_none()
    })
    .await;
    hasty.find(1).await.unwrap();
    assert_eq!(hasty.find_outcome(1).await.unwrap().origin, Origin::Cache);
}

async fn a_stuck_load_of_one_key_does_not_hold_up_another<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    world.put(&Item::new(2, "two")).await;
    let items = world.items();
    items.find(2).await.unwrap();
    items.find(2).await.unwrap();
    let fill = world.faults.pause(Operation::Acquire);
    let stuck = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    fill.reached().await;
    assert_eq!(items.find(2).await.unwrap().unwrap().name, "two");
    assert_eq!(items.find(3).await.unwrap(), None, "not even another load");
    fill.resume();
    assert_eq!(stuck.await.unwrap().unwrap().unwrap().name, "one");
}

async fn dropped_leader_blocks_no_caller_and_its_load_continues<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let gate = world.close_gate().await;
    let leader = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    eventually("the leader loads", async || items.stats().loads == 1).await;
    let follower = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    eventually("the follower has joined", async || {
        items.stats().misses == 2
    })
    .await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    drop(gate);
    assert_eq!(follower.await.unwrap().unwrap().unwrap().name, "one");
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    assert_eq!(items.stats().loads, 1);
}
