//! Writes whose invalidation could not be delivered: their keys are not served until it is.

use std::time::Duration;

use larder::{
    Cache, ErrorKind, Origin,
    store::{
        Mechanism, Store,
        faulty::{Faults, Operation},
    },
};
use larder_testing::{
    proxy::{Point, Proxy},
    redis_server::RedisServer,
};
use sqlx::{Postgres, Sqlite};

use crate::{
    entities::{Item, ItemRepository, of_items},
    world::{
        Kind, Tested, World, eventually, on_both_stores, on_postgres, redis_url, unique, until,
    },
};

on_both_stores!(
    a_key_is_not_served_until_its_invalidation_is_delivered,
    without_repairs_the_old_row_is_served_again,
    a_key_that_is_written_again_during_its_repair_is_repaired_again,
    an_invalidation_that_fails_is_made_later,
    with_too_many_keys_nothing_is_served_until_all_were_dropped,
);
on_postgres!(a_write_that_may_still_commit_is_announced_late);

/// Lets the store receive no write or invalidation from now on.
fn reject_writes(faults: &Faults) {
    for operation in [Operation::Begin, Operation::End, Operation::Invalidate] {
        faults.fail(operation, u64::MAX);
    }
}

/// Lets the store receive them again.
fn accept_writes(faults: &Faults) {
    for operation in [
        Operation::Begin,
        Operation::End,
        Operation::Invalidate,
        Operation::Scan,
    ] {
        faults.fail(operation, 0);
    }
}

/// Returns whether the row is served from the cache, and its name.
async fn served<DB: Tested>(items: &ItemRepository<DB>, id: i64) -> (bool, String) {
    let outcome = items.find_outcome(id).await.unwrap();
    let name = outcome.row.unwrap().name.clone();
    (outcome.origin == Origin::Cache, name)
}

async fn is_cached<DB: Tested>(items: &ItemRepository<DB>, id: i64, name: &str) {
    eventually("the row is served from the cache", async || {
        let (cached, now) = served(items, id).await;
        assert_eq!(now, name, "the old row is never served");
        cached
    })
    .await;
}

async fn all_is_repaired(cache: &Cache) {
    until("everything is repaired", || {
        let repairs = cache.repairs();
        repairs.pending == 0 && !repairs.all_keys
    })
    .await;
}

async fn a_key_is_not_served_until_its_invalidation_is_delivered<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    world.put(&Item::new(2, "two")).await;
    let items = world.items();
    is_cached(&items, 1, "old").await;
    is_cached(&items, 2, "two").await;
    reject_writes(&world.faults);
    items.update(&Item::new(1, "new")).await.unwrap();
    assert_eq!(world.cache.repairs().pending, 1);
    let before = (items.stats(), world.faults.calls(Operation::Get));
    for _ in 0..5 {
        assert_eq!(served(&items, 1).await, (false, "new".to_owned()));
    }
    let after = items.stats();
    assert_eq!(after.blocked_reads - before.0.blocked_reads, 5);
    assert_eq!(world.faults.calls(Operation::Get), before.1, "nobody asked");
    assert_eq!(after.fills_accepted, before.0.fills_accepted);
    assert_eq!(
        served(&items, 2).await,
        (true, "two".to_owned()),
        "other keys are not concerned"
    );
    accept_writes(&world.faults);
    all_is_repaired(&world.cache).await;
    assert_eq!(world.cache.repairs().repaired, 1);
    is_cached(&items, 1, "new").await;
    is_cached(&world.items_elsewhere().await, 1, "new").await;
}

async fn without_repairs_the_old_row_is_served_again<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Repair);
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    is_cached(&items, 1, "old").await;
    reject_writes(&world.faults);
    items.update(&Item::new(1, "new")).await.unwrap();
    accept_writes(&world.faults);
    assert_eq!(
        served(&items, 1).await,
        (true, "old".to_owned()),
        "the scene must show what repairs prevent"
    );
}

async fn a_key_that_is_written_again_during_its_repair_is_repaired_again<DB: Tested>(
    world: &World<DB>,
) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    is_cached(&items, 1, "old").await;
    let first = world.faults.pause(Operation::Invalidate);
    let second = world.faults.pause(Operation::Invalidate);
    world.faults.fail(Operation::Begin, u64::MAX);
    world.faults.fail(Operation::End, u64::MAX);
    items.update(&Item::new(1, "newer")).await.unwrap();
    first.reached().await;
    items.update(&Item::new(1, "newest")).await.unwrap();
    first.resume();
    second.reached().await;
    assert_eq!(world.cache.repairs().repaired, 1);
    assert_eq!(
        world.cache.repairs().pending,
        1,
        "the repair of the first write says nothing about the second"
    );
    assert_eq!(served(&items, 1).await, (false, "newest".to_owned()));
    second.resume();
    accept_writes(&world.faults);
    all_is_repaired(&world.cache).await;
    is_cached(&items, 1, "newest").await;
}

