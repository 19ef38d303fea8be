//! The options of one read: how old an entry may be, how long a new one lives, and how long the caller waits.

use std::time::Duration;

use larder::{
    Cache, Clock, ErrorKind, Origin, Outcome,
    store::{Mechanism, faulty::Operation},
};

use crate::{
    entities::{Behind, Item, ItemRepository, of_items},
    world::{Tested, World, at_once, eventually, filled, on_both_stores, until},
};

on_both_stores!(
    a_read_without_options_is_still_a_future,
    the_time_to_live_of_a_call_is_that_of_the_entry_it_fills,
    the_time_to_live_of_a_call_is_jittered,
    a_call_does_not_prolong_what_only_the_time_to_live_ends,
    a_time_to_live_without_bounds_is_one_of_a_hundred_years,
    a_follower_gets_the_entry_of_its_leader,
    a_bypass_neither_reads_nor_fills_the_cache,
    a_refresh_replaces_an_entry_that_could_be_served,
    an_entry_older_than_the_maximum_is_loaded_anew,
    an_absence_older_than_the_maximum_is_loaded_anew,
    entries_of_any_age_are_served_without_the_comparison,
    callers_that_find_an_entry_too_old_share_one_load,
    a_caller_with_a_maximum_takes_no_old_entry_from_the_load_of_another,
    a_caller_without_the_comparison_takes_an_old_entry_from_the_load_of_another,
    a_queued_write_is_served_whatever_its_age,
    a_timeout_names_the_row_and_the_load_continues_for_others,
    a_timeout_of_the_only_caller_leaves_no_load_behind,
    a_bypass_ends_in_time_too,
    without_the_timeout_a_caller_waits_for_the_load,
);

/// Returns the items of a world in a cache with a clock that the test controls.
async fn manual<DB: Tested>(world: &World<DB>, clock: &Clock) -> (Cache, ItemRepository<DB>) {
    let cache = world.cache_with(clock.clone()).await;
    let items = Item::repository(&cache, world.pool.clone());
    (cache, items)
}

/// Returns how long the entry of a row still lives.
async fn left<DB: Tested>(cache: &Cache, items: &ItemRepository<DB>, id: i64) -> Option<Duration> {
    let key = items.inner().key(id).unwrap();
    let left = cache.store().remaining_ms(&key).await.unwrap();
    left.map(Duration::from_millis)
}

/// Renames a row without larder.
async fn rename<DB: Tested>(world: &World<DB>, id: i64, name: &str) {
    let text = format!("UPDATE items SET name = '{name}' WHERE id = {id}");
    world.sql(text).await;
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn a_read_without_options_is_still_a_future<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let (one, none) = Box::pin(futures_of(items.find(1), items.find(&2))).await;
    assert_eq!(one.unwrap().unwrap().name, "one");
    assert_eq!(none.unwrap(), None);
    let spawned = tokio::spawn({
        let items = items.clone();
        async move { tokio::time::timeout(secs(20), items.find_outcome(1)).await }
    });
    let outcome = spawned.await.unwrap().unwrap().unwrap();
    assert_eq!(outcome.row.unwrap().name, "one");
}

/// Compiles only if both are futures.
async fn futures_of<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    tokio::join!(one, other)
}

async fn the_time_to_live_of_a_call_is_that_of_the_entry_it_fills<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    items.find(1).ttl(secs(60)).await.unwrap().unwrap();
    filled(|| items.stats()).await;
    let first = left(&world.cache, &items, 1).await.unwrap();
    assert!(first <= secs(60) && first > secs(30), "{first:?}");
    // A hit does not change the entry.
    let outcome = items.find_outcome(1).ttl(secs(3_000)).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    assert!(left(&world.cache, &items, 1).await.unwrap() <= first);
    items.find(1).refresh().ttl(secs(3_000)).await.unwrap();
    filled(|| items.stats()).await;
    let longer = left(&world.cache, &items, 1).await.unwrap();
    assert!(longer > secs(2_900), "{longer:?}");
    // An absence lives no longer than the policy says, and may live shorter.
    for (id, ttl, most) in [(404, 3_000, 30), (405, 5, 5)] {
        assert_eq!(items.find(id).ttl(secs(ttl)).await.unwrap(), None);
        filled(|| items.stats()).await;
        let left = left(&world.cache, &items, id).await.unwrap();
        assert!(left <= secs(most), "{left:?}");
    }
}

