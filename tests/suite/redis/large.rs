//! Large entries beside small ones: nobody waits for bytes that somebody else has asked for.

use std::{collections::HashMap, time::Duration};

use larder::{
    Cache, Origin,
    store::{Mechanism, Store, faulty::Faults},
};
use larder_testing::{
    proxy::{Direction, Proxy},
    redis_server::RedisServer,
};
use sqlx::Sqlite;

use crate::{
    entities::{Behind, Item, ItemRepository, Through},
    world::{Kind, World, at_once, eventually, until},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The size of a large entry.
const LARGE: usize = 128 * KIB;
/// How long a slow link takes for about 64 KiB, and for a small entry.
const SLOW: Duration = Duration::from_millis(40);
/// How many small entries a slow link transfers at least while a large one is on its way. What comes before and after the large
/// one takes fewer round trips than that.
const ENOUGH: u32 = 20;
/// Longer than any command takes here, so that a slow machine does not look like a lost connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// What brings large entries to the link.
#[derive(Clone, Copy, Debug)]
enum Load {
    Hit,
    Fill,
    WriteThrough,
    Flush,
}

const LOADS: [Load; 4] = [Load::Hit, Load::Fill, Load::WriteThrough, Load::Flush];

/// A database, and a Redis behind a link that can be slow.
struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    proxy: Proxy,
    cache: Cache,
    items: ItemRepository<Sqlite>,
}

fn long(id: i64, length: usize) -> Item {
    Item::new(id, &"x".repeat(length))
}

impl Scene {
    async fn open(left_out: &[Mechanism]) -> Self {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        let server = RedisServer::start().await;
        let proxy = Proxy::start(server.address());
        let faults = Faults::new();
        for mechanism in left_out {
            faults.leave_out(*mechanism);
        }
        let builder = Cache::builder()
            .redis(format!("redis://{}", proxy.address()))
            .listed(false);
        let builder = builder.faults(&faults).response_timeout(PATIENCE);
        let cache = builder.connect().await.unwrap();
        let items = Item::repository(&cache, world.pool.clone());
        Self {
            world,
            server,
            proxy,
            cache,
            items,
        }
    }

    async fn origin(&self, id: i64) -> Origin {
        self.items.find_outcome(id).await.unwrap().origin
    }

    async fn is_cached(&self, id: i64) {
        eventually("the row is cached", async || {
            self.origin(id).await == Origin::Cache
        })
        .await;
    }

