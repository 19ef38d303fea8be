//! Flushers that start, stop or are called while a server is unreachable.

use std::time::Duration;

use larder::{Cache, ErrorKind, store::faulty::Operation};
use larder_testing::{log, redis_server::RedisServer};
use sqlx::Sqlite;
use tokio::time::Instant;

use crate::{
    behind::put::behind,
    entities::{Behind, BehindRepository, of_items},
    lost_transactions::dropped_after,
    world::{Kind, Tested, World, eventually, everywhere, on_both_stores, on_servers, unique},
};

/// The number of writes in a queue.
const WRITES: i64 = 39;

async fn fill<DB: Tested>(rows: &BehindRepository<DB>) {
    for id in 0..WRITES {
        rows.save(&Behind::new(id, "kept")).await.unwrap();
    }
}

async fn in_database<DB: Tested>(rows: &BehindRepository<DB>) -> i64 {
    let mut count = 0;
    for id in 0..WRITES {
        count += i64::from(rows.find_uncached(id).await.unwrap().is_some());
    }
    count
}

async fn a_shutdown_retries_until_everything_is_flushed<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    fill(&rows).await;
    let flusher = rows.start_flushing().await.unwrap();
    world.faults.fail(Operation::Fetch, 30);
    world.faults.leave_unanswered(Operation::Settle, 3);
    flusher.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(in_database(&rows).await, WRITES);
    assert_eq!(rows.pending().await.unwrap().count, 0);
}

async fn a_shutdown_returns_the_last_error_at_its_deadline_and_not_before<DB: Tested>(
    world: &World<DB>,
) {
    let rows = behind(world).await;
    fill(&rows).await;
    let flusher = rows.start_flushing().await.unwrap();
    world.faults.fail(Operation::Fetch, u64::MAX);
    let deadline = Duration::from_millis(400);
    let began = Instant::now();
    let failed = flusher.shutdown(deadline).await.unwrap_err();
    assert!(began.elapsed() >= deadline, "after {:?}", began.elapsed());
    assert_eq!(failed.kind(), ErrorKind::CacheUnavailable);
    world.faults.fail(Operation::Fetch, 0);
    rows.flush().await.unwrap();
    assert_eq!(in_database(&rows).await, WRITES);
}

/// A retry would not help.
async fn a_shutdown_returns_a_mistake_in_the_configuration_at_once<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    let flusher = rows.start_flushing().await.unwrap();
    world.sql("DROP TABLE larder_offsets").await;
    fill_unflushed(&rows).await;
    let began = Instant::now();
    let failed = flusher.shutdown(Duration::from_secs(3_600)).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Configuration);
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// Queues writes that no flusher can flush.
async fn fill_unflushed<DB: Tested>(rows: &BehindRepository<DB>) {
    for id in 0..WRITES {
        rows.save(&Behind::new(id, "kept")).await.unwrap();
    }
}

/// Missing tables of larder are a mistake in the configuration. A missing table of the user may come back.
async fn a_shutdown_waits_for_a_table_that_comes_back<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    fill(&rows).await;
    world.sql("ALTER TABLE items RENAME TO away").await;
    let flusher = rows.start_flushing().await.unwrap();
    let shutdown = tokio::spawn(flusher.shutdown(Duration::from_secs(60)));
    eventually("it has failed", async || rows.stats().flush_retries > 0).await;
    assert!(!shutdown.is_finished());
    world.sql("ALTER TABLE away RENAME TO items").await;
    shutdown.await.unwrap().unwrap();
    assert_eq!(in_database(&rows).await, WRITES);
}

everywhere! {
    a_shutdown_retries_until_everything_is_flushed,
    a_shutdown_returns_the_last_error_at_its_deadline_and_not_before,
    a_shutdown_returns_a_mistake_in_the_configuration_at_once,
    a_shutdown_waits_for_a_table_that_comes_back,
}

/// A Redis that can be killed, with a queue in it.
struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    rows: BehindRepository<Sqlite>,
    queue: String,
}

impl Scene {
    async fn open() -> Self {
        log::listen();
        let world = World::<Sqlite>::open(Kind::Memory).await;
        let options = ["--appendonly", "yes", "--appendfsync", "always"];
        let server = RedisServer::start_with(&options).await;
        let namespace = unique("flushers");
        let builder = Cache::builder()
            .namespace(&namespace)
            .redis(server.url())
            .listed(false);
        let cache = builder.connect().await.unwrap();
        let rows = Behind::repository(&cache, world.pool.clone());
        Self {
            world,
            server,
            rows,
            queue: format!("{namespace}:Behind/4"),
        }
    }

