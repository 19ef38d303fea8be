//! Queues that must survive a power failure. Writes are acknowledged when Redis has them on disk. A server that cannot
//! ensure it is refused.

use std::time::Duration;

use larder::{
    Cache, ErrorKind, Origin, Repository, entry,
    store::faulty::{Faults, Operation},
};
use larder_testing::{
    disk::{Disk, Writes},
    redis_server::RedisServer,
};
use sqlx::Sqlite;

use crate::{
    entities::of_items,
    world::{Kind, World},
};

const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const EVERY_SECOND: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];

of_items! {
    #[cached(strategy = "write_behind", partitions = 1)]
    struct Durable
}

fn row(id: i64, name: &str) -> Durable {
    Durable {
        id,
        name: name.to_owned(),
        note: None,
        quantity: 1,
    }
}

async fn cache_at(url: String) -> Cache {
    cache_with(url, &Faults::new()).await
}

async fn cache_with(url: String, faults: &Faults) -> Cache {
    let builder = Cache::builder().namespace("durable").faults(faults);
    let builder = builder.response_timeout(Duration::from_secs(10));
    builder.redis(url).listed(false).connect().await.unwrap()
}

/// A database, a Redis that syncs its file once a second, and a stand-in for its disk.
struct Scene {
    world: World<Sqlite>,
    cache: Cache,
    disk: Disk,
    rows: DurableRepository<Sqlite>,
    server: RedisServer,
    faults: Faults,
}

impl Scene {
    async fn open() -> Self {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        let server = RedisServer::start_with(&EVERY_SECOND).await;
        let disk = Disk::of(server.address()).await;
        let faults = Faults::new();
        let cache = cache_with(disk.url(), &faults).await;
        let rows = Durable::repository(&cache, world.pool.clone());
        rows.install().await.unwrap();
        rows.save(&row(1, "first")).await.unwrap();
        Self {
            world,
            cache,
            disk,
            rows,
            server,
            faults,
        }
    }