async fn an_invalidation_that_fails_is_made_later<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    is_cached(&items, 1, "old").await;
    world.sql("UPDATE items SET name = 'new'").await;
    world.faults.fail(Operation::Invalidate, u64::MAX);
    assert_eq!(
        items.invalidate(1).await.unwrap_err().kind(),
        ErrorKind::CacheUnavailable
    );
    assert_eq!(served(&items, 1).await, (false, "new".to_owned()));
    assert_eq!(items.refresh(1).await.unwrap().unwrap().name, "new");
    accept_writes(&world.faults);
    is_cached(&items, 1, "new").await;
}

of_items! {
    /// Its keys are in one slot. The test gives it a namespace with characters that have a meaning in a pattern of `SCAN`.
    #[cached(
        hash_tag,
        jitter = 0,
        lease(ttl = "20s")
    )]
    struct Odd
}

/// Returns a cache that tracks this many keys.
async fn cache_for<DB: Tested>(world: &World<DB>, faults: &Faults, keys: usize) -> Cache {
    let builder = Cache::builder()
        .namespace(unique("repair"))
        .faults(faults)
        .max_tracked_invalidations(keys)
        .response_timeout(Duration::from_secs(10));
    match world.kind {
        Kind::Memory => builder.build().unwrap(),
        Kind::Redis | Kind::Sealed => builder
            .redis(redis_url())
            .listed(false)
            .connect()
            .await
            .unwrap(),
    }
}

async fn with_too_many_keys_nothing_is_served_until_all_were_dropped<DB: Tested>(
    world: &World<DB>,
) {
    let faults = Faults::new();
    let cache = cache_for(world, &faults, 3).await;
    let items = Item::repository(&cache, world.pool.clone());
    let namespace = unique(r"odd[a-z]*?\name");
    let odd = Odd::repository(
        &cache.with_namespace(&namespace).unwrap(),
        world.pool.clone(),
    );
    let ids: Vec<i64> = (0..10).collect();
    for id in &ids {
        world.put(&Item::new(*id, "old")).await;
        is_cached(&items, *id, "old").await;
        eventually("the odd row is cached", async || {
            odd.find_outcome(*id).await.unwrap().origin == Origin::Cache
        })
        .await;
    }
    let stranger = format!("{namespace}-stranger");
    if world.kind == Kind::Redis {
        let client = redis::Client::open(redis_url()).unwrap();
        let mut admin = client.get_multiplexed_async_connection().await.unwrap();
        let set = redis::cmd("SET").arg(&stranger).arg("mine").clone();
        set.exec_async(&mut admin).await.unwrap();
    }
    reject_writes(&faults);
    faults.fail(Operation::Scan, u64::MAX);
    for id in &ids[..4] {
        items.update(&Item::new(*id, "new")).await.unwrap();
        assert!(cache.repairs().pending <= 3, "the memory is bounded");
    }
    assert!(cache.repairs().all_keys);
    // A row that was not written is not served either: the backlog no longer lists the keys.
    assert_eq!(served(&items, ids[9]).await, (false, "old".to_owned()));
    assert_eq!(
        odd.find_outcome(ids[0]).await.unwrap().origin,
        Origin::Database
    );
    accept_writes(&faults);
    all_is_repaired(&cache).await;
    assert!(cache.repairs().full_scans >= 1);
    let store = cache.store();
    for id in &ids {
        for key in [items.inner().key(id).unwrap(), odd.inner().key(id).unwrap()] {
            assert_eq!(
                store.remaining_ms(&key).await.unwrap(),
                None,
                "{key} is gone"
            );
        }
    }
    for (at, id) in ids.iter().enumerate() {
        is_cached(&items, *id, if at < 4 { "new" } else { "old" }).await;
    }
    if world.kind == Kind::Redis {
        let client = redis::Client::open(redis_url()).unwrap();
        let mut admin = client.get_multiplexed_async_connection().await.unwrap();
        let taken = redis::cmd("GETDEL").arg(&stranger).clone();
        let taken: Option<String> = taken.query_async(&mut admin).await.unwrap();
        assert_eq!(taken.as_deref(), Some("mine"), "other keys are left alone");
    }
}

