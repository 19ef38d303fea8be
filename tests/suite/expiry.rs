//! Time to live: when it begins, how jitter changes it, and that it ends.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use larder::{Cache, CacheBuilder, Clock, Origin, key::Key};
use sqlx::Sqlite;
use tokio::time::Instant;

use crate::{
    entities::{Item, ItemRepository, of_items},
    world::{Kind, Tested, World, eventually, on_both_stores, on_redis, redis_url, until},
};

on_redis!(
    reads_do_not_prolong_an_entry,
    time_to_live_is_counted_from_the_lease,
);
on_both_stores!(
    jitter_stays_inside_its_band,
    the_shortest_time_to_live_works,
);

/// Shortens the remaining time of a key of Redis.
async fn shorten(key: &Key, left_ms: u64) {
    let client = redis::Client::open(redis_url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let there: bool = redis::cmd("PEXPIRE")
        .arg(key.as_bytes())
        .arg(left_ms)
        .query_async(&mut admin)
        .await
        .unwrap();
    assert!(there, "there is such a key");
}

/// Returns the items with a clock that the test controls.
async fn manual(clock: &Clock) -> (World<Sqlite>, Cache, ItemRepository<Sqlite>) {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    let cache = Cache::builder().clock(clock.clone()).build().unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    (world, cache, items)
}

async fn left(cache: &Cache, key: &Key) -> Option<u64> {
    cache.store().remaining_ms(key).await.unwrap()
}

#[tokio::test]
async fn reads_do_not_prolong_an_entry_in_process() {
    let clock = Clock::manual();
    let (world, cache, items) = manual(&clock).await;
    world.warm(&items, 1).await;
    let key = items.inner().key(1).unwrap();
    for round in 0..10 {
        assert_eq!(left(&cache, &key).await, Some(600_000 - round * 60_000));
        assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
        clock.advance(Duration::from_secs(60));
    }
    assert_eq!(left(&cache, &key).await, None);
    world.database.close().await;
}

/// The entry has less time left than a new one gets.
async fn reads_do_not_prolong_an_entry<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    let key = items.inner().key(1).unwrap();
    shorten(&key, 300_000).await;
    for _ in 0..10 {
        assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    }
    let left = left(&world.cache, &key).await.unwrap();
    assert!(left <= 300_000, "a read prolonged the entry to {left} ms");
}

/// The time to live counts from the grant of the lease, so a slow load makes an entry that expires sooner.
#[tokio::test]
async fn time_to_live_is_counted_from_the_lease_in_process() {
    let clock = Clock::manual();
    let (world, cache, items) = manual(&clock).await;
    let key = items.inner().key(1).unwrap();
    let gate = world.close_gate().await;
    let load = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    eventually("the lease is taken", async || {
        left(&cache, &key).await == Some(20_000)
    })
    .await;
    clock.advance(Duration::from_millis(7_001));
    drop(gate);
    load.await.unwrap().unwrap();
    eventually("the row is stored", async || {
        items.stats().fills_accepted == 1
    })
    .await;
    assert_eq!(left(&cache, &key).await, Some(600_000 - 7_001));
    world.database.close().await;
}

of_items! {
    #[cached(ttl = "10m", jitter = 0, lease(ttl = "120s"))]
    struct Patient
}

/// The server computes the age of a lease from its remaining time. Taking 60 of 120 seconds away makes it a minute old.
async fn time_to_live_is_counted_from_the_lease<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let rows = Patient::repository(&world.cache, world.pool.clone());
    let key = rows.inner().key(1).unwrap();
    let gate = world.close_gate().await;
    let load = tokio::spawn({
        let rows = rows.clone();
        async move { rows.find(1).await }
    });
    eventually("the lease is taken", async || {
        left(&world.cache, &key).await.is_some()
    })
    .await;
    let aged = Instant::now();
    shorten(&key, 60_000).await;
    drop(gate);
    load.await.unwrap().unwrap();
    eventually("the row is stored", async || {
        rows.stats().fills_accepted == 1
    })
    .await;
    let left = left(&world.cache, &key).await.unwrap();
    assert!(left <= 540_000, "{left} ms left of 540 s at most");
    // One second for the difference between the two clocks.
    let passed = u64::try_from(aged.elapsed().as_millis()).unwrap() + 1_000;
    assert!(
        left >= 540_000 - passed,
        "{left} ms left, and only {passed} ms had passed"
    );
}

of_items! {
    #[cached(
        ttl = "100s",
        jitter = 0.4,
        negative_ttl = "50s",
        lease(ttl = "60s", wait = "20s")
    )]
    struct Jittery
}

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
    // Half a minute, for a machine that stalls between the fill and the check.
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

of_items! {
    #[cached(
        ttl = "1ms",
        negative_ttl = "1ms",
        lease(ttl = "1ms", wait = "1ms")
    )]
    struct Fleeting
}

/// Zero, negative and infinite durations do not compile.
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

/// With a clock that the test controls, the in-process store expires an entry to the millisecond.
#[tokio::test]
async fn an_entry_is_served_until_its_last_millisecond_and_no_longer() {
    let clock = Clock::manual();
    let (world, _, items) = manual(&clock).await;
    world.warm(&items, 1).await;
    world.warm(&items, 404).await;
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

/// Returns the items in a cache with these options, and what is left of 50 rows that it keeps.
async fn kept(builder: CacheBuilder) -> (World<Sqlite>, ItemRepository<Sqlite>, Vec<Weak<Item>>) {
    const ROWS: i64 = 50;
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let items = Item::repository(&builder.build().unwrap(), world.pool.clone());
    let mut rows = Vec::new();
    for id in 0..ROWS {
        let item = Item {
            note: Some("n".repeat(100)),
            ..Item::new(id, "row")
        };
        world.put(&item).await;
        world.warm(&items, id).await;
        let row = items.find(id).await.unwrap().unwrap();
        rows.push(Arc::downgrade(&row));
    }
    (world, items, rows)
}

fn in_memory(rows: &[Weak<Item>]) -> usize {
    rows.iter().filter(|row| row.strong_count() > 0).count()
}

#[tokio::test]
async fn rows_in_process_leave_the_memory_when_they_have_expired() {
    let clock = Clock::manual();
    let (world, _items, rows) = kept(Cache::builder().clock(clock.clone())).await;
    assert_eq!(in_memory(&rows), rows.len());
    clock.advance(Duration::from_secs(600));
    until("nothing is left of them", || in_memory(&rows) == 0).await;
    world.database.close().await;
}

#[tokio::test]
async fn rows_in_process_leave_the_memory_when_all_are_invalidated() {
    for expired in [false, true] {
        let clock = Clock::manual();
        let (world, items, rows) = kept(Cache::builder().clock(clock.clone())).await;
        assert_eq!(in_memory(&rows), rows.len());
        if expired {
            clock.advance(Duration::from_secs(600));
        }
        items.invalidate_all().await.unwrap();
        assert_eq!(in_memory(&rows), 0, "expired: {expired}");
        world.database.close().await;
    }
}

#[tokio::test]
async fn capacity_in_bytes_limits_what_is_kept() {
    let (world, items, rows) = kept(Cache::builder().capacity_bytes(10_000)).await;
    let few = in_memory(&rows);
    assert!((10..rows.len()).contains(&few), "{few} rows in 10 kB");
    assert_eq!(items.find(0).await.unwrap().unwrap().name, "row");
    world.database.close().await;
    let refused = Cache::builder().capacity_bytes(0).build().unwrap_err();
    assert!(refused.to_string().contains("capacity"), "{refused}");
}
