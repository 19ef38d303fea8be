//! Servers that are unreachable, die, reject or hang: reads continue, nothing wrong is cached, and caching resumes by
//! itself.

use std::{sync::Arc, time::Duration};

use larder::{
    Cache, ErrorKind, Origin,
    state::{Lease, Meta, State},
    store::{
        Over, Payload, Store,
        faulty::{Faults, Operation},
    },
    token::Token,
};
use larder_testing::{port::Port, proxy::Proxy, redis_server::RedisServer};
use sqlx::Sqlite;

use crate::{
    entities::{Item, ItemRepository, of_items},
    world::{Kind, Tested, World, eventually, everywhere, on_both_stores, unique},
};

everywhere!(with_the_database_down_hits_are_served_and_misses_fail);
on_both_stores!(
    only_so_many_loads_burden_the_database_at_a_time,
    a_store_that_fails_at_any_step_never_fails_a_read,
    a_store_that_fails_at_any_step_never_fails_a_write,
);

/// How long larder waits for a reply of the server.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns a cache in a server of the test's own.
async fn cache_at(url: String) -> Cache {
    Cache::builder()
        .redis(url)
        .listed(false)
        .namespace(unique("outage"))
        .connect_timeout(Duration::from_millis(500))
        .response_timeout(RESPONSE_TIMEOUT)
        .connect()
        .await
        .unwrap()
}

async fn world() -> World<Sqlite> {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    world
}

async fn works_uncached(items: &ItemRepository<Sqlite>, round: i64) {
    let outcome = items.find_outcome(1).await.unwrap();
    assert_eq!(
        (outcome.origin, outcome.row.unwrap().id),
        (Origin::Database, 1)
    );
    let name = format!("round {round}");
    items.update(&Item::new(1, &name)).await.unwrap();
    assert_eq!(items.find(1).await.unwrap().unwrap().name, name);
    assert_eq!(items.find(404).await.unwrap(), None);
}

async fn caches_again(items: &ItemRepository<Sqlite>) {
    eventually("the row is served from the cache", async || {
        items.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_starts_without_redis_and_begins_caching_when_it_appears() {
    let world = world().await;
    let mut server = RedisServer::start().await;
    server.stop().await;
    let items = Item::repository(&cache_at(server.url()).await, world.pool.clone());
    for round in 0..3 {
        works_uncached(&items, round).await;
    }
    assert_eq!(items.stats().fills_accepted, 0);
    server.restart().await;
    caches_again(&items).await;
    world.database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_in_the_middle_of_a_load() {
    let world = world().await;
    let mut server = RedisServer::start().await;
    let faults = Faults::new();
    let cache = Cache::builder()
        .redis(server.url())
        .listed(false)
        .namespace(unique("outage"))
        .faults(&faults)
        .connect()
        .await
        .unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    let acquire = faults.pause(Operation::Acquire);
    let read = tokio::spawn({
        let items = items.clone();
        async move { items.find(1).await }
    });
    acquire.reached().await;
    server.kill().await;
    acquire.resume();
    assert_eq!(read.await.unwrap().unwrap().unwrap().name, "one");
    let fill = faults.pause(Operation::Fill);
    server.restart().await;
    // Only one read: another one would wait for the lease of the first, whose fill is held.
    eventually("there is a connection", async || {
        cache.store().is_available()
    })
    .await;
    items.find(1).await.unwrap();
    fill.reached().await;
    server.kill().await;
    fill.resume();
    works_uncached(&items, 0).await;
    server.restart().await;
    caches_again(&items).await;
    world.database.close().await;
}

/// Each of these servers accepts connections and then rejects, in its own way.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_is_never_a_request_that_fails() {
    let world = world().await;
    let primary = RedisServer::start().await;
    let port = primary.address().port().to_string();
    let cases: [(&str, &[&str]); 3] = [
        (
            "memory is full",
            &["--maxmemory", "1", "--maxmemory-policy", "noeviction"],
        ),
        ("it is a replica", &["--replicaof", "127.0.0.1", &port]),
        ("it wants more replicas", &["--min-replicas-to-write", "3"]),
    ];
    for (round, (what, options)) in cases.into_iter().enumerate() {
        let server = RedisServer::start_with(options).await;
        let items = Item::repository(&cache_at(server.url()).await, world.pool.clone());
        for again in 0..3 {
            works_uncached(&items, (round * 10 + again) as i64).await;
        }
        let stats = items.stats();
        assert!(stats.store_errors > 0, "{what}: {stats:?}");
        assert_eq!(
            (stats.hits, stats.load_errors, stats.write_errors),
            (0, 0, 0),
            "{what}: {stats:?}"
        );
    }
    let server = RedisServer::start().await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "secret"])
        .exec_async(&mut admin)
        .await
        .unwrap();
    for url in [
        server.url(),
        server.url().replace("redis://", "redis://:wrong@"),
    ] {
        let items = Item::repository(&cache_at(url).await, world.pool.clone());
        works_uncached(&items, 100).await;
        assert!(
            items.stats().store_errors > 0,
            "without the password: {:?}",
            items.stats()
        );
    }
    world.database.close().await;
}

/// A user who may read and write keys, but may not run scripts, call INFO or subscribe.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_permissions_is_never_a_request_that_fails() {
    let world = world().await;
    let server = RedisServer::start().await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("ACL")
        .arg(&[
            "SETUSER",
            "larder",
            "on",
            ">secret",
            "~*",
            "resetchannels",
            "+get",
            "+set",
            "+client",
            "+hello",
        ])
        .exec_async(&mut admin)
        .await
        .unwrap();
    let url = server.url().replace("redis://", "redis://larder:secret@");
    let items = Item::repository(&cache_at(url).await, world.pool.clone());
    for round in 0..3 {
        works_uncached(&items, round).await;
    }
    let stats = items.stats();
    assert!(
        stats.store_errors > 0 && stats.load_errors == 0 && stats.write_errors == 0,
        "{stats:?}"
    );
    world.database.close().await;
}