/// The write was neither announced nor answered, so it may be executed at any later time. When the store is reachable, its
/// intent is placed, so that no reader caches the row from before it.
async fn a_write_that_may_still_commit_is_announced_late(world: &World<Postgres>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    is_cached(&items, 1, "old").await;
    reject_writes(&world.faults);
    let cut = world
        .database
        .proxy()
        .cut(Point::BeforeReply, "marked by its name");
    let error = items
        .update(&Item::new(1, "marked by its name"))
        .await
        .unwrap_err();
    cut.sprung().await;
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
    assert!(!served(&items, 1).await.0);
    accept_writes(&world.faults);
    all_is_repaired(&world.cache).await;
    let key = items.inner().key(1).unwrap();
    let left = world.cache.store().remaining_ms(&key).await.unwrap();
    assert!(left.is_some_and(|left| left > 1_000), "{left:?}");
    let elsewhere = world.items_elsewhere().await;
    for items in [&items, &elsewhere] {
        assert!(!served(items, 1).await.0, "the intent keeps readers off");
    }
}

/// The reply with the old row is held until the write has returned.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_was_sent_before_the_write_is_not_served_after_it() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "old")).await;
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.address());
    let faults = Faults::new();
    let cache = Cache::builder()
        .redis(format!("redis://{}", proxy.address()))
        .listed(false)
        .response_timeout(Duration::from_secs(10))
        .faults(&faults)
        .connect()
        .await
        .unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    is_cached(&items, 1, "old").await;
    let held = proxy.hold(Point::BeforeReply, "\r\nGETRANGE\r\n");
    let read = tokio::spawn({
        let items = items.clone();
        async move { served(&items, 1).await }
    });
    held.sprung().await;
    reject_writes(&faults);
    items.update(&Item::new(1, "new")).await.unwrap();
    held.release();
    assert_eq!(read.await.unwrap(), (false, "new".to_owned()));
    world.database.close().await;
}

/// Rows are updated while Redis is frozen. The old entries in Redis must not be served afterwards. They are dropped one by
/// one, or beyond the limit all together. Returns what is served at first.
async fn updates_of_an_outage_win(keys: usize, faults: &Faults) -> Vec<(bool, String)> {
    const ROWS: i64 = 20;
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let mut server = RedisServer::start().await;
    let cache = Cache::builder()
        .redis(server.url())
        .listed(false)
        .response_timeout(Duration::from_millis(500))
        .max_tracked_invalidations(keys)
        .faults(faults)
        .connect()
        .await
        .unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    for id in 0..ROWS {
        world.put(&Item::new(id, "old")).await;
        is_cached(&items, id, "old").await;
    }
    server.freeze().await;
    for name in ["newer", "newest"] {
        for id in 0..ROWS {
            items.update(&Item::new(id, name)).await.unwrap();
            assert!(cache.repairs().pending <= keys);
            if !faults.disables(Mechanism::Repair) {
                assert_eq!(items.find(id).await.unwrap().unwrap().name, name);
            }
        }
    }
    server.thaw();
    eventually("Redis is back", async || cache.store().is_available()).await;
    let mut seen = Vec::new();
    for id in 0..ROWS {
        seen.push(served(&items, id).await);
    }
    all_is_repaired(&cache).await;
    if !faults.disables(Mechanism::Repair) {
        for id in 0..ROWS {
            is_cached(&items, id, "newest").await;
        }
        assert_eq!(cache.repairs().full_scans > 0, keys < 20);
    }
    world.database.close().await;
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_its_updates_win() {
    let seen = updates_of_an_outage_win(1_000, &Faults::new()).await;
    assert!(seen.iter().all(|(_, name)| name == "newest"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_its_updates_win_beyond_the_limit() {
    let seen = updates_of_an_outage_win(4, &Faults::new()).await;
    assert!(seen.iter().all(|(_, name)| name == "newest"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_repairs_an_outage_leaves_old_rows() {
    let faults = Faults::new();
    faults.leave_out(Mechanism::Repair);
    let seen = updates_of_an_outage_win(1_000, &faults).await;
    assert!(
        seen.contains(&(true, "old".to_owned())),
        "the scene must show what repairs prevent: {seen:?}"
    );
}