of_items! {
    #[cached(ttl = "10m", jitter = 0.4)]
    struct Jittered
}

async fn the_time_to_live_of_a_call_is_jittered<DB: Tested>(world: &World<DB>) {
    let rows = Jittered::repository(&world.cache, world.pool.clone());
    let mut times = Vec::new();
    for id in 0..20 {
        world.put(&Item::new(id, "one")).await;
        rows.find(id).ttl(secs(1_000)).await.unwrap();
        filled(|| rows.stats()).await;
        let key = rows.inner().key(id).unwrap();
        times.push(
            world
                .cache
                .store()
                .remaining_ms(&key)
                .await
                .unwrap()
                .unwrap(),
        );
    }
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*least > 570_000 && *most <= 1_000_000, "{times:?}");
    assert!(most - least > 60_000, "they expire together: {times:?}");
}

of_items! {
    #[cached(ttl = "10m", coherence = "ttl", jitter = 0)]
    struct Bounded
}

async fn a_call_does_not_prolong_what_only_the_time_to_live_ends<DB: Tested>(world: &World<DB>) {
    let rows = Bounded::repository(&world.cache, world.pool.clone());
    let key = rows.inner().key(1).unwrap();
    world.put(&Item::new(1, "one")).await;
    for (ttl, most) in [(3_000, 600), (60, 60)] {
        rows.find(1).refresh().ttl(secs(ttl)).await.unwrap();
        filled(|| rows.stats()).await;
        let left = world.cache.store().remaining_ms(&key).await.unwrap();
        let left = Duration::from_millis(left.unwrap());
        assert!(left <= secs(most) && left > secs(most / 2), "{left:?}");
    }
}

async fn a_time_to_live_without_bounds_is_one_of_a_hundred_years<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    items.find(1).ttl(Duration::MAX).await.unwrap();
    filled(|| items.stats()).await;
    let years = left(&world.cache, &items, 1).await.unwrap().as_secs() / 86_400 / 365;
    assert!((99..=100).contains(&years), "{years}");
    // None at all is the shortest one.
    items.find(1).refresh().ttl(Duration::ZERO).await.unwrap();
    filled(|| items.stats()).await;
    eventually("the entry has expired", async || {
        left(&world.cache, &items, 1).await.is_none()
    })
    .await;
    assert_eq!(items.stats().store_errors, 0);
}

async fn a_follower_gets_the_entry_of_its_leader<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let gate = world.close_gate().await;
    let read = |ttl| {
        let items = items.clone();
        tokio::spawn(async move { items.find(1).ttl(secs(ttl)).await })
    };
    let leader = read(60);
    until("it leads", || items.stats().misses == 1).await;
    let follower = read(3_000);
    until("it follows", || items.stats().misses == 2).await;
    drop(gate);
    leader.await.unwrap().unwrap().unwrap();
    follower.await.unwrap().unwrap().unwrap();
    filled(|| items.stats()).await;
    assert_eq!(items.stats().loads, 1);
    assert!(left(&world.cache, &items, 1).await.unwrap() <= secs(60));
}

async fn a_bypass_neither_reads_nor_fills_the_cache<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let row = items.find(1).bypass().await.unwrap();
    assert_eq!(row.unwrap().name, "one");
    let calls = [Operation::Get, Operation::Acquire, Operation::Fill];
    assert_eq!(calls.map(|call| world.faults.calls(call)), [0, 0, 0]);
    assert_eq!(left(&world.cache, &items, 1).await, None);
    world.warm(&items, 1).await;
    rename(world, 1, "uno").await;
    let outcome = items.find_outcome(1).bypass().await.unwrap();
    assert_eq!(outcome.origin, Origin::Database);
    assert_eq!(outcome.row.unwrap().name, "uno");
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
}