/// A frozen server delays the first read by one time-out, and does not fail it. When the connection is known to be dead, no
/// read waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_does_not_fail_reads() {
    const READS: u32 = 40;
    let world = world().await;
    let mut server = RedisServer::start().await;
    let items = Item::repository(&cache_at(server.url()).await, world.pool.clone());
    caches_again(&items).await;
    server.freeze().await;
    let errors = items.stats().store_errors;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    assert_eq!(
        items.stats().store_errors - errors,
        1,
        "one command was waited for, and then the database was read"
    );
    let reads = async {
        for _ in 0..READS {
            assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
        }
    };
    // One time-out per read would take twice as long.
    tokio::time::timeout(RESPONSE_TIMEOUT * READS / 2, reads)
        .await
        .expect("reads do not go on waiting for a server that is silent");
    server.thaw();
    caches_again(&items).await;
    world.database.close().await;
}

/// A server that becomes a replica keeps its data and still answers reads. After the first write that it rejects, larder
/// does not use it. When it is a primary again, it has another history.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_becomes_a_replica_is_not_used_any_longer() {
    let world = world().await;
    let server = RedisServer::start().await;
    let items = Item::repository(&cache_at(server.url()).await, world.pool.clone());
    caches_again(&items).await;
    world.put(&Item::new(2, "two")).await;
    world.warm(&items, 2).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut admin = client.get_multiplexed_async_connection().await.unwrap();
    // There is no server at that port, so the replica keeps its entry.
    let nobody = Port::reserve().unwrap();
    redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(nobody.address().port())
        .exec_async(&mut admin)
        .await
        .unwrap();
    items.update(&Item::new(1, "new")).await.unwrap();
    let entries: u64 = redis::cmd("DBSIZE").query_async(&mut admin).await.unwrap();
    assert_eq!(
        entries, 3,
        "the old entries are still there, and the binding of their namespace"
    );
    let hits = items.stats().hits;
    for _ in 0..20 {
        let outcome = items.find_outcome(1).await.unwrap();
        assert_eq!(
            (outcome.origin, &*outcome.row.unwrap().name),
            (Origin::Database, "new")
        );
    }
    assert_eq!(items.stats().hits, hits);
    redis::cmd("REPLICAOF")
        .arg(&["NO", "ONE"])
        .exec_async(&mut admin)
        .await
        .unwrap();
    caches_again(&items).await;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
    // This row was not written, so its entry was not dropped.
    assert_eq!(items.find(2).await.unwrap().unwrap().name, "two");
    assert!(
        items.stats().incompatible_entries > 0,
        "the old entry was recognised"
    );
    world.database.close().await;
}

/// The connection is reset repeatedly. Every read is answered, and caching resumes.
#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_are_made_again() {
    let world = world().await;
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.address());
    let url = format!("redis://{}", proxy.address());
    let items = Item::repository(&cache_at(url).await, world.pool.clone());
    for _ in 0..5 {
        caches_again(&items).await;
        proxy.reset();
        assert_eq!(items.find(1).await.unwrap().unwrap().id, 1);
        caches_again(&items).await;
        let name = unique("name");
        items.update(&Item::new(1, &name)).await.unwrap();
        assert_eq!(items.find(1).await.unwrap().unwrap().name, name);
    }
    world.database.close().await;
}

