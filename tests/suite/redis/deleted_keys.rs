//! What `redis-cli del` of an entry does, in each state that the entry can have: docs/operations.md has the table.
//!
//! Not here: queued writes whose row was deleted (`behind::incarnations`).

use std::sync::{Arc, Barrier};

use larder::{Cache, Origin, Transaction, store::Point};
use larder_testing::redis_server::RedisServer;
use sqlx::Sqlite;

use crate::{
    entities::{Item, ItemRepository, Through},
    world::{Kind, World, eventually},
};

struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    cache: Cache,
    items: ItemRepository<Sqlite>,
}

impl Scene {
    async fn open() -> Self {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        world.put(&Item::new(1, "old")).await;
        let server = RedisServer::start().await;
        let builder = Cache::builder()
            .redis(server.url())
            .listed(false)
            .namespace("shop");
        let cache = builder.faults(&world.faults).connect().await.unwrap();
        let items = Item::repository(&cache, world.pool.clone());
        Self {
            world,
            server,
            cache,
            items,
        }
    }

    /// Deletes a key as a person would. Returns whether it was there.
    async fn del(&self, key: &str) -> bool {
        let client = redis::Client::open(self.server.url()).unwrap();
        let delete = redis::Cmd::del(key);
        // In a task, so that a thread of the runtime wakes up: one that is stopped may have left the sockets to nobody.
        let deleted = tokio::spawn(async move {
            let mut connection = client.get_multiplexed_async_connection().await?;
            delete.query_async::<bool>(&mut connection).await
        });
        deleted.await.unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_row_or_absence_is_loaded_again() {
    let scene = Scene::open().await;
    for id in [1, 7] {
        scene.world.warm(&scene.items, id).await;
        assert!(scene.del(&format!("shop:Item:{id}")).await);
        let outcome = scene.items.find_outcome(id).await.unwrap();
        assert_eq!(outcome.origin, Origin::Database);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_whose_lease_was_deleted_stores_nothing() {
    let scene = Scene::open().await;
    let gate = scene.world.close_gate().await;
    let items = scene.items.clone();
    let load = tokio::spawn(async move { items.find(1).await });
    eventually("the lease is there, and deleted", async || {
        scene.del("shop:Item:1").await
    })
    .await;
    drop(gate);
    assert_eq!(load.await.unwrap().unwrap().unwrap().name, "old");
    let items = &scene.items;
    eventually("its fill was refused", async || {
        items.stats().fills_refused == 1
    })
    .await;
    assert_eq!(items.stats().fills_accepted, 0);
    // The next load has a lease of its own.
    scene.world.warm(items, 1).await;
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
}

/// Between the deletion and the end of the write, others may cache the old row. When the write returns, it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_row_cached_after_its_intent_was_deleted_is_gone_when_the_write_returns() {
    let scene = Scene::open().await;
    let rows = Through::repository(&scene.cache, scene.world.pool.clone());
    // The writer stops on a thread of the runtime, and its connection with it.
    let other = Cache::builder()
        .redis(scene.server.url())
        .listed(false)
        .namespace("shop");
    let other = other.connect().await.unwrap();
    let there = Through::repository(&other, scene.world.pool.clone());
    there.invalidate(1).await.unwrap();
    let mut transaction = Transaction::begin(&scene.world.pool).await.unwrap();
    let mut within = rows.within(&mut transaction);
    within.update(&Through::new(1, "new")).await.unwrap();
    let reached = Arc::new(Barrier::new(2));
    let waiting = Arc::clone(&reached);
    scene.world.faults.at(Point::BeforeCommit, move || {
        // Another thread takes over what this one would have polled.
        tokio::task::block_in_place(|| {
            waiting.wait();
            waiting.wait();
        });
    });
    let commit = tokio::spawn(transaction.commit());
    let meet = async || {
        let reached = Arc::clone(&reached);
        tokio::task::spawn_blocking(move || reached.wait())
            .await
            .unwrap()
    };
    meet().await;
    assert!(
        scene.del("shop:Through:1").await,
        "the intent is at the key"
    );
    assert_eq!(there.find(1).await.unwrap().unwrap().name, "old");
    eventually("the old row is cached", async || {
        there.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
    meet().await;
    commit.await.unwrap().unwrap();
    assert_eq!(there.find(1).await.unwrap().unwrap().name, "new");
}