async fn a_refresh_replaces_an_entry_that_could_be_served<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    rename(world, 1, "uno").await;
    let row = items.find(1).refresh().await.unwrap();
    assert_eq!(row.unwrap().name, "uno");
    filled(|| items.stats()).await;
    let outcome = items.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    assert_eq!(outcome.row.unwrap().name, "uno");
}

async fn an_entry_older_than_the_maximum_is_loaded_anew<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let clock = Clock::manual();
    let (cache, items) = manual(world, &clock).await;
    world.warm(&items, 1).await;
    rename(world, 1, "uno").await;
    clock.advance(secs(60));
    let outcome = items.find_outcome(1).max_age(secs(60)).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    assert_eq!(outcome.age, secs(60));
    let hits = items.stats().hits;
    let read = items.find_outcome(1).max_age(secs(59)).ttl(secs(100));
    let outcome = read.await.unwrap();
    assert_eq!(outcome.origin, Origin::Database);
    assert_eq!(outcome.row.unwrap().name, "uno");
    filled(|| items.stats()).await;
    assert_eq!(items.stats().hits, hits, "it was no hit");
    assert!(left(&cache, &items, 1).await.unwrap() <= secs(100));
    let outcome = items.find_outcome(1).max_age(Duration::ZERO).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache, "it has just been loaded");
    assert_eq!(outcome.row.unwrap().name, "uno");
}

async fn an_absence_older_than_the_maximum_is_loaded_anew<DB: Tested>(world: &World<DB>) {
    let clock = Clock::manual();
    let (_cache, items) = manual(world, &clock).await;
    world.warm(&items, 1).await;
    world.put(&Item::new(1, "one")).await;
    clock.advance(secs(10));
    assert_eq!(items.find(1).max_age(secs(10)).await.unwrap(), None);
    let row = items.find(1).max_age(secs(9)).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
}

/// The control of `an_entry_older_than_the_maximum_is_loaded_anew`.
async fn entries_of_any_age_are_served_without_the_comparison<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::MaxAge);
    world.put(&Item::new(1, "one")).await;
    let clock = Clock::manual();
    let (_cache, items) = manual(world, &clock).await;
    world.warm(&items, 1).await;
    rename(world, 1, "uno").await;
    clock.advance(secs(60));
    let row = items.find(1).max_age(secs(59)).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
}

async fn callers_that_find_an_entry_too_old_share_one_load<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let clock = Clock::manual();
    let (_cache, items) = manual(world, &clock).await;
    world.warm(&items, 1).await;
    rename(world, 1, "uno").await;
    clock.advance(secs(60));
    let before = items.stats();
    let gate = world.close_gate().await;
    let callers = tokio::spawn({
        let items = items.clone();
        async move {
            at_once(100, |_| {
                let items = items.clone();
                async move { items.find(1).max_age(secs(1)).await }
            })
            .await
        }
    });
    until("all callers have missed", || {
        items.stats().misses == before.misses + 100
    })
    .await;
    drop(gate);
    for row in callers.await.unwrap() {
        assert_eq!(row.unwrap().unwrap().name, "uno");
    }
    assert_eq!(items.stats().loads, before.loads + 1);
}

async fn a_caller_with_a_maximum_takes_no_old_entry_from_the_load_of_another<DB: Tested>(
    world: &World<DB>,
) {
    let outcome = follow_an_old_entry(world).await;
    assert_eq!(outcome.origin, Origin::Database);
    assert_eq!(outcome.row.unwrap().name, "uno");
}

/// The control of it.
async fn a_caller_without_the_comparison_takes_an_old_entry_from_the_load_of_another<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::MaxAge);
    let outcome = follow_an_old_entry(world).await;
    assert_eq!((outcome.origin, outcome.age), (Origin::Cache, secs(60)));
    assert_eq!(outcome.row.unwrap().name, "one");
}