    fn logged(&self) -> Vec<String> {
        logged_of(&self.queue)
    }
}

/// Returns what was logged about flushing a queue.
fn logged_of(queue: &str) -> Vec<String> {
    let lines = log::texts_with("queue", queue).into_iter();
    lines
        .filter(|(_, text)| text.starts_with("flushing"))
        .map(|(_, text)| text)
        .collect()
}

/// The link is lost, and the flusher has not noticed it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_a_redis_that_comes_back() {
    let mut scene = Scene::open().await;
    scene.rows.install().await.unwrap();
    fill(&scene.rows).await;
    let flusher = scene.rows.start_flushing().await.unwrap();
    // No task is past its first step.
    scene.server.kill().await;
    let left = WRITES - in_database(&scene.rows).await;
    let shutdown = tokio::spawn(flusher.shutdown(Duration::from_secs(60)));
    scene.server.restart().await;
    shutdown.await.unwrap().unwrap();
    assert_eq!(in_database(&scene.rows).await, WRITES, "{left} were left");
    scene.world.database.close().await;
}

const FAILS: &str = "flushing fails and is tried again; the writes wait in their order";
const CANNOT: &str = "flushing cannot continue until the cause of this error is corrected; the writes wait in their order";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushing_starts_while_redis_is_unreachable_and_continues_by_itself() {
    let mut scene = Scene::open().await;
    scene.rows.install().await.unwrap();
    scene.server.kill().await;
    let flusher = scene.rows.start_flushing().await.unwrap();
    let retries = scene.rows.stats().flush_retries;
    eventually("all tasks have failed some times", async || {
        scene.rows.stats().flush_retries > retries + 12
    })
    .await;
    assert_eq!(scene.logged(), [FAILS]);
    scene.server.restart().await;
    eventually("a write is taken", async || {
        scene.rows.save(&Behind::new(1, "one")).await.is_ok()
    })
    .await;
    eventually("it is flushed", async || {
        scene.rows.find_uncached(1).await.unwrap().is_some()
    })
    .await;
    eventually("the end of the trouble is told", async || {
        scene.logged().len() == 2
    })
    .await;
    assert_eq!(scene.logged(), [FAILS, "flushing again"]);
    drop(flusher);
    scene.world.database.close().await;
}

/// The database can be checked without Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_tables_are_an_error_of_the_start_also_while_redis_is_unreachable() {
    let mut scene = Scene::open().await;
    scene.server.kill().await;
    let error = scene.rows.start_flushing().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("install"), "{error}");
    scene.world.database.close().await;
}

/// Redis cannot be checked when flushing starts. The tasks check it later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flusher_that_began_without_a_server_drains_the_queue_when_it_is_shut_down() {
    let mut scene = Scene::open().await;
    scene.rows.install().await.unwrap();
    fill(&scene.rows).await;
    scene.server.kill().await;
    let flusher = scene.rows.start_flushing().await.unwrap();
    scene.server.restart().await;
    flusher.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(in_database(&scene.rows).await, WRITES);
    scene.world.database.close().await;
}

async fn flushing_starts_while_the_database_is_unreachable_and_continues_by_itself<DB: Tested>(
    world: &World<DB>,
) {
    let rows = behind(world).await;
    fill(&rows).await;
    let elsewhere = Behind::repository(&world.cache, world.pool.clone());
    world.database.proxy().refuse();
    world.database.proxy().reset();
    let flusher = elsewhere.start_flushing().await.unwrap();
    eventually("it has failed", async || {
        elsewhere.stats().flush_retries > 0
    })
    .await;
    world.database.proxy().heal();
    eventually("everything is flushed", async || {
        let pending = elsewhere.pending().await;
        pending.is_ok_and(|pending| pending.count == 0)
    })
    .await;
    assert_eq!(in_database(&rows).await, WRITES);
    drop(flusher);
}

/// Its tables are missing, which cannot be detected while the database is unreachable.
async fn a_mistake_that_turns_out_later_is_logged<DB: Tested>(world: &World<DB>) {
    log::listen();
    let rows = Behind::repository(&world.cache, world.pool.clone());
    let proxy = world.database.proxy();
    proxy.refuse();
    proxy.reset();
    let flusher = rows.start_flushing().await.unwrap();
    eventually("it has failed", async || rows.stats().flush_retries > 0).await;
    proxy.heal();
    let logged = || logged_of(&format!("{}:Behind/4", world.namespace));
    eventually("the mistake is told", async || logged().len() > 1).await;
    rows.install().await.unwrap();
    eventually("the tasks find what they need", async || logged().len() > 2).await;
    assert_eq!(logged(), [FAILS, CANNOT, "flushing again"]);
    drop(flusher);
}

