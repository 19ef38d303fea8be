//! Readers that share one reading of the clock: it is asked for after all of them have begun.

use std::time::Duration;

use larder::{
    Cache,
    store::{
        Mechanism,
        faulty::{Faults, Operation},
    },
};
use larder_testing::{
    proxy::{Point, Proxy},
    redis_server::RedisServer,
};
use sqlx::Sqlite;

use super::{AIRPORTS, Airport, rename};
use crate::world::{Kind, World, eventually, filled, unique};

/// How many readers there are before the invalidation: more than are sent at once.
const EARLY: i64 = 20;

async fn clocks_read(server: &RedisServer) -> u64 {
    let info = server.command(&["INFO", "commandstats"]).await.unwrap();
    let info: String = redis::from_redis_value(info).unwrap();
    let line = info.lines().find(|line| line.starts_with("cmdstat_hmget:"));
    let calls = line.and_then(|line| line.split("calls=").nth(1));
    let calls = calls.and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Readers wait for Redis, a tag is invalidated, and one more reader joins them. Returns the name that it is served, and how often
/// the clock was read for all of them and for their loads.
async fn served_to_the_last_reader(left_out: Option<Mechanism>) -> (String, u64) {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.sql(AIRPORTS).await;
    for id in 1..=EARLY + 1 {
        let values = format!("({id}, 'DE', 'old')");
        let insert = format!("INSERT INTO airports (id, country, name) VALUES {values}");
        world.sql(insert).await;
    }
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.address());
    let namespace = unique("shared-clock");
    let faults = Faults::new();
    let cache = async |url: String, faults: &Faults| {
        let builder = Cache::builder()
            .redis(url)
            .listed(false)
            .namespace(&namespace)
            .response_timeout(Duration::from_secs(10))
            .faults(faults);
        builder.connect().await.unwrap()
    };
    let cache_here = cache(format!("redis://{}", proxy.address()), &faults).await;
    let cache_elsewhere = cache(server.url(), &Faults::new()).await;
    let here = Airport::repository(&cache_here, world.pool.clone());
    let elsewhere = Airport::repository(&cache_elsewhere, world.pool.clone());
    for id in 1..=EARLY + 1 {
        here.find(id).await.unwrap();
    }
    filled(|| here.stats()).await;
    for id in 1..=EARLY + 1 {
        here.find(id).await.unwrap();
    }
    if let Some(mechanism) = left_out {
        faults.leave_out(mechanism);
        // The reading that the others take instead.
        here.find(1).await.unwrap();
    }
    let (clocks, begun) = (
        clocks_read(&server).await,
        faults.calls(Operation::ReadClock),
    );
    let find = |id: i64| {
        let here = here.clone();
        tokio::spawn(async move { here.find(id).await.unwrap().unwrap().name.clone() })
    };
    let have_begun = async |readers: i64| {
        let readers = u64::try_from(readers).unwrap();
        eventually("the readers have begun", async || {
            faults.calls(Operation::ReadClock) == begun + readers
        })
        .await;
    };
    let held = proxy.hold(Point::BeforeReply, "GETRANGE");
    let early: Vec<_> = (1..=EARLY).map(find).collect();
    held.sprung().await;
    have_begun(EARLY).await;
    rename(&world, "new").await;
    elsewhere.invalidate_country("DE").await.unwrap();
    let last = find(EARLY + 1);
    have_begun(EARLY + 1).await;
    held.release();
    let served = last.await.unwrap();
    for reader in early {
        let name = reader.await.unwrap();
        assert!(name == "old" || name == "new", "{name}");
    }
    let readings = clocks_read(&server).await - clocks;
    world.database.close().await;
    (served, readings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_shares_no_clock_that_was_read_before_it_began() {
    let (served, _) = served_to_the_last_reader(None).await;
    assert_eq!(served, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_earlier_reading_of_the_clock_an_old_row_is_served() {
    let (served, readings) = served_to_the_last_reader(Some(Mechanism::SharedClock)).await;
    assert_eq!(served, "old");
    // Nothing was loaded, so each reading was for readers.
    assert!(readings < u64::try_from(EARLY).unwrap(), "{readings}");
}