/// A caller with a maximum fails to look. It joins a load that finds an entry when it looks for the second time. Returns what
/// the caller gets.
async fn follow_an_old_entry<DB: Tested>(world: &World<DB>) -> Outcome<Item> {
    world.put(&Item::new(1, "one")).await;
    let clock = Clock::manual();
    let (cache, items) = manual(world, &clock).await;
    let acquire = world.faults.pause(Operation::Acquire);
    let leader = tokio::spawn({
        let items = items.clone();
        async move { items.find_outcome(1).await }
    });
    acquire.reached().await;
    // Another repository of the same rows takes the lease before.
    let gate = world.close_gate().await;
    let others = Item::repository(&cache, world.pool.clone());
    let other = tokio::spawn({
        let others = others.clone();
        async move { others.find(1).await }
    });
    eventually("the lease is taken", async || {
        left(&cache, &items, 1).await.is_some()
    })
    .await;
    world.faults.fail(Operation::Get, 1);
    let follower = tokio::spawn({
        let items = items.clone();
        async move { items.find_outcome(1).max_age(secs(1)).await }
    });
    until("it follows", || items.stats().misses == 2).await;
    let wait = world.faults.pause(Operation::Wait);
    acquire.resume();
    wait.reached().await;
    drop(gate);
    other.await.unwrap().unwrap();
    filled(|| others.stats()).await;
    rename(world, 1, "uno").await;
    clock.advance(secs(60));
    wait.resume();
    let outcome = leader.await.unwrap().unwrap();
    assert_eq!((outcome.origin, outcome.age), (Origin::Cache, secs(60)));
    follower.await.unwrap().unwrap()
}

/// The database does not have it yet.
async fn a_queued_write_is_served_whatever_its_age<DB: Tested>(world: &World<DB>) {
    let clock = Clock::manual();
    let (cache, _items) = manual(world, &clock).await;
    let rows = Behind::repository(&cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&Behind::new(1, "one")).await.unwrap();
    clock.advance(secs(60));
    let row = rows.find(1).max_age(secs(1)).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
    let row = rows.find(1).refresh().ttl(secs(9)).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
    assert_eq!(rows.find(1).bypass().await.unwrap(), None);
    assert_eq!(rows.pending().await.unwrap().count, 1);
    rows.flush().await.unwrap();
    let row = rows.find(1).max_age(secs(1)).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
    let row = rows.find(1).bypass().await.unwrap();
    assert_eq!(row.unwrap().name, "one");
}

async fn a_timeout_names_the_row_and_the_load_continues_for_others<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let gate = world.close_gate().await;
    let patient = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    until("a load waits", || items.stats().misses == 1).await;
    let timeout = Duration::from_millis(30);
    let error = items.find(1).timeout(timeout).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    let text = error.to_string();
    assert!(
        text.contains("Item") && text.contains(":1") && text.contains("30ms"),
        "{text}"
    );
    drop(gate);
    let row = patient.await.unwrap().unwrap();
    assert_eq!(row.unwrap().name, "one");
    filled(|| items.stats()).await;
    assert_eq!(items.stats().fills_accepted, 1);
    let row = items.find(1).timeout(secs(20)).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
}

async fn a_timeout_of_the_only_caller_leaves_no_load_behind<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let before = world.database.statements();
    let gate = world.close_gate().await;
    let read = items.find(1).timeout(Duration::from_millis(30));
    let error = read.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    drop(gate);
    until("the load gives up", || items.stats().abandoned_loads == 1).await;
    assert_eq!(world.database.statements(), before);
    assert_eq!(left(&world.cache, &items, 1).await, None);
    world.warm(&items, 1).await;
}

async fn a_bypass_ends_in_time_too<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let gate = world.close_gate().await;
    let read = items.find(1).bypass().timeout(Duration::from_millis(30));
    let error = read.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    drop(gate);
    let row = items.find(1).bypass().timeout(secs(20)).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
}

async fn without_the_timeout_a_caller_waits_for_the_load<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::CallTimeout);
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let gate = world.close_gate().await;
    let read = items.find(1).timeout(Duration::from_millis(30));
    let mut read = std::pin::pin!(read.into_future());
    // Much later it is still waiting.
    let much_later = tokio::time::timeout(Duration::from_millis(300), &mut read);
    assert!(much_later.await.is_err(), "nothing ends it");
    drop(gate);
    assert_eq!(read.await.unwrap().unwrap().name, "one");
}