async fn pending_is_answered_while_the_database_is_unreachable<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    rows.save(&Behind::new(100, "flushed")).await.unwrap();
    rows.flush().await.unwrap();
    fill(&rows).await;
    let known = rows.pending().await.unwrap();
    let proxy = world.database.proxy();
    proxy.refuse();
    proxy.reset();
    let told = rows.pending().await.unwrap();
    assert_eq!((told.count, known.count), (39, 39));
    assert!(told.oldest >= known.oldest && known.oldest.is_some());
    // A database that does not answer at all.
    proxy.heal();
    proxy.blackhole();
    proxy.reset();
    let began = Instant::now();
    assert_eq!(rows.pending().await.unwrap().count, 39);
    assert!(began.elapsed() < Duration::from_secs(15));
    proxy.heal();
    proxy.reset();
    rows.flush().await.unwrap();
    assert_eq!(rows.pending().await.unwrap().count, 0);
}

on_servers! {
    flushing_starts_while_the_database_is_unreachable_and_continues_by_itself,
    a_mistake_that_turns_out_later_is_logged,
    pending_is_answered_while_the_database_is_unreachable,
}

of_items! {
    #[cached(strategy = "write_behind", durability = "memory")]
    struct Volatile
}

of_items! {
    #[cached(strategy = "write_behind", journal = "kept")]
    struct Journaled
}

/// Only a queue in this process without a journal loses its writes with the process.
async fn the_log_warns_of_a_queue_that_a_crash_loses<DB: Tested>(world: &World<DB>) {
    log::listen();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::builder().journal_dir(folder.path());
    let cache = cache.namespace(&*world.namespace).build().unwrap();
    let rows = Volatile::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    let journaled = Journaled::repository(&cache, world.pool.clone());
    let _flushers = (
        rows.start_flushing().await.unwrap(),
        journaled.start_flushing().await.unwrap(),
    );
    let warnings = |entity| {
        let lines = log::lines_with("entity", entity);
        let about = |line: &&log::Line, field, part: &str| {
            line.field(field).is_some_and(|text| text.contains(part))
        };
        let lines = lines
            .iter()
            .filter(|line| about(line, "queue", &world.namespace));
        lines
            .filter(|line| about(line, "message", "a crash loses them"))
            .count()
    };
    assert_eq!(
        warnings("Volatile"),
        usize::from(world.kind == Kind::Memory)
    );
    assert_eq!(warnings("Journaled"), 0);
}

on_both_stores! {
    the_log_warns_of_a_queue_that_a_crash_loses,
}

/// All connections are in use.
async fn pending_is_answered_while_the_pool_has_no_connection<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    fill(&rows).await;
    let gate = world.close_gate().await;
    assert_eq!(rows.pending().await.unwrap().count, 39);
    // With a short timeout, the pool reports that it has no connection.
    let options = world.pool.options().clone();
    let options = options
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(50));
    let pool = options.connect_lazy_with((*world.pool.connect_options()).clone());
    // To connect may take longer than that.
    let mut held = None;
    eventually("there is a connection", async || {
        held = pool.acquire().await.ok();
        held.is_some()
    })
    .await;
    let impatient = Behind::repository(&world.cache, pool.clone());
    assert_eq!(impatient.pending().await.unwrap().count, 39);
    drop((gate, held));
    rows.flush().await.unwrap();
    assert_eq!(rows.pending().await.unwrap().count, 0);
}

/// Whenever the call is dropped, it leaves no task.
async fn a_start_that_is_dropped_starts_nothing<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    let mut waits = 0;
    let flusher = loop {
        let fresh = Behind::repository(&world.cache, world.pool.clone());
        match dropped_after(waits, Box::pin(fresh.start_flushing())).await {
            Some(flusher) => break flusher.unwrap(),
            None => waits += 1 + waits / 20,
        }
    };
    drop(flusher);
    assert!(waits > 0);
    fill(&rows).await;
    let told = rows.pending().await.unwrap();
    assert_eq!(told.count, 39, "a task flushes");
}

everywhere! {
    pending_is_answered_while_the_pool_has_no_connection,
    a_start_that_is_dropped_starts_nothing,
}