    fn start_to_save(&self, id: i64) -> tokio::task::JoinHandle<Result<(), larder::Error>> {
        let rows = self.rows.clone();
        tokio::spawn(async move { rows.save(&row(id, "later")).await.map(drop) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_acknowledged_when_it_is_on_disk_and_not_before() {
    let scene = Scene::open().await;
    scene.disk.set(Writes::Slowly);
    let waits = scene.disk.waits();
    let saving = scene.start_to_save(1);
    scene.disk.waited_for(waits + 1).await;
    // All readers see the write, but it is not acknowledged yet.
    let found = scene.rows.find_outcome(1).await.unwrap();
    assert_eq!(
        (found.origin, found.row.unwrap().name.as_str()),
        (Origin::Cache, "later")
    );
    assert!(!saving.is_finished());
    scene.disk.set(Writes::AtOnce);
    saving.await.unwrap().unwrap();
    scene.rows.flush().await.unwrap();
    let stored = scene.rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(stored.name, "later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_wait_for_the_disk_together() {
    let scene = Scene::open().await;
    scene.disk.set(Writes::Slowly);
    let waits = scene.disk.waits();
    let first = scene.start_to_save(1);
    scene.disk.waited_for(waits + 1).await;
    let before = scene.faults.calls(Operation::Put);
    let others: Vec<_> = (2..30).map(|id| scene.start_to_save(id)).collect();
    crate::world::eventually("the others are about to wait", async || {
        scene.faults.calls(Operation::Put) == before + 28
    })
    .await;
    scene.disk.set(Writes::AtOnce);
    for saving in others.into_iter().chain([first]) {
        saving.await.unwrap().unwrap();
    }
    // One wait for the first write, one for the group, and one if a thread was too slow to join the group.
    let waited = scene.disk.waits() - waits;
    assert!((2..=3).contains(&waited), "{waited} waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_refused_fails_alone_in_its_group() {
    let scene = Scene::open().await;
    scene.disk.set(Writes::Slowly);
    let waits = scene.disk.waits();
    let first = scene.start_to_save(1);
    scene.disk.waited_for(waits + 1).await;
    let rows: Repository<Durable, _> = Repository::new(&scene.cache, scene.world.pool.clone());
    // A write of a later version is in progress at its key.
    let key = rows.key(3).unwrap();
    let later = [entry::MAGIC, entry::FORMAT + 1, entry::kind::WRITING];
    let client = redis::Client::open(scene.server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut set = redis::cmd("SET");
    set.arg(key.as_bytes()).arg(&later[..]).arg("EX").arg(600);
    set.exec_async(&mut connection).await.unwrap();
    let before = scene.faults.calls(Operation::Put);
    let others: Vec<_> = (2..5).map(|id| scene.start_to_save(id)).collect();
    crate::world::eventually("the others are about to wait", async || {
        scene.faults.calls(Operation::Put) == before + 3
    })
    .await;
    scene.disk.set(Writes::AtOnce);
    first.await.unwrap().unwrap();
    let mut told = Vec::new();
    for saving in others {
        told.push(saving.await.unwrap().map_err(|error| error.kind()));
    }
    assert_eq!(told, [Ok(()), Err(ErrorKind::CacheUnavailable), Ok(())]);
}

/// The disk that does not write is the control of the one that does: acknowledged writes have waited for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_does_not_reach_the_disk_is_queued_and_not_acknowledged() {
    let scene = Scene::open().await;
    scene.disk.set(Writes::Never);
    let error = scene.rows.save(&row(1, "later")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    let found = scene.rows.find(1).await.unwrap().unwrap();
    assert_eq!(found.name, "later");
    let mut other = scene.start_to_save(2);
    let error = (&mut other).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    scene.disk.set(Writes::AtOnce);
    scene.rows.save(&row(3, "safe")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_while_its_disk_is_waited_for_is_replaced_and_no_other_is() {
    let scene = Scene::open().await;
    scene.disk.set(Writes::Lost);
    let error = scene.rows.save(&row(1, "later")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    let found = scene.rows.find_outcome(1).await.unwrap();
    assert_eq!(
        (found.origin, found.row.unwrap().name.as_str()),
        (Origin::Cache, "later")
    );
    scene.disk.set(Writes::AtOnce);
    scene.rows.save(&row(1, "safe")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_caller_keeps_its_place_in_the_disk_wait() {
    let scene = Scene::open().await;
    scene.disk.set(Writes::Slowly);
    let waits = scene.disk.waits();
    let impatient = scene.start_to_save(1);
    scene.disk.waited_for(waits + 1).await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    let before = scene.faults.calls(Operation::Put);
    let others: Vec<_> = (1..4).map(|id| scene.start_to_save(id)).collect();
    crate::world::eventually("the others are about to wait", async || {
        scene.faults.calls(Operation::Put) == before + 3
    })
    .await;
    // While a wait is not over, nothing else is sent on its connection.
    assert_eq!(scene.disk.waits(), waits + 1);
    scene.disk.set(Writes::AtOnce);
    for saving in others {
        saving.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_has_an_unknown_outcome_if_redis_is_killed_during_waitaof() {
    let mut scene = Scene::open().await;
    scene.disk.set(Writes::Slowly);
    let waits = scene.disk.waits();
    let saving = scene.start_to_save(1);
    scene.disk.waited_for(waits + 1).await;
    scene.server.kill().await;
    let error = saving.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    scene.disk.set(Writes::AtOnce);
    scene.server.restart().await;
    crate::world::eventually("Redis takes a write", async || {
        scene.rows.save(&row(2, "after")).await.is_ok()
    })
    .await;
}

/// Returns how often a server has executed `WAITAOF`.
async fn waits(server: &RedisServer) -> u64 {
    let told = server.command(&["INFO", "commandstats"]).await.unwrap();
    let told: String = redis::from_redis_value(told).unwrap();
    let (_, calls) = told.split_once("cmdstat_waitaof:calls=").unwrap();
    calls.split(',').next().unwrap().parse().unwrap()
}

/// A server that supports `WAITAOF` is asked. A server that does not support it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_flushes_once_a_second_is_asked_for_its_disk_or_refused() {
    for program in RedisServer::programs() {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        let server = RedisServer::start_program(&program, &EVERY_SECOND).await;
        let rows = Durable::repository(&cache_at(server.url()).await, world.pool.clone());
        rows.install().await.unwrap();
        let knows = server.command(&["WAITAOF", "0", "0", "0"]).await.is_ok();
        eprintln!("{} knows WAITAOF: {knows}", program.display());
        if !knows {
            let error = rows.save(&row(1, "first")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("Redis 7.2"), "{error}");
            continue;
        }
        rows.save(&row(1, "first")).await.unwrap();
        let before = waits(&server).await;
        rows.save(&row(1, "second")).await.unwrap();
        assert_eq!(waits(&server).await, before + 1);
        // From now on nothing reaches the disk.
        let never = ["CONFIG", "SET", "appendfsync", "no"];
        server.command(&never).await.unwrap();
        let error = rows.save(&row(1, "later")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_could_lose_acknowledged_writes_is_refused_with_what_to_change() {
    let never = ["--appendonly", "yes", "--appendfsync", "no"];
    let evicting = [&ALWAYS[..], &["--maxmemory-policy", "allkeys-lru"]].concat();
    let cases: [(&[&str], &str); 3] = [
        (&[], "appendonly yes"),
        (&never, "appendfsync"),
        (&evicting, "maxmemory-policy"),
    ];
    for (options, told) in cases {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        let server = RedisServer::start_with(options).await;
        let rows = Durable::repository(&cache_at(server.url()).await, world.pool.clone());
        rows.install().await.unwrap();
        for error in [
            rows.start_flushing().await.unwrap_err(),
            rows.save(&row(1, "x")).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains(told), "{error}");
        }
    }
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let server = RedisServer::start_with(&ALWAYS).await;
    let rows = Durable::repository(&cache_at(server.url()).await, world.pool.clone());
    rows.install().await.unwrap();
    drop(rows.start_flushing().await.unwrap());
}

/// After an unnoticed restart, the server would assign numbers again that the database takes for applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hides_its_run_id_keeps_no_queue() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let server = RedisServer::start_with(&ALWAYS).await;
    let user = [
        "ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all", "-info",
    ];
    server.command(&user).await.unwrap();
    let rows = Durable::repository(&cache_at(server.url()).await, world.pool.clone());
    rows.install().await.unwrap();
    let error = rows.save(&row(1, "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`INFO`"), "{error}");
}
