//! Primaries that are lost, come back with old data, or are cut off: their old rows are not served.

use std::{net::SocketAddr, time::Duration};

use larder::{
    Cache, Origin,
    store::{Mechanism, Store, faulty::Faults},
};
use larder_testing::{proxy::Proxy, redis_server::RedisServer};
use sqlx::Sqlite;

use crate::{
    entities::{Item, ItemRepository},
    world::{Kind, World, eventually, unique, until},
};

async fn world() -> World<Sqlite> {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "old")).await;
    world
}

/// One process, whose connection can be redirected to another server.
struct Process {
    proxy: Proxy,
    cache: Cache,
    items: ItemRepository<Sqlite>,
}

impl Process {
    async fn start(
        world: &World<Sqlite>,
        server: SocketAddr,
        namespace: &str,
        left_out: &[Mechanism],
    ) -> Self {
        let faults = Faults::new();
        for mechanism in left_out {
            faults.leave_out(*mechanism);
        }
        let proxy = Proxy::start(server);
        let cache = Cache::builder()
            .redis(format!("redis://{}", proxy.address()))
            .listed(false)
            .namespace(namespace)
            .response_timeout(Duration::from_secs(10))
            .faults(&faults)
            .connect()
            .await
            .unwrap();
        let items = Item::repository(&cache, world.pool.clone());
        Self {
            proxy,
            cache,
            items,
        }
    }

    /// Redirects the process to another server, and returns when it is connected.
    async fn moves_to(&self, server: SocketAddr) {
        let run = self.cache.store().connection_number();
        self.proxy.redirect(server);
        eventually("there is another connection", async || {
            self.items.find(404).await.unwrap();
            self.cache.store().is_available() && self.cache.store().connection_number() != run
        })
        .await;
    }

    /// Returns the origin of the row, and its name.
    async fn served(&self) -> (Origin, String) {
        let outcome = self.items.find_outcome(1).await.unwrap();
        (outcome.origin, outcome.row.unwrap().name.clone())
    }

    async fn caches(&self, name: &str) {
        eventually("the row is served from the cache", async || {
            self.served().await == (Origin::Cache, name.to_owned())
        })
        .await;
    }
}

