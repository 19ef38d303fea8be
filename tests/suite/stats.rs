//! The counters count what they say, and their sums are right.

use larder::{Stats, store::faulty::Operation};

use crate::{
    entities::Item,
    world::{Tested, World, at_once, eventually, on_both_stores},
};

on_both_stores!(
    reads_are_hits_negative_hits_and_misses,
    followers_are_counted_once_each_and_not_as_loads,
    store_errors_are_counted_apart_from_misses,
    writes_are_counted,
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