    /// Returns how many small rows are read from Redis while large ones are on their way.
    async fn small_reads_beside(&self, load: Load) -> u32 {
        const LENGTH: usize = 3 * MIB;
        self.world.put(&Item::new(1, "small")).await;
        self.is_cached(1).await;
        // In a namespace of their own: they are not told of writes of the others.
        let cache = self.cache.with_namespace("elsewhere").unwrap();
        let pool = self.world.pool.clone();
        let through = Through::repository(&cache, pool.clone());
        let behind = Behind::repository(&cache, pool);
        match load {
            Load::Hit => {
                self.world.put(&long(2, LENGTH)).await;
                self.is_cached(2).await;
            }
            Load::Fill => self.world.put(&long(2, LENGTH)).await,
            Load::WriteThrough => {
                through.insert(&Through::new(2, "small")).await.unwrap();
            }
            Load::Flush => {
                behind.install().await.unwrap();
                for id in 10..42 {
                    let name = "x".repeat(100 * KIB);
                    behind.save(&Behind::new(id, &name)).await.unwrap();
                }
            }
        }
        let slow = match load {
            Load::Hit | Load::Flush => Direction::ToClient,
            Load::Fill | Load::WriteThrough => Direction::ToServer,
        };
        self.proxy.delay(slow, SLOW);
        let items = self.items.clone();
        let large = tokio::spawn(async move {
            match load {
                Load::Hit => {
                    let outcome = items.find_outcome(2).await.unwrap();
                    let name = &outcome.row.unwrap().name;
                    assert_eq!((outcome.origin, name.len()), (Origin::Cache, LENGTH));
                }
                Load::Fill => {
                    items.find(2).await.unwrap();
                    // The caller has its row before the cache has.
                    until("the row is stored", || items.stats().fills_accepted == 2).await;
                }
                Load::WriteThrough => {
                    let row = Through::new(2, &"x".repeat(LENGTH));
                    through.update(&row).await.unwrap();
                }
                Load::Flush => behind.flush().await.unwrap(),
            }
        });
        let mut reads = 0;
        while !large.is_finished() {
            assert_eq!(self.origin(1).await, Origin::Cache);
            reads += 1;
        }
        large.await.unwrap();
        self.proxy.heal();
        reads
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_rows_are_read_while_large_ones_are_on_their_way() {
    for load in LOADS {
        let scene = Scene::open(&[]).await;
        let reads = scene.small_reads_beside(load).await;
        assert!(reads >= ENOUGH, "{load:?}: {reads}");
        scene.world.database.close().await;
    }
}

/// The negative control: what shares the connection of a large entry waits for all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_connection_of_their_own_large_rows_hold_small_ones_up() {
    for load in LOADS {
        let scene = Scene::open(&[Mechanism::LargeConnection]).await;
        let reads = scene.small_reads_beside(load).await;
        assert!(reads < ENOUGH, "{load:?}: {reads}");
        scene.world.database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_about_the_size_of_a_large_one_are_served_whole() {
    let scene = Scene::open(&[]).await;
    // The name, and what the codec and the header add to it, pass the limit byte by byte.
    for length in (LARGE - 200..=LARGE).chain([2 * LARGE]) {
        scene.items.save(&long(1, length)).await.unwrap();
        scene.items.find(1).await.unwrap();
        let outcome = scene.items.find_outcome(1).await.unwrap();
        assert_eq!(
            (outcome.origin, outcome.row.unwrap().name.len()),
            (Origin::Cache, length)
        );
    }
    scene.world.database.close().await;
}

/// A reader that waits for the load of another process gets a large row as it gets a small one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_row_that_many_processes_want_is_loaded_once() {
    let scene = Scene::open(&[]).await;
    scene.world.put(&long(1, MIB)).await;
    let mut processes = Vec::new();
    for _ in 0..6 {
        let builder = Cache::builder().redis(scene.server.url()).listed(false);
        let cache = builder.response_timeout(PATIENCE).connect().await.unwrap();
        processes.push(Item::repository(&cache, scene.world.pool.clone()));
    }
    for round in 1..=5 {
        scene.items.invalidate(1).await.unwrap();
        let found = at_once(processes.len(), |process| {
            let items = processes[process].clone();
            async move { items.find(1).await.unwrap().unwrap().name.len() }
        });
        assert_eq!(found.await, [MIB; 6]);
        let loads: u64 = processes.iter().map(|items| items.stats().loads).sum();
        assert_eq!(loads, round);
    }
    scene.world.database.close().await;
}

/// The connection for large entries is lost: the read gets its row from the database, small rows are still read from Redis, and
/// the next large row has another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_of_large_entries_is_replaced_and_costs_small_ones_nothing() {
    let scene = Scene::open(&[]).await;
    scene.world.put(&Item::new(1, "small")).await;
    scene.world.put(&long(2, MIB)).await;
    scene.is_cached(1).await;
    // Each connection of the server: its id, and whether its last command has read an entry.
    let connections = async || {
        let clients = scene.server.command(&["CLIENT", "LIST"]).await.unwrap();
        let clients: String = redis::from_redis_value(clients).unwrap();
        let lines = clients.lines().map(|line| {
            let id = line.split(['=', ' ']).nth(1).unwrap();
            (id.to_owned(), line.contains(" cmd=getrange "))
        });
        lines.collect::<HashMap<_, _>>()
    };
    let of_before = connections().await;
    scene.is_cached(2).await;
    let link = scene.cache.store().connection_number();
    let mut of_large = None;
    eventually("a large entry was read", async || {
        scene.items.find(2).await.unwrap();
        let mut now = connections().await.into_iter();
        of_large = now.find(|(id, has_read)| *has_read && !of_before.contains_key(id));
        of_large.is_some()
    })
    .await;
    let (id, _) = &of_large.unwrap();
    let killed = scene.server.command(&["CLIENT", "KILL", "ID", id]).await;
    assert_eq!(killed.unwrap(), redis::Value::Int(1));
    let row = scene.items.find(2).await.unwrap().unwrap();
    assert_eq!(row.name.len(), MIB);
    assert_eq!(scene.origin(1).await, Origin::Cache);
    scene.is_cached(2).await;
    assert_eq!(scene.cache.store().connection_number(), link);
    scene.world.database.close().await;
}

/// No other connection can be opened. A write still ends, a queue is still flushed, and a large row is read from the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_another_connection_writes_end_and_queues_are_flushed() {
    let scene = Scene::open(&[]).await;
    let through = Through::repository(&scene.cache, scene.world.pool.clone());
    through.insert(&Through::new(1, "small")).await.unwrap();
    let behind = Behind::repository(&scene.cache, scene.world.pool.clone());
    behind.install().await.unwrap();
    behind.save(&Behind::new(2, "queued")).await.unwrap();
    scene.proxy.refuse();
    let long = Through::new(1, &"x".repeat(MIB));
    through.update(&long).await.unwrap();
    let key = through.inner().key(1).unwrap();
    let key = String::from_utf8(key.as_bytes().to_vec()).unwrap();
    let found = scene.server.command(&["EXISTS", &key]).await.unwrap();
    assert_eq!(found, redis::Value::Int(0), "no intent is left");
    behind.flush().await.unwrap();
    assert_eq!(behind.pending().await.unwrap().count, 0);
    for _ in 0..3 {
        let outcome = through.find_outcome(1).await.unwrap();
        assert_eq!(outcome.row.unwrap().name.len(), MIB);
        assert_ne!(outcome.origin, Origin::Cache);
    }
    scene.proxy.heal();
    eventually("large rows are cached again", async || {
        through.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
    scene.world.database.close().await;
}
