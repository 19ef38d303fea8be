//! The health of a cache: it says what is wrong, for how long, and when it is over.

use std::time::Duration;

use larder::{Cache, ProblemKind, StoreStatus};
use larder_testing::redis_server::RedisServer;
use sqlx::Sqlite;

use crate::{
    entities::Item,
    world::{Kind, World, eventually, unique},
};

/// Returns the kinds of the problems of a cache.
fn kinds(cache: &Cache) -> Vec<ProblemKind> {
    let problems = cache.health().problems;
    problems.iter().map(|problem| problem.kind).collect()
}

async fn cache_at(url: &str) -> Cache {
    let builder = Cache::builder()
        .redis(url)
        .listed(false)
        .namespace(unique("health"));
    let builder = builder
        .connect_timeout(Duration::from_millis(500))
        .response_timeout(Duration::from_millis(500));
    builder.connect().await.unwrap()
}

#[test]
fn an_in_process_cache_is_well() {
    let health = Cache::in_process().health();
    assert_eq!(health.store, StoreStatus::InProcess);
    assert_eq!((health.is_ok(), &*health.to_string()), (true, "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_and_comes_back_is_told() {
    let mut server = RedisServer::start().await;
    let cache = cache_at(&server.url()).await;
    assert_eq!(cache.health().store, StoreStatus::Usable);
    assert_eq!(kinds(&cache), []);
    server.stop().await;
    eventually("it is away", async || {
        cache.health().store == StoreStatus::Away
    })
    .await;
    let first = cache.health();
    assert_eq!(kinds(&cache), [ProblemKind::StoreAway]);
    assert!(
        first.to_string().contains(&server.address().to_string()),
        "{first}"
    );
    let before = first.problems[0].lasts.expect("it is known since when");
    eventually("the time goes on", async || {
        cache.health().problems[0].lasts.unwrap() > before
    })
    .await;
    server.restart().await;
    eventually("it is usable again", async || cache.health().is_ok()).await;
    assert_eq!(cache.health().store, StoreStatus::Usable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_starts_without_redis_says_so() {
    let mut server = RedisServer::start().await;
    server.stop().await;
    let cache = cache_at(&server.url()).await;
    assert_eq!(cache.health().store, StoreStatus::Away);
    assert_eq!(kinds(&cache), [ProblemKind::StoreAway]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_away() {
    let mut server = RedisServer::start().await;
    let cache = cache_at(&server.url()).await;
    server.freeze().await;
    eventually("it is away", async || {
        cache.health().store == StoreStatus::Away
    })
    .await;
    server.thaw();
    eventually("it is usable again", async || cache.health().is_ok()).await;
}

/// A primary that needs a replica and has none accepts no writes. It may have been replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_accepts_no_writes_is_not_trusted() {
    let server = RedisServer::start_with(&["--min-replicas-to-write", "1"]).await;
    let cache = cache_at(&server.url()).await;
    eventually("it is not trusted", async || {
        cache.health().store == StoreStatus::NotTrusted
    })
    .await;
    assert_eq!(
        kinds(&cache).first(),
        Some(&ProblemKind::StoreNotTrusted),
        "{}",
        cache.health()
    );
    server
        .command(&["CONFIG", "SET", "min-replicas-to-write", "0"])
        .await
        .unwrap();
    eventually("it is trusted", async || {
        cache.health().store == StoreStatus::Usable
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidations_that_wait_and_rejected_commands_are_told() {
    let mut server = RedisServer::start().await;
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    let cache = cache_at(&server.url()).await;
    let items = Item::repository(&cache, world.pool.clone());
    world.warm(&items, 1).await;
    server
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .await
        .unwrap();
    items.find(2).await.unwrap();
    eventually("commands are rejected", async || {
        kinds(&cache).contains(&ProblemKind::CommandsRefused)
    })
    .await;
    assert!(cache.health().to_string().contains("OOM"));
    assert_eq!(cache.health().store, StoreStatus::Usable);
    server
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .await
        .unwrap();
    server.stop().await;
    items.update(&Item::new(1, "two")).await.unwrap();
    assert!(
        kinds(&cache).contains(&ProblemKind::InvalidationsPending),
        "{}",
        cache.health()
    );
    server.restart().await;
    eventually("all is well", async || {
        items.find(1).await.unwrap();
        cache.health().is_ok()
    })
    .await;
}
