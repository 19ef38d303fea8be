//! A Redis that does not answer: larder waits for it once, and then not until it answers a probe.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use larder::{
    Cache, Origin,
    store::{
        Mechanism, Store,
        faulty::{Faults, Operation},
    },
};
use larder_testing::{log, proxy::Proxy, redis_server::RedisServer, wire::Observer};
use sqlx::Sqlite;

use crate::{
    entities::Item,
    world::{Kind, World, at_once, eventually, unique, until},
};

/// The response time-out in these tests.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Long enough for one time-out on a slow machine, and too short for two.
const ONE_TIMEOUT: Duration = Duration::from_millis(3_600);

async fn world(rows: i64) -> World<Sqlite> {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    for id in 0..rows {
        world.put(&Item::new(id, "old")).await;
    }
    world
}

async fn cache(url: String, faults: &Faults) -> Cache {
    Cache::builder()
        .redis(url)
        .listed(false)
        .namespace(unique("breaker"))
        .response_timeout(TIMEOUT)
        .connect_timeout(TIMEOUT)
        .faults(faults)
        .connect()
        .await
        .unwrap()
}

/// Some rows are cached and some are not, so the reads are at all steps when the server freezes.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_reads_none_waits_for_a_frozen_server_twice() {
    const ROWS: usize = 40;
    let world = world(ROWS as i64).await;
    let mut server = RedisServer::start().await;
    let cache = cache(server.url(), &Faults::new()).await;
    let items = Item::repository(&cache, world.pool.clone());
    for id in 0..ROWS / 2 {
        world.warm(&items, id as i64).await;
    }
    server.freeze().await;
    let waits = at_once(ROWS, |id| {
        let items = items.clone();
        async move {
            let began = tokio::time::Instant::now();
            assert_eq!(items.find(id as i64).await.unwrap().unwrap().name, "old");
            began.elapsed()
        }
    })
    .await;
    let longest = waits.into_iter().max().unwrap();
    assert!(longest < ONE_TIMEOUT, "{longest:?} are two time-outs");
    let again = tokio::time::Instant::now();
    for id in 0..ROWS {
        items.find(id as i64).await.unwrap();
        items.update(&Item::new(id as i64, "new")).await.unwrap();
    }
    assert!(
        again.elapsed() < TIMEOUT,
        "what comes later does not wait at all"
    );
    world.database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_breaker_every_read_waits() {
    let world = world(1).await;
    let mut server = RedisServer::start().await;
    let faults = Faults::new();
    faults.leave_out(Mechanism::Breaker);
    let cache = cache(server.url(), &faults).await;
    let items = Item::repository(&cache, world.pool.clone());
    server.freeze().await;
    let began = tokio::time::Instant::now();
    items.find(0).await.unwrap();
    items.find(0).await.unwrap();
    let waited = began.elapsed();
    assert!(
        waited > ONE_TIMEOUT,
        "the scene must show what the breaker prevents: {waited:?}"
    );
    world.database.close().await;
}

/// A caller that has waited for its own command does not also wait for the command of the load that it joins.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_has_waited_does_not_wait_for_the_load_of_another() {
    let world = world(1).await;
    let mut server = RedisServer::start().await;
    let faults = Faults::new();
    let cache = cache(server.url(), &faults).await;
    let items = Item::repository(&cache, world.pool.clone());
    let acquire = faults.pause(Operation::Acquire);
    let find = |items: larder::Repository<Item, Sqlite>| async move {
        let began = tokio::time::Instant::now();
        items.find(0).await.unwrap();
        began.elapsed()
    };
    let first = tokio::spawn(find(items.inner().clone()));
    acquire.reached().await;
    server.freeze().await;
    let second = tokio::spawn(find(items.inner().clone()));
    // The later the load asks for the lease, the longer its caller would wait.
    tokio::time::sleep(TIMEOUT * 9 / 10).await;
    acquire.resume();
    let waited = second.await.unwrap();
    assert!(waited < TIMEOUT * 3 / 2, "{waited:?} are two time-outs");
    first.await.unwrap();
    world.database.close().await;
}

/// Counts the requests of one kind on the connection.
struct Requests(Arc<AtomicUsize>);

impl Observer for Requests {
    fn request(&mut self, bytes: &[u8]) {
        let gets = bytes
            .windows(14)
            .filter(|part| part == b"$8\r\nGETRANGE\r\n");
        self.0.fetch_add(gets.count(), Ordering::SeqCst);
    }

    fn reply(&mut self, _bytes: &[u8]) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_sends_nothing_closes_by_itself_and_loses_no_update() {
    log::listen();
    let world = world(1).await;
    let mut server = RedisServer::start().await;
    let gets = Arc::new(AtomicUsize::new(0));
    let proxy = Proxy::start_observed(server.address(), {
        let gets = Arc::clone(&gets);
        Some(Box::new(move || Box::new(Requests(Arc::clone(&gets)))))
    });
    let cache = cache(format!("redis://{}", proxy.address()), &Faults::new()).await;
    let items = Item::repository(&cache, world.pool.clone());
    world.warm(&items, 0).await;
    assert_eq!(items.find_outcome(0).await.unwrap().origin, Origin::Cache);
    server.freeze().await;
    items.find(0).await.unwrap();
    let sent = gets.load(Ordering::SeqCst);
    assert!(sent >= 2, "the observer sees them: {sent}");
    for round in 0..100 {
        let name = format!("round {round}");
        items.update(&Item::new(0, &name)).await.unwrap();
        assert_eq!(items.find(0).await.unwrap().unwrap().name, name);
    }
    assert_eq!(gets.load(Ordering::SeqCst), sent, "nobody asks meanwhile");
    assert_eq!(log::lines(proxy.address()), [(true, "TIMEOUT".to_owned())]);
    server.thaw();
    eventually("the row is served from the cache", async || {
        let outcome = items.find_outcome(0).await.unwrap();
        assert_eq!(outcome.row.unwrap().name, "round 99");
        outcome.origin == Origin::Cache
    })
    .await;
    assert_eq!(
        log::lines(proxy.address()),
        [(true, "TIMEOUT".to_owned()), (false, "TIMEOUT".to_owned())]
    );
    world.database.close().await;
}

/// A server that is busy for a while answers the probe, and keeps its connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_only_slow_keeps_its_connection() {
    let world = world(1).await;
    let mut server = RedisServer::start().await;
    let cache = cache(server.url(), &Faults::new()).await;
    let items = Item::repository(&cache, world.pool.clone());
    world.warm(&items, 0).await;
    let run = cache.store().connection_number();
    server.freeze().await;
    items.find(0).await.unwrap();
    assert!(!cache.store().is_available());
    server.thaw();
    until("the breaker closes", || cache.store().is_available()).await;
    assert_eq!(cache.store().connection_number(), run);
    assert_eq!(items.find_outcome(0).await.unwrap().origin, Origin::Cache);
    world.database.close().await;
}

/// A connection to a server that does not answer for longer is dropped, and made again later.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_replaced() {
    let world = world(1).await;
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.address());
    let cache = Cache::builder()
        .redis(format!("redis://{}", proxy.address()))
        .listed(false)
        .response_timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    world.warm(&items, 0).await;
    let run = cache.store().connection_number();
    proxy.blackhole();
    until("the silence is noticed without a read", || {
        !cache.store().is_available()
    })
    .await;
    proxy.heal();
    until("there is another connection", || {
        cache.store().is_available() && cache.store().connection_number() != run
    })
    .await;
    assert_eq!(items.find_outcome(0).await.unwrap().origin, Origin::Cache);
    world.database.close().await;
}
