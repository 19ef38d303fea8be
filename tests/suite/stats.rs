//! The counters count what they say, and their sums are right.

use larder::{Stats, store::faulty::Operation};

use crate::{
    entities::{Item, Through},
    world::{Tested, World, at_once, eventually, on_both_stores, unique},
};

on_both_stores!(
    reads_are_hits_negative_hits_and_misses,
    followers_are_counted_once_each_and_not_as_loads,
    store_errors_are_counted_apart_from_misses,
    writes_are_counted,
    a_cache_sums_up_its_repositories,
);

fn reads(stats: &Stats) -> u64 {
    stats.hits + stats.negative_hits + stats.misses
}

async fn reads_are_hits_negative_hits_and_misses<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in 0..10 {
        world.put(&Item::new(id, "row")).await;
    }
    at_once(20, |_| {
        let items = items.clone();
        async move {
            for round in 0..5 {
                for id in 0..15 {
                    items.find(id).await.unwrap();
                    if round == 2 && id == 3 {
                        items.update(&Item::new(id, "changed")).await.unwrap();
                    }
                }
            }
        }
    })
    .await;
    let stats = items.stats();
    assert_eq!(reads(&stats), 20 * 5 * 15, "{stats:?}");
    assert_eq!(
        stats.misses,
        stats.loads + stats.coalesced + stats.hits_after_wait,
        "every miss ended in a load of its own, a shared one, or a late hit: {stats:?}"
    );
    assert_eq!(stats.writes, 20);
    assert_eq!(stats.load_errors + stats.store_errors, 0);
}

async fn followers_are_counted_once_each_and_not_as_loads<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "hot")).await;
    let items = world.items();
    let gate = world.close_gate().await;
    let callers = tokio::spawn({
        let items = items.clone();
        async move {
            at_once(30, |_| {
                let items = items.clone();
                async move { items.find(1).await.unwrap() }
            })
            .await
        }
    });
    eventually("the leader loads", async || items.stats().loads == 1).await;
    eventually("all have missed", async || items.stats().misses == 30).await;
    drop(gate);
    callers.await.unwrap();
    let stats = items.stats();
    assert_eq!((stats.loads, stats.misses, stats.hits), (1, 30, 0));
    assert_eq!(stats.coalesced + stats.hits_after_wait, 29);
}

async fn store_errors_are_counted_apart_from_misses<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    items.find(1).await.unwrap();
    world.faults.fail(Operation::Get, 3);
    for _ in 0..3 {
        assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    }
    items.find(1).await.unwrap();
    let stats = items.stats();
    assert_eq!((stats.store_errors, stats.uncached_loads), (3, 3));
    assert_eq!(
        (stats.hits, stats.misses),
        (2, 4),
        "each failed look ended in a load"
    );
}

async fn writes_are_counted<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "a")).await.unwrap();
    items.update(&Item::new(1, "b")).await.unwrap();
    items.save(&Item::new(1, "c")).await.unwrap();
    items.delete(1).await.unwrap();
    items.delete(1).await.unwrap_err();
    let stats = items.stats();
    assert_eq!((stats.writes, stats.write_errors), (4, 1));
    let named: Vec<_> = stats.iter().filter(|(_, value)| *value > 0).collect();
    assert_eq!(named, [("writes", 4), ("write_errors", 1)]);
}

/// Those of two entities, of another namespace, and of a repository that exists no more.
async fn a_cache_sums_up_its_repositories<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "row")).await;
    let items = world.items();
    let through = Through::repository(&world.cache, world.pool.clone());
    let elsewhere = world.cache.with_namespace(unique("tenant")).unwrap();
    let tenant = Item::repository(&elsewhere, world.pool.clone());
    let reads_before = reads(&world.cache.stats());
    for _ in 0..3 {
        items.find(1).await.unwrap();
        through.find(1).await.unwrap();
        tenant.find(1).await.unwrap();
    }
    let all: Stats = [items.stats(), through.stats(), tenant.stats()]
        .into_iter()
        .sum();
    assert_eq!(world.cache.stats(), all);
    assert_eq!(reads(&world.cache.stats()) - reads_before, 9);
    assert_eq!(elsewhere.stats(), all, "namespaces share a cache");
    drop((through, tenant));
    eventually("what was counted stays", async || {
        world.cache.stats() == all
    })
    .await;
    assert!(
        all.hit_ratio()
            .is_some_and(|ratio| ratio > 0.0 && ratio < 1.0)
    );
}
