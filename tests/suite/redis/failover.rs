//! Primaries that are lost, come back with old data, or are left behind: nobody goes on serving what they held.

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

/// One process, behind a wire of its own that can be led elsewhere.
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

    /// Leads the process to another server, and returns when it is connected there.
    async fn moves_to(&self, server: SocketAddr) {
        let run = self.cache.store().connection_number();
        self.proxy.redirect(server);
        eventually("there is another connection", async || {
            self.items.find(404).await.unwrap();
            self.cache.store().is_available() && self.cache.store().connection_number() != run
        })
        .await;
    }

    /// Where the row came from, and its name.
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

/// A server that comes back with the data of an earlier moment: with the row from before the update. What is served.
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
async fn what_a_restart_with_old_data_brings_back_is_not_served() {
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

/// A primary and its replica, and the wire between them.
struct Pair {
    primary: RedisServer,
    replica: RedisServer,
    between: Proxy,
}

impl Pair {
    /// Returns when the replica follows the primary.
    async fn start(options: &[&str]) -> Self {
        // Nobody waits for further replicas before the first one is served.
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

    /// Waits until the replica is in step with the primary, and holds this many keys.
    async fn replica_holds(&self, wanted: impl Fn(i64) -> bool, what: &str) {
        eventually(what, async || {
            let role = self.replica.command(&["ROLE"]).await.unwrap();
            let size = self.replica.command(&["DBSIZE"]).await.unwrap();
            let size: i64 = redis::from_redis_value(size).unwrap();
            format!("{role:?}").contains("connected") && wanted(size)
        })
        .await;
    }

    /// Cuts the wire between them, and makes the replica a primary.
    async fn part(&self) {
        self.between.blackhole();
        self.promote().await;
    }

    async fn promote(&self) {
        let promoted = self.replica.command(&["REPLICAOF", "NO", "ONE"]).await;
        promoted.unwrap();
    }
}

/// The update reached the primary but not the replica, which then takes its place. What is served.
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
async fn what_a_promoted_replica_missed_is_not_served() {
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

/// One process is left behind at a primary that was cut off, while another already writes to its successor. Whether the
/// one that is left behind still serves the old row once the primary has missed its replica.
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
async fn a_primary_that_was_cut_off_is_not_trusted_for_long() {
    assert!(!serves_the_old_row_when_left_behind(&[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_trust_lease_a_primary_that_was_cut_off_is_believed() {
    assert!(
        serves_the_old_row_when_left_behind(&[Mechanism::TrustLease]).await,
        "the scene must show what the trust lease prevents"
    );
}

/// One process still writes to the primary that was cut off, which takes it, since it does not miss its replica; another has cached the row at its successor
/// before. What the other serves when the first has found the successor.
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
async fn what_was_told_to_a_primary_that_was_cut_off_is_told_to_its_successor() {
    let (_, name) = served_at_the_successor(&[]).await;
    assert_eq!(name, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_repairs_the_successor_is_never_told() {
    let served = served_at_the_successor(&[Mechanism::Repair]).await;
    assert_eq!(
        served,
        (Origin::Cache, "old".to_owned()),
        "the scene must show what is prevented"
    );
}