/// After a restart the server has a lease that a write has ended since. A row loaded under it is not stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_from_before_a_restart_fills_nothing() {
    let world = world().await;
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start_with(&options).await;
    let faults = Faults::new();
    let builder = Cache::builder()
        .redis(server.url())
        .listed(false)
        .faults(&faults);
    let cache = builder.connect().await.unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    let run = cache.store().connection_number();
    let fill = faults.pause(Operation::Fill);
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    fill.reached().await;
    server.kill().await;
    // A write has ended the lease, but the server has lost that.
    world
        .sql("UPDATE items SET name = 'changed meanwhile'")
        .await;
    server.restart().await;
    eventually("there is another connection", async || {
        cache.store().connection_number() != run
    })
    .await;
    let key = items.inner().key(1).unwrap();
    let lease = cache.store().remaining_ms(&key).await.unwrap();
    assert!(lease.is_some(), "the scene needs the lease to be back");
    fill.resume();
    eventually("the fill has been judged", async || {
        items.stats().store_errors > 0
    })
    .await;
    assert_eq!(
        items.find(1).await.unwrap().unwrap().name,
        "changed meanwhile"
    );
    assert_eq!(
        items.find(1).await.unwrap().unwrap().name,
        "changed meanwhile"
    );
    world.database.close().await;
}

/// A store that was replaced after a write was announced has lost the intent. So the intent is placed again before the
/// statement is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_announced_again_to_a_store_that_was_replaced() {
    let world = world().await;
    let mut server = RedisServer::start().await;
    let faults = Faults::new();
    let builder = Cache::builder()
        .redis(server.url())
        .listed(false)
        .faults(&faults);
    let cache = builder.connect().await.unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    // The database is identified now.
    items.find(404).await.unwrap();
    let run = cache.store().connection_number();
    let gate = world.close_gate().await;
    let write = tokio::spawn({
        let items = items.clone();
        async move { items.update(&Item::new(1, "new")).await }
    });
    let key = items.inner().key(1).unwrap();
    eventually("the write is announced", async || {
        cache.store().remaining_ms(&key).await.unwrap().is_some()
    })
    .await;
    server.kill().await;
    server.restart().await;
    eventually("there is another connection", async || {
        cache.store().connection_number() != run
    })
    .await;
    assert_eq!(faults.calls(Operation::Begin), 1);
    drop(gate);
    write.await.unwrap().unwrap();
    assert_eq!(faults.calls(Operation::Begin), 2);
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
    world.database.close().await;
}

/// After a restart with the old data, its entries are of another history and are not served.
#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_restarted_server_are_not_served() {
    let world = world().await;
    let mut server =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let items = Item::repository(&cache_at(server.url()).await, world.pool.clone());
    caches_again(&items).await;
    server.stop().await;
    // A change without an invalidation.
    world
        .sql("UPDATE items SET name = 'changed meanwhile'")
        .await;
    server.restart().await;
    eventually("the connection is back", async || {
        items.find(1).await.unwrap();
        items.stats().incompatible_entries > 0
    })
    .await;
    assert_eq!(
        items.find(1).await.unwrap().unwrap().name,
        "changed meanwhile"
    );
    caches_again(&items).await;
    world.database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_served() {
    let world = world().await;
    let server = RedisServer::start().await;
    let items = Item::repository(&cache_at(server.socket_url()).await, world.pool.clone());
    caches_again(&items).await;
    world.database.close().await;
}

#[tokio::test]
async fn errors_about_urls_do_not_contain_the_password() {
    for url in [
        "http://user:secret@127.0.0.1",
        "redis://:secret@127.0.0.1:port",
        "nonsense",
    ] {
        let error = Cache::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
    }
    let error = Cache::builder().namespace("two words").build().unwrap_err();
    assert!(error.to_string().contains("two words"), "{error}");
    assert_eq!(
        Cache::builder().capacity(0).build().unwrap_err().kind(),
        ErrorKind::Configuration
    );
}

async fn with_the_database_down_hits_are_served_and_misses_fail<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    world.put(&Item::new(2, "two")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    world.warm(&items, 404).await;
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    assert_eq!(items.find_outcome(404).await.unwrap().origin, Origin::Cache);
    world.pool.close().await;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    assert_eq!(items.find(404).await.unwrap(), None);
    for _ in 0..3 {
        let error = items.find(2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Database, "not an absence");
    }
    assert_eq!(
        items
            .update(&Item::new(1, "lost"))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Database
    );
    assert_eq!(items.stats().fills_accepted, 2);
}

