//! Servers that reject commands: no request fails, other commands continue, and each problem is logged once when it begins
//! and once when it ends.

use std::time::Duration;

use larder::{Cache, Origin};
use larder_testing::{log, redis_server::RedisServer};
use sqlx::Sqlite;

use crate::{
    entities::{Item, ItemRepository},
    world::{Kind, World, eventually, unique},
};

struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    items: ItemRepository<Sqlite>,
}

async fn cache_at(url: String) -> Cache {
    Cache::builder()
        .redis(url)
        .listed(false)
        .namespace(unique("refusals"))
        .response_timeout(Duration::from_secs(10))
        .connect()
        .await
        .unwrap()
}

/// A server, and a table with two rows of which row 1 is cached.
async fn scene(options: &[&str]) -> Scene {
    log::listen();
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    world.put(&Item::new(2, "two")).await;
    let server = RedisServer::start_with(options).await;
    let items = Item::repository(&cache_at(server.url()).await, world.pool.clone());
    world.warm(&items, 1).await;
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    assert_eq!(log::lines(server.address()), []);
    Scene {
        world,
        server,
        items,
    }
}

impl Scene {
    async fn admin(&self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        self.server.command(&words).await.unwrap();
    }

    /// Checks that many reads and writes of a row that is not cached succeed.
    async fn works(&self) {
        for round in 0..20 {
            let name = format!("round {round}");
            self.items.update(&Item::new(2, &name)).await.unwrap();
            assert_eq!(self.items.find(2).await.unwrap().unwrap().name, name);
            assert_eq!(self.items.find(404).await.unwrap(), None);
        }
    }

    /// Reads until the row is served from the cache.
    async fn caches(&self) {
        eventually("the row is served from the cache", async || {
            self.items.find_outcome(2).await.unwrap().origin == Origin::Cache
        })
        .await;
    }

    /// Reads until this many lines are logged, and compares them. A line is a code, with an exclamation mark if a problem
    /// begins.
    async fn logged(&self, lines: &[&str]) {
        let now = || -> Vec<String> {
            let lines = log::lines(self.server.address()).into_iter();
            lines
                .map(|(trouble, code)| if trouble { code + "!" } else { code })
                .collect()
        };
        eventually("it is logged", async || {
            self.items.invalidate(2).await.ok();
            self.items.find(2).await.unwrap();
            now().len() >= lines.len()
        })
        .await;
        assert_eq!(now(), lines);
    }

    async fn hits(&self) -> bool {
        self.items.find_outcome(1).await.unwrap().origin == Origin::Cache
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_memory_full_hits_continue_and_one_line_is_logged() {
    let scene = scene(&[]).await;
    scene.admin("CONFIG SET maxmemory 1").await;
    scene.works().await;
    assert!(scene.hits().await, "reading needs no memory");
    scene.logged(&["OOM!"]).await;
    scene.admin("CONFIG SET maxmemory 0").await;
    scene.logged(&["OOM!", "OOM"]).await;
    scene.caches().await;
    scene.world.database.close().await;
}

/// A primary whose replicas are missing may have a successor, so nothing is served from it.
#[tokio::test(flavor = "multi_thread")]
async fn with_replicas_missing_nothing_is_served_and_one_line_is_logged() {
    let scene = scene(&[]).await;
    scene.admin("CONFIG SET min-replicas-to-write 1").await;
    eventually("row 1 is not served any more", async || {
        scene.works().await;
        !scene.hits().await
    })
    .await;
    scene.works().await;
    scene.logged(&["NOREPLICAS!"]).await;
    scene.admin("CONFIG SET min-replicas-to-write 0").await;
    scene.logged(&["NOREPLICAS!", "NOREPLICAS"]).await;
    scene.caches().await;
    scene.world.database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_permission_hits_continue_and_one_line_is_logged() {
    let scene = scene(&[]).await;
    scene.admin("ACL SETUSER default -evalsha").await;
    scene.works().await;
    assert!(scene.hits().await, "reading is permitted");
    scene.logged(&["NOPERM!"]).await;
    scene.admin("ACL SETUSER default +evalsha").await;
    scene.logged(&["NOPERM!", "NOPERM"]).await;
    scene.caches().await;
    scene.world.database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_logged_once() {
    let scene = scene(&[]).await;
    scene.admin("CONFIG SET requirepass secret").await;
    let address = scene.server.address();
    let url = format!("redis://:wrong@{address}/");
    let cache = cache_at(url).await;
    let items = Item::repository(&cache, scene.world.pool.clone());
    for _ in 0..50 {
        assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
        items.update(&Item::new(1, "one")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(log::lines(address), [(true, "WRONGPASS".to_owned())]);
    // The first client has connected before there was a password.
    let client = redis::Client::open(format!("redis://:secret@{address}/")).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    let change = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "wrong"])
        .clone();
    change.exec_async(&mut admin).await.unwrap();
    eventually("the row is served from the cache", async || {
        items.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
    assert_eq!(
        log::lines(address),
        [
            (true, "WRONGPASS".to_owned()),
            (false, "WRONGPASS".to_owned())
        ]
    );
    scene.world.database.close().await;
}

/// A server that loads its data answers some commands, but not those that larder needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_loading_is_not_used_and_one_line_is_logged() {
    let mut scene = scene(&[
        "--key-load-delay",
        "10000",
        "--loading-process-events-interval-bytes",
        "1024",
    ])
    .await;
    let filler = "x".repeat(1_024);
    for number in 0..300 {
        let key = format!("filler:{number}");
        scene.server.command(&["SET", &key, &filler]).await.unwrap();
    }
    scene.admin("SAVE").await;
    scene.server.kill().await;
    scene.world.sql("UPDATE items SET name = 'meanwhile'").await;
    let address = scene.server.address();
    let items = scene.items.clone();
    let loading = async {
        eventually("it is seen loading", async || {
            let outcome = items.find_outcome(1).await.unwrap();
            assert_eq!(outcome.origin, Origin::Database);
            log::lines(address).contains(&(true, "LOADING".to_owned()))
        })
        .await;
    };
    tokio::join!(scene.server.restart(), loading);
    scene.caches().await;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "meanwhile");
    scene.logged(&["UNREACHABLE!", "LOADING!", "LOADING"]).await;
    scene.world.database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_becomes_a_replica_is_logged_once() {
    let scene = scene(&[]).await;
    let primary = RedisServer::start().await;
    let port = primary.address().port();
    scene.admin(&format!("REPLICAOF 127.0.0.1 {port}")).await;
    eventually("row 1 is not served any more", async || {
        scene.works().await;
        !scene.hits().await
    })
    .await;
    scene.works().await;
    scene.admin("REPLICAOF NO ONE").await;
    scene.caches().await;
    let lines = log::lines(scene.server.address());
    let (troubles, ends): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.0);
    let codes: Vec<&str> = troubles.iter().map(|line| &*line.1).collect();
    // Either a write has detected it first, or the heartbeat.
    assert!(
        codes == ["READONLY", "REPLICA"] || codes == ["REPLICA"],
        "{codes:?}"
    );
    assert_eq!(ends, [(false, "REPLICA".to_owned())]);
    scene.world.database.close().await;
}
