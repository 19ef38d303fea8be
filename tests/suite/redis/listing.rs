//! Processes and entities list themselves in Redis, and can be paused from there.

use std::collections::HashMap;

use larder::{
    Cache, Cached, Codec, Origin,
    listing::{ListedEntity, ListedProcess, Switches},
};
use larder_testing::{log, redis_server::RedisServer};
use redis::{FromRedisValue, Value};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

use crate::{
    entities::{Behind, Item},
    world::{Kind, World, eventually, unique},
};

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items", ttl = "10m", tags("name:{name}"))]
struct Shelf {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    name: String,
}

/// Returns a hash of the server, with its values as a type.
async fn hash<T: for<'d> Deserialize<'d>>(server: &RedisServer, key: &str) -> HashMap<String, T> {
    let texts = server.command(&["HGETALL", key]).await.unwrap();
    let texts = HashMap::<String, String>::from_redis_value(texts).unwrap();
    let values = texts.into_iter();
    values
        .map(|(field, text)| (field, serde_json::from_str(&text).unwrap()))
        .collect()
}

async fn cache_at(url: String) -> Cache {
    let builder = Cache::builder().redis(url).namespace("shop");
    builder.connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_entities_are_listed_and_can_be_paused() {
    let server = RedisServer::start().await;
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    let cache = cache_at(server.url()).await;
    let shelves = Shelf::repository(&cache, world.pool.clone());
    let tenant = cache.with_namespace("tenant").unwrap();
    let queue = Behind::repository(&tenant, world.pool.clone());
    eventually("all entities are listed", async || {
        hash::<ListedEntity>(&server, "shop:@entities").await.len() == 2
    })
    .await;
    let entities = hash::<ListedEntity>(&server, "shop:@entities").await;
    let shelf = &entities["Shelf"];
    assert_eq!(
        (&*shelf.table, &*shelf.database, &*shelf.prefix),
        ("items", "sqlite", "shop:Shelf:")
    );
    assert_eq!(
        (&*shelf.strategy, &*shelf.coherence, shelf.codec()),
        ("aside", "intent", Some(Codec::default()))
    );
    assert_eq!(shelf.id, ["id"]);
    assert_eq!(shelf.columns[1].0, "name");
    assert_eq!(shelf.lookups[0].columns, ["name"]);
    assert_eq!((shelf.tags.len(), shelf.ttl_ms), (1, 600_000));
    assert_eq!(shelf.larder, env!("CARGO_PKG_VERSION"));
    let behind = &entities["tenant:Behind"];
    assert_eq!(behind.queue.as_ref().unwrap().name, "tenant:Behind/4");
    assert_eq!(behind.prefix, "{tenant:Behind/4:p00}:");
    drop(queue);

    for _ in 0..3 {
        shelves.find(1).await.unwrap();
    }
    let listed = async || {
        let processes = hash::<ListedProcess>(&server, "shop:@processes").await;
        assert!(processes.len() <= 1, "{processes:?}");
        processes.into_values().next().unwrap_or_default()
    };
    eventually("the reads are listed", async || {
        let process = listed().await;
        process
            .entities
            .iter()
            .any(|counts| counts.entity == "Shelf" && counts.reads == 3 && counts.loads >= 1)
    })
    .await;
    let process = listed().await;
    assert_eq!((process.pid, &*process.health), (std::process::id(), "ok"));
    assert!(process.seen_ms > 1_700_000_000_000);
    let time_to_live = async |key: &str| {
        let left = server.command(&["PTTL", key]).await.unwrap();
        i64::from_redis_value(left).unwrap()
    };
    assert!((0..=604_800_000).contains(&time_to_live("shop:@entities").await));
    assert!((0..=3_600_000).contains(&time_to_live("shop:@processes").await));

    let origin = async || shelves.find_outcome(1).await.unwrap().origin;
    assert_eq!(origin().await, Origin::Cache);
    let paused = serde_json::to_string(&Switches {
        reads: true,
        fills: false,
    });
    let set = ["HSET", "shop:@switches", "Shelf", &paused.unwrap()];
    server.command(&set).await.unwrap();
    eventually("reads are paused", async || {
        origin().await == Origin::Database
    })
    .await;
    assert_eq!(cache.health().to_string(), "reads of Shelf are paused");
    shelves.resume_reads();
    assert_eq!(
        origin().await,
        Origin::Database,
        "it is paused from outside"
    );
    server
        .command(&["HDEL", "shop:@switches", "Shelf"])
        .await
        .unwrap();
    eventually("reads are resumed", async || {
        origin().await == Origin::Cache
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_not_to_be_listed_is_not() {
    let server = RedisServer::start().await;
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let builder = Cache::builder().redis(server.url()).namespace("shop");
    let cache = builder.listed(false).connect().await.unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    world.warm(&items, 1).await;
    // It would have been listed before this one, which is created later.
    let listed = Item::repository(
        &cache_at(server.url())
            .await
            .with_namespace(unique("t"))
            .unwrap(),
        world.pool.clone(),
    );
    eventually("the other is listed", async || {
        hash::<ListedProcess>(&server, "shop:@processes")
            .await
            .len()
            == 1
    })
    .await;
    let processes = hash::<ListedProcess>(&server, "shop:@processes").await;
    assert_eq!(processes.len(), 1);
    drop(listed);
}

/// Without the rights, one line is logged, and all else works.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_rights_is_told_once() {
    log::listen();
    let server = RedisServer::start().await;
    let user = "ACL SETUSER shop on >secret ~* &* +@all -hgetall";
    let words: Vec<_> = user.split(' ').collect();
    server.command(&words).await.unwrap();
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let url = server.url().replace("redis://", "redis://shop:secret@");
    let cache = cache_at(url).await;
    let items = Item::repository(&cache, world.pool.clone());
    let refused = async || {
        let log = server.command(&["ACL", "LOG"]).await.unwrap();
        Vec::<Value>::from_redis_value(log).unwrap().len()
    };
    eventually("it is refused", async || refused().await == 1).await;
    world.warm(&items, 1).await;
    let again = Item::repository(&cache, world.pool.clone());
    again.find(1).await.unwrap();
    assert!(cache.health().is_ok(), "{}", cache.health());
    let message = "this process is not listed for the command `larder`, because Redis refuses it; grant the rights in \
                   docs/operations.md, or set `CacheBuilder::listed(false)`";
    let lines = || log::lines_with("message", message).len();
    eventually("it is told", async || lines() > 0).await;
    assert_eq!(lines(), 1);
}