/// While the store is unreachable, every read is a load. Loads beyond the limit do not even wait for a connection.
async fn only_so_many_loads_burden_the_database_at_a_time<DB: Tested>(world: &World<DB>) {
    const READS: usize = 20;
    let faults = Faults::new();
    faults.fail(Operation::Get, u64::MAX);
    let builder = Cache::builder().faults(&faults).max_concurrent_loads(2);
    let items = Item::repository(&builder.build().unwrap(), world.pool.clone());
    world.put(&Item::new(1, "one")).await;
    let gate = world.close_gate().await;
    let reads: Vec<_> = (0..READS as i64)
        .map(|id| {
            let items = items.clone();
            tokio::spawn(async move { items.find(id).await })
        })
        .collect();
    eventually("all reads are on their way", async || {
        let stats = items.stats();
        stats.uncached_loads == READS as u64 && stats.loads == 2
    })
    .await;
    drop(gate);
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(items.stats().loads, READS as u64);
    let error = Cache::builder()
        .max_concurrent_loads(0)
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

of_items! {
    #[cached(
        negative_ttl = false,
        lease(ttl = "60s", wait = "20ms")
    )]
    struct Brief
}

/// What a read finds, so that it reaches a step.
#[derive(Clone, Copy, Debug)]
enum Met {
    /// A row that is not cached.
    Row,
    /// No row. The absence is not cached, and the lease is released.
    NoRow,
    /// Another loader's lease.
    Loading,
    /// An entry that cannot be decoded.
    Nonsense,
}

/// The steps of a read, each with a key of its own. The steps of a write (`Begin`, `End`) are not here.
const STEPS: [(Operation, Met); 6] = [
    (Operation::Get, Met::Row),
    (Operation::Acquire, Met::Row),
    (Operation::Fill, Met::Row),
    (Operation::Release, Met::NoRow),
    (Operation::Wait, Met::Loading),
    (Operation::Invalidate, Met::Nonsense),
];

async fn a_store_that_fails_at_any_step_never_fails_a_read<DB: Tested>(world: &World<DB>) {
    let brief = Brief::repository(&world.cache, world.pool.clone());
    let store = world.cache.store();
    for (id, (operation, met)) in (1..).zip(STEPS) {
        let key = brief.inner().key(id).unwrap();
        let lease = Lease {
            token: Token::draw(),
            identity: brief.inner().identity(),
        };
        let row = !matches!(met, Met::NoRow);
        if row {
            world.put(&Item::new(id, "one")).await;
        }
        match met {
            Met::Row | Met::NoRow => {}
            Met::Loading => {
                let granted = store
                    .acquire(&key, lease, 60_000, Over::Nothing, None)
                    .await
                    .unwrap();
                assert!(granted.is_none(), "the lease was free");
            }
            Met::Nonsense => {
                let meta = Meta {
                    lease,
                    loaded_at_ms: 0,
                    stamp: None,
                };
                let nonsense = State::Value(meta, Payload::Shared(Arc::new(()), 0));
                store.force(&key, Some((nonsense, 60_000))).await.unwrap();
            }
        }
        let before = (world.faults.calls(operation), brief.stats().store_errors);
        world.faults.fail(operation, u64::MAX);
        for _ in 0..3 {
            let found = brief.find(id).await;
            let found = found.unwrap_or_else(|error| panic!("{operation:?} failed: {error}"));
            assert_eq!(found.is_some(), row, "{operation:?} failed");
        }
        // A read is answered before its row is stored.
        eventually(
            "the step was reached, and its failure counted",
            async || {
                world.faults.calls(operation) > before.0 && brief.stats().store_errors > before.1
            },
        )
        .await;
        world.faults.fail(operation, 0);
        // The failures have left a lease that no loader will end.
        brief.invalidate(id).await.unwrap();
        if row {
            eventually("the row is served from the cache again", async || {
                brief.find_outcome(id).await.unwrap().origin == Origin::Cache
            })
            .await;
        }
    }
}

async fn a_store_that_fails_at_any_step_never_fails_a_write<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "inserted")).await.unwrap();
    for operation in [Operation::Begin, Operation::End] {
        items.find(1).await.unwrap();
        items.find(1).await.unwrap();
        let name = format!("{operation:?}");
        world.faults.fail(operation, 1);
        items.update(&Item::new(1, &name)).await.unwrap();
        assert_eq!(
            items.find(1).await.unwrap().unwrap().name,
            name,
            "one of the two steps is enough"
        );
        items.invalidate(1).await.unwrap();
    }
    world.faults.fail(Operation::Invalidate, 1);
    assert_eq!(
        items.invalidate(1).await.unwrap_err().kind(),
        ErrorKind::CacheUnavailable,
        "never silent"
    );
}
