//! What makes a stamp trustworthy: it is from before what it is a stamp of, and of the clock that it is compared with.
//!
//! Not here: the stamp of a load (`tags`), and the rules as such (`protocol/tags`).

use larder::{
    Cache,
    store::{
        Mechanism, Store,
        faulty::{Faults, Operation},
    },
};
use larder_testing::redis_server::RedisServer;
use sqlx::{SqlStr, Sqlite};
use tempfile::TempDir;

use super::{
    AIRPORTS, RENAME_GERMAN, Scene, WrittenAirport, WrittenAirportRepository, clock, rename,
};
use crate::{
    entities::{Item, ItemRepository},
    world::{Kind, Tested, World, eventually, filled, on_both_stores, on_redis, unique},
};

on_both_stores!(
    a_row_that_others_changed_before_it_was_written_through_is_not_served,
    without_a_stamp_from_before_its_statement_it_is_served,
);
on_redis!(
    nothing_that_is_older_than_its_clock_is_served,
    without_incarnations_it_is_served,
);

/// A row is written through, and before it is stored others change all rows with its tag. `at`: where the writer is held, between
/// its statement and the store. Returns the name that is served afterwards.
async fn changed_before_it_was_stored<DB: Tested>(world: &World<DB>, at: Operation) -> String {
    world.sql(AIRPORTS).await;
    let here = WrittenAirport::repository(&world.cache, world.pool.clone());
    let cache = world.cache_elsewhere().await;
    let elsewhere = WrittenAirport::repository(&cache, world.pool.clone());
    let old = WrittenAirport::new(1, "DE", "old");
    here.insert(&old).await.unwrap();
    // This process has seen the clock.
    assert!(here.find(9).await.unwrap().is_none());
    filled(|| here.stats()).await;
    let held = world.faults.pause(at);
    let writer = tokio::spawn({
        let here = here.clone();
        async move { here.update(&WrittenAirport::new(1, "DE", "written")).await }
    });
    held.reached().await;
    let rename = elsewhere.write_tagged(["country:DE"], |connection| {
        Box::pin(DB::run(connection, SqlStr::from_static(RENAME_GERMAN)))
    });
    rename.await.unwrap();
    held.resume();
    writer.await.unwrap().unwrap();
    let served = here.find(1).await.unwrap().unwrap();
    served.name.clone()
}

async fn a_row_that_others_changed_before_it_was_written_through_is_not_served<DB: Tested>(
    world: &World<DB>,
) {
    let served = changed_before_it_was_stored(world, Operation::End).await;
    assert_eq!(served, "new");
}

async fn without_a_stamp_from_before_its_statement_it_is_served<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::TagStamp);
    // Now the writer reads the clock after its statement.
    let served = changed_before_it_was_stored(world, Operation::ReadClock).await;
    assert_eq!(served, "written");
}

/// A tag is invalidated and its clock is lost. Returns the name that is served when another clock has begun.
async fn served_by_another_clock<DB: Tested>(world: &World<DB>) -> String {
    let scene = Scene::open(world).await;
    rename(world, "new").await;
    scene.here.invalidate_country("DE").await.unwrap();
    let (mut connection, key) = clock(world).await;
    let deleted: i64 = redis::cmd("DEL")
        .arg(&key)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(deleted, 1);
    // A load begins another clock.
    assert!(scene.here.find(9).await.unwrap().is_none());
    scene.settle().await;
    let exists: i64 = redis::cmd("EXISTS")
        .arg(&key)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(exists, 1);
    let served = scene.here.find(1).await.unwrap().unwrap();
    served.name.clone()
}

async fn nothing_that_is_older_than_its_clock_is_served<DB: Tested>(world: &World<DB>) {
    assert_eq!(served_by_another_clock(world).await, "new");
}

async fn without_incarnations_it_is_served<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::TagIncarnation);
    assert_eq!(served_by_another_clock(world).await, "old");
}

/// The process that writes through a server that comes back with older data, and so with an earlier time of the clock.
struct TurnedBack {
    world: World<Sqlite>,
    server: RedisServer,
    cache: Cache,
    airports: WrittenAirportRepository<Sqlite>,
    /// Other rows of the same server. A read of these says nothing about the clock of the airports.
    items: ItemRepository<Sqlite>,
}

impl TurnedBack {
    async fn start(faults: &Faults) -> Self {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        world.sql(AIRPORTS).await;
        let options = ["--appendonly", "yes", "--appendfsync", "always"];
        let server = RedisServer::start_with(&options).await;
        let cache = Cache::builder()
            .redis(format!("redis://{}", server.address()))
            .listed(false)
            .namespace(unique("turned-back"))
            .response_timeout(std::time::Duration::from_secs(10))
            .faults(faults)
            .connect()
            .await
            .unwrap();
        let airports = WrittenAirport::repository(&cache, world.pool.clone());
        let items = Item::repository(&cache, world.pool.clone());
        Self {
            world,
            server,
            cache,
            airports,
            items,
        }
    }

    /// Reads the clock, because it begins a load of an absence.
    async fn see_the_clock(&self, id: i64) {
        assert!(self.airports.find(id).await.unwrap().is_none());
        filled(|| self.airports.stats()).await;
    }

    /// Brings the server back with the data of some time ago, and returns when the process is connected to it.
    async fn turn_back(&mut self, copy: &TempDir) {
        let before = self.cache.store().connection_number();
        self.server.kill().await;
        self.server.put_back(copy);
        self.server.restart().await;
        eventually("there is another connection", async || {
            self.items.find(404).await.unwrap();
            let store = self.cache.store();
            store.is_available() && store.connection_number() != before
        })
        .await;
    }
}

/// Returns the name that is served after a row was written through with a time that the clock has once more before it.
async fn written_through_a_clock_that_was_turned_back(left_out: Option<Mechanism>) -> String {
    let faults = Faults::new();
    if let Some(mechanism) = left_out {
        faults.leave_out(mechanism);
    }
    let mut scene = TurnedBack::start(&faults).await;
    let old = WrittenAirport::new(1, "DE", "old");
    scene.airports.insert(&old).await.unwrap();
    scene.see_the_clock(8).await;
    let copy = scene.server.copy();
    for _ in 0..3 {
        scene.airports.invalidate_country("FR").await.unwrap();
    }
    scene.see_the_clock(9).await;
    scene.turn_back(&copy).await;
    let written = WrittenAirport::new(1, "DE", "written");
    scene.airports.update(&written).await.unwrap();
    rename(&scene.world, "new").await;
    scene.airports.invalidate_country("DE").await.unwrap();
    let served = scene.airports.find(1).await.unwrap().unwrap();
    scene.world.database.close().await;
    served.name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_not_written_through_with_a_stamp_of_another_history() {
    assert_eq!(
        written_through_a_clock_that_was_turned_back(None).await,
        "new"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_stamp_of_another_history_an_invalidation_is_not_noticed() {
    let left_out = Some(Mechanism::TagHistory);
    assert_eq!(
        written_through_a_clock_that_was_turned_back(left_out).await,
        "written"
    );
}