/// A server comes back with older data, from before the update. Returns what is served.
async fn served_after_a_restart_with_old_data(left_out: &[Mechanism]) -> (Origin, String) {
    let world = world().await;
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start_with(&options).await;
    let process = Process::start(&world, server.address(), &unique("failover"), left_out).await;
    process.caches("old").await;
    let copy = server.copy();
    process.items.update(&Item::new(1, "new")).await.unwrap();
    process.caches("new").await;
    server.kill().await;
    server.put_back(&copy);
    server.restart().await;
    process.moves_to(server.address()).await;
    let served = process.served().await;
    if left_out.is_empty() {
        process.caches("new").await;
        assert!(
            process.items.stats().incompatible_entries > 0,
            "the old row was there"
        );
    }
    world.database.close().await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_with_old_data_old_rows_are_not_served() {
    let served = served_after_a_restart_with_old_data(&[]).await;
    assert_eq!(served, (Origin::Database, "new".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_histories_a_restart_with_old_data_brings_the_old_row_back() {
    let served = served_after_a_restart_with_old_data(&[Mechanism::History]).await;
    assert_eq!(
        served,
        (Origin::Cache, "old".to_owned()),
        "the scene must show what histories prevent"
    );
}

/// A primary, its replica, and the connection between them.
struct Pair {
    primary: RedisServer,
    replica: RedisServer,
    between: Proxy,
}

impl Pair {
    /// Returns when the replica follows the primary.
    async fn start(options: &[&str]) -> Self {
        // The primary does not wait for further replicas before it serves the first one.
        let at_once = ["--repl-diskless-sync-delay", "0"];
        let primary = RedisServer::start_with(&[options, &at_once].concat()).await;
        let between = Proxy::start(primary.address());
        let port = between.address().port().to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        let pair = Self {
            primary,
            replica,
            between,
        };
        pair.replica_holds(|_| true, "the replica follows").await;
        pair
    }

    /// Waits until the replica follows the primary, and the number of its keys is as wanted.
    async fn replica_holds(&self, wanted: impl Fn(i64) -> bool, what: &str) {
        eventually(what, async || {
            let role = self.replica.command(&["ROLE"]).await.unwrap();
            let size = self.replica.command(&["DBSIZE"]).await.unwrap();
            let size: i64 = redis::from_redis_value(size).unwrap();
            format!("{role:?}").contains("connected") && wanted(size)
        })
        .await;
    }

    /// Cuts the connection between them, and promotes the replica.
    async fn part(&self) {
        self.between.blackhole();
        self.promote().await;
    }

    async fn promote(&self) {
        let promoted = self.replica.command(&["REPLICAOF", "NO", "ONE"]).await;
        promoted.unwrap();
    }
}

/// The update has reached the primary and not the replica, which is then promoted. Returns what is served.
async fn served_after_a_failover_that_lost_the_tail(left_out: &[Mechanism]) -> (Origin, String) {
    let world = world().await;
    let mut pair = Pair::start(&[]).await;
    let namespace = unique("failover");
    let process = Process::start(&world, pair.primary.address(), &namespace, left_out).await;
    process.caches("old").await;
    pair.replica_holds(
        |size| size == 2,
        "the replica holds the row and the binding",
    )
    .await;
    pair.between.blackhole();
    process.items.update(&Item::new(1, "new")).await.unwrap();
    pair.primary.kill().await;
    pair.promote().await;
    process.moves_to(pair.replica.address()).await;
    let served = process.served().await;
    if left_out.is_empty() {
        process.caches("new").await;
    }
    world.database.close().await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_a_promoted_replica_missed_are_not_undone() {
    let (_, name) = served_after_a_failover_that_lost_the_tail(&[]).await;
    assert_eq!(name, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_repairs_what_a_promoted_replica_missed_is_still_not_believed() {
    let (_, name) = served_after_a_failover_that_lost_the_tail(&[Mechanism::Repair]).await;
    assert_eq!(name, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_histories_a_promoted_replica_serves_the_old_row() {
    let served = served_after_a_failover_that_lost_the_tail(&[Mechanism::History]).await;
    assert_eq!(
        served,
        (Origin::Cache, "old".to_owned()),
        "the scene must show what histories prevent"
    );
}

const MINDFUL: [&str; 4] = [
    "--min-replicas-to-write",
    "1",
    "--min-replicas-max-lag",
    "2",
];

/// One process still uses a primary that was cut off, while another writes to its successor. Returns whether the first one
/// still serves the old row after the primary has noticed that its replica is missing.
async fn serves_the_old_row_when_left_behind(left_out: &[Mechanism]) -> bool {
    let world = world().await;
    let pair = Pair::start(&MINDFUL).await;
    let namespace = unique("failover");
    let left = Process::start(&world, pair.primary.address(), &namespace, left_out).await;
    let moved = Process::start(&world, pair.primary.address(), &namespace, &[]).await;
    left.caches("old").await;
    pair.part().await;
    moved.moves_to(pair.replica.address()).await;
    moved.items.update(&Item::new(1, "new")).await.unwrap();
    eventually("the primary misses its replica", async || {
        let write = pair.primary.command(&["DEL", "nothing"]).await;
        write.is_err_and(|error| error.code() == Some("NOREPLICAS"))
    })
    .await;
    if left_out.is_empty() {
        until("the trust ends", || !left.cache.store().is_available()).await;
        assert_eq!(left.served().await, (Origin::Database, "new".to_owned()));
        left.moves_to(pair.replica.address()).await;
        left.caches("new").await;
    }
    let served = left.served().await;
    world.database.close().await;
    served == (Origin::Cache, "old".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_primary_is_not_used_for_long() {
    assert!(!serves_the_old_row_when_left_behind(&[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_trust_lease_a_cut_off_primary_serves_old_rows() {
    assert!(
        serves_the_old_row_when_left_behind(&[Mechanism::TrustLease]).await,
        "the scene must show what the trust lease prevents"
    );
}

/// One process still writes to the primary that was cut off, which accepts the write. Another has cached the row from its
/// successor before. Returns what the other serves after the first has connected to the successor.
async fn served_at_the_successor(left_out: &[Mechanism]) -> (Origin, String) {
    let world = world().await;
    let pair = Pair::start(&[]).await;
    let namespace = unique("failover");
    let left = Process::start(&world, pair.primary.address(), &namespace, left_out).await;
    let moved = Process::start(&world, pair.primary.address(), &namespace, &[]).await;
    pair.part().await;
    moved.moves_to(pair.replica.address()).await;
    moved.caches("old").await;
    left.items.update(&Item::new(1, "new")).await.unwrap();
    assert_eq!(left.cache.repairs().pending, 0, "the primary took it");
    left.moves_to(pair.replica.address()).await;
    until("everything is repaired", || {
        left.cache.repairs().pending == 0
    })
    .await;
    let served = moved.served().await;
    assert_eq!(left.cache.repairs().repaired > 0, left_out.is_empty());
    world.database.close().await;
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_written_on_a_cut_off_primary_are_dropped_on_its_successor() {
    let (_, name) = served_at_the_successor(&[]).await;
    assert_eq!(name, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_repairs_the_successor_keeps_the_old_row() {
    let served = served_at_the_successor(&[Mechanism::Repair]).await;
    assert_eq!(
        served,
        (Origin::Cache, "old".to_owned()),
        "the scene must show what is prevented"
    );
}
