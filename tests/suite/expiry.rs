//! Time to live: where it is counted from, what jitter does to it, and that it ends.

use std::time::Duration;

use larder::{Cache, Cached, Clock, Origin};
use serde::{Deserialize, Serialize};

use crate::world::{Item, Kind, Tested, World, eventually, on_both_stores};

on_both_stores!(
    reads_do_not_prolong_an_entry,
    time_to_live_is_counted_from_the_lease,
    jitter_stays_inside_its_band,
    the_shortest_time_to_live_works,
);

/// T1.
async fn reads_do_not_prolong_an_entry<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    items.find(1).await.unwrap();
    items.find(1).await.unwrap();
    let key = items.inner().key(1).unwrap();
    let mut last = world
        .cache
        .store()
        .remaining_ms(&key)
        .await
        .unwrap()
        .unwrap();
    assert!(
        last <= 600_000,
        "the time to live is ten minutes at most, not {last} ms"
    );
    for _ in 0..50 {
        items.find(1).await.unwrap();
        let left = world
            .cache
            .store()
            .remaining_ms(&key)
            .await
            .unwrap()
            .unwrap();
        assert!(
            left <= last,
            "a read prolonged the entry from {last} to {left} ms"
        );
        last = left;
    }
}

/// The bound holds from the moment the load was allowed to begin, so a slow load makes a short-lived entry.
async fn time_to_live_is_counted_from_the_lease<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let gate = world.close_gate().await;
    let key = items.inner().key(1).unwrap();
    let load = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    let mut lease_left = 20_000;
    eventually("the lease has aged", async || {
        lease_left = world
            .cache
            .store()
            .remaining_ms(&key)
            .await
            .unwrap()
            .unwrap_or(lease_left);
        lease_left <= 19_900
    })
    .await;
    drop(gate);
    load.await.unwrap().unwrap();
    eventually("the row is stored", async || {
        items.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
    let left = world
        .cache
        .store()
        .remaining_ms(&key)
        .await
        .unwrap()
        .unwrap();
    let aged = 20_000 - lease_left;
    assert!(
        left <= 600_000 - aged,
        "{left} ms left although the lease was {aged} ms old"
    );
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "items",
    ttl = "100s",
    jitter = 0.4,
    negative_ttl = "50s",
    lease(ttl = "60s", wait = "20s")
)]
struct Jittery {
    #[cached(id)]
    id: i64,
    name: String,
    note: Option<String>,
    quantity: i64,
}

/// T4.
async fn jitter_stays_inside_its_band<DB: Tested>(world: &World<DB>) {
    let rows = Jittery::repository(&world.cache, world.pool.clone());
    let mut all = Vec::new();
    for id in 0..200 {
        world.put(&Item::new(id, "row")).await;
        rows.find(id).await.unwrap();
        rows.find(id).await.unwrap();
        let key = rows.inner().key(id).unwrap();
        all.push(
            world
                .cache
                .store()
                .remaining_ms(&key)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    let (least, most) = (*all.iter().min().unwrap(), *all.iter().max().unwrap());
    assert!(
        most <= 100_000,
        "jitter is taken off, never added: {most} ms"
    );
    // Half a minute of grace for a machine that stalls between the fill and the look.
    assert!(
        least >= 60_000 - 30_000,
        "at most 40 % is taken off: {least} ms"
    );
    assert!(
        most - least > 15_000,
        "entries filled together expire apart: {least}..{most} ms"
    );
    let in_upper_half = all.iter().filter(|left| **left > 80_000).count();
    assert!(
        (50..=150).contains(&in_upper_half),
        "spread evenly over the band: {in_upper_half} of 200"
    );
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "items",
    ttl = "1ms",
    negative_ttl = "1ms",
    lease(ttl = "1ms", wait = "1ms")
)]
struct Fleeting {
    #[cached(id)]
    id: i64,
    name: String,
    note: Option<String>,
    quantity: i64,
}

/// T3. (Zero, negative and endless durations do not compile.)
async fn the_shortest_time_to_live_works<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let rows = Fleeting::repository(&world.cache, world.pool.clone());
    for _ in 0..20 {
        assert_eq!(rows.find(1).await.unwrap().unwrap().name, "one");
        assert!(rows.find(2).await.unwrap().is_none());
    }
    let key = rows.inner().key(1).unwrap();
    eventually("the entry is gone", async || {
        world
            .cache
            .store()
            .remaining_ms(&key)
            .await
            .unwrap()
            .is_none()
    })
    .await;
}

/// With a clock of the test's own the in-process store expires to the millisecond.
#[tokio::test]
async fn an_entry_is_served_until_its_last_millisecond_and_no_longer() {
    let world = World::<sqlx::Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    let clock = Clock::manual();
    let cache = Cache::builder().clock(clock.clone()).build().unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    items.find(1).await.unwrap();
    items.find(404).await.unwrap();
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    assert_eq!(items.find_outcome(404).await.unwrap().origin, Origin::Cache);
    clock.advance(Duration::from_millis(29_999));
    assert_eq!(items.find_outcome(404).await.unwrap().origin, Origin::Cache);
    clock.advance(Duration::from_millis(1));
    assert_eq!(
        items.find_outcome(404).await.unwrap().origin,
        Origin::Database
    );
    clock.advance(Duration::from_millis(569_999));
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    assert_eq!(
        items.find_outcome(1).await.unwrap().age,
        Duration::from_millis(599_999)
    );
    clock.advance(Duration::from_millis(1));
    assert_eq!(
        items.find_outcome(1).await.unwrap().origin,
        Origin::Database
    );
    world.database.close().await;
}
