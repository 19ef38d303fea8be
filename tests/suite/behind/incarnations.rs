//! Queues whose store was restarted, emptied, restored from older data, or has lost a row. No write is skipped or applied
//! twice, and lost writes are counted.

use std::time::Duration;

use larder::{
    Cache, ErrorKind, Origin, Repository,
    store::{
        Mechanism, Store,
        faulty::{Faults, Operation},
    },
};
use larder_testing::redis_server::RedisServer;
use sqlx::Sqlite;

use crate::{
    entities::{Behind, BehindRepository, Item, of_items},
    world::{Kind, World, eventually},
};

const AOF: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A database, and a Redis that can be restarted.
struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    faults: Faults,
    cache: Cache,
    rows: BehindRepository<Sqlite>,
}

impl Scene {
    async fn open(options: &[&str]) -> Self {
        Self::open_without(options, &[]).await
    }

    async fn open_without(options: &[&str], left_out: &[Mechanism]) -> Self {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        let server = RedisServer::start_with(options).await;
        let faults = Faults::new();
        for mechanism in left_out {
            faults.leave_out(*mechanism);
        }
        let cache = cache(&server, &faults).await;
        let rows = Behind::repository(&cache, world.pool.clone());
        rows.install().await.unwrap();
        Self {
            world,
            server,
            faults,
            cache,
            rows,
        }
    }

    /// Returns the rows as a process sees them that starts now.
    async fn elsewhere(&self) -> BehindRepository<Sqlite> {
        let cache = cache(&self.server, &Faults::new()).await;
        Behind::repository(&cache, self.world.pool.clone())
    }

    async fn save(&self, id: i64, name: &str) {
        self.rows.save(&Behind::new(id, name)).await.unwrap();
    }

    /// Saves a row as soon as Redis is reachable again.
    async fn save_when_back(&self, id: i64, name: &str) {
        eventually("Redis takes a write", async || {
            self.rows.save(&Behind::new(id, name)).await.is_ok()
        })
        .await;
    }

    async fn in_database(&self, id: i64) -> Option<String> {
        let row = self.rows.find_uncached(id).await.unwrap();
        row.map(|row| row.name.clone())
    }

    /// Returns the keys of Redis that match a pattern.
    async fn keys(&self, pattern: &str) -> Vec<String> {
        let found = self.server.command(&["KEYS", pattern]).await.unwrap();
        redis::from_redis_value(found).unwrap()
    }

    async fn drop_row(&self, id: i64) {
        let rows: Repository<Behind, _> = Repository::new(&self.cache, self.world.pool.clone());
        let key = rows.key(id).unwrap();
        let key = String::from_utf8(key.as_bytes().to_vec()).unwrap();
        self.server.command(&["DEL", &key]).await.unwrap();
    }
}

async fn cache(server: &RedisServer, faults: &Faults) -> Cache {
    let builder = Cache::builder().namespace("queues").faults(faults);
    let builder = builder.response_timeout(Duration::from_secs(10));
    builder
        .redis(server.url())
        .listed(false)
        .connect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_row_that_redis_has_dropped_is_read_from_the_queue() {
    let scene = Scene::open(&[]).await;
    scene.world.put(&Item::new(1, "old")).await;
    scene.save(1, "new").await;
    scene.drop_row(1).await;
    let outcome = scene.rows.find_outcome(1).await.unwrap();
    assert_eq!(
        (outcome.origin, outcome.row.unwrap().name.as_str()),
        (Origin::Cache, "new")
    );
    // The row is at its key again for later reads, and for a change.
    scene.drop_row(1).await;
    scene.rows.modify(1, |row| row.name += "er").await.unwrap();
    scene.rows.delete(1).await.unwrap();
    scene.drop_row(1).await;
    assert_eq!(scene.rows.find(1).await.unwrap(), None);
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_pending_index_an_evicted_row_is_read_from_the_database() {
    let scene = Scene::open_without(&[], &[Mechanism::PendingIndex]).await;
    scene.world.put(&Item::new(1, "old")).await;
    scene.save(1, "new").await;
    scene.drop_row(1).await;
    assert_eq!(scene.rows.find(1).await.unwrap().unwrap().name, "old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_killed_and_has_lost_nothing_keeps_every_write_visible_and_in_order() {
    let mut scene = Scene::open(&AOF).await;
    for id in 0..20 {
        scene.save(id, "before").await;
    }
    scene.server.kill().await;
    scene.server.restart().await;
    eventually("Redis is used again", async || {
        scene.rows.find_outcome(0).await.unwrap().origin == Origin::Cache
    })
    .await;
    for id in 0..20 {
        assert_eq!(scene.rows.find(id).await.unwrap().unwrap().name, "before");
    }
    for id in 10..30 {
        scene.save_when_back(id, "after").await;
    }
    scene
        .rows
        .modify(3, |row| row.name += " modified")
        .await
        .unwrap();
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(2).await.unwrap(), "before");
    assert_eq!(scene.in_database(3).await.unwrap(), "before modified");
    for id in 10..30 {
        assert_eq!(scene.in_database(id).await.unwrap(), "after");
    }
    let stats = scene.rows.stats();
    assert_eq!((stats.lost_writes, stats.dead_letters), (0, 0));
    assert_eq!(scene.rows.pending().await.unwrap().count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lost_writes_of_a_redis_that_came_back_empty_are_counted() {
    let mut scene = Scene::open(&[]).await;
    scene.save(1, "flushed").await;
    scene.rows.flush().await.unwrap();
    for _ in 0..5 {
        scene.save(1, "lost").await;
    }
    scene.server.kill().await;
    scene.server.restart().await;
    scene.save_when_back(1, "after").await;
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "after");
    assert_eq!(scene.rows.stats().lost_writes, 5);
    let lost = scene
        .world
        .text("SELECT CAST(SUM(lost) AS TEXT) FROM larder_offsets")
        .await;
    assert_eq!(lost, "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_came_back_older_applies_nothing_twice_and_skips_nothing() {
    let mut scene = Scene::open(&AOF).await;
    scene.save(1, "one").await;
    scene.save(2, "two").await;
    let copy = scene.server.copy();
    scene.save(1, "uno").await;
    scene.rows.flush().await.unwrap();
    scene.rows.delete(2).await.unwrap();
    scene.rows.flush().await.unwrap();
    scene.server.kill().await;
    scene.server.put_back(&copy);
    scene.server.restart().await;
    // The entries at the keys are older than the database, and are not served.
    eventually("Redis is used again", async || {
        let name = scene.rows.find(1).await.unwrap().unwrap().name.clone();
        assert_eq!(name, "uno");
        scene.cache.store().is_available()
    })
    .await;
    assert_eq!(scene.rows.find(1).await.unwrap().unwrap().name, "uno");
    assert_eq!(scene.rows.find(2).await.unwrap(), None);
    // The store assigns numbers that were assigned before, and their writes are applied.
    for name in ["a", "b", "c", "d"] {
        scene.save_when_back(3, name).await;
    }
    scene.elsewhere().await.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "uno");
    assert_eq!(scene.in_database(2).await, None);
    assert_eq!(scene.in_database(3).await.unwrap(), "d");
    assert_eq!(scene.rows.stats().lost_writes, 0);
    eventually("the row is cached again", async || {
        scene.rows.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_flushall_a_queue_begins_again_and_its_loss_is_counted() {
    let scene = Scene::open(&[]).await;
    scene.save(1, "lost").await;
    scene.save(1, "lost too").await;
    scene.server.command(&["FLUSHALL"]).await.unwrap();
    scene.save(2, "after").await;
    scene.save(1, "after").await;
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "after");
    assert_eq!(scene.in_database(2).await.unwrap(), "after");
    assert_eq!(scene.rows.stats().lost_writes, 2);
}

/// Removes a log. Returns the row in the database after that, and the number of writes that are counted as lost.
async fn a_log_is_removed(left_out: &[Mechanism]) -> (Option<String>, u64) {
    let scene = Scene::open_without(&[], left_out).await;
    for name in ["one", "two", "three"] {
        scene.save(1, name).await;
    }
    for log in scene.keys("*:log:*").await {
        scene.server.command(&["DEL", &log]).await.unwrap();
    }
    scene.save(1, "four").await;
    scene.rows.flush().await.unwrap();
    (scene.in_database(1).await, scene.rows.stats().lost_writes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writes_of_a_removed_log_are_counted_as_lost() {
    assert_eq!(a_log_is_removed(&[]).await, (Some("four".to_owned()), 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_gap_count_the_writes_of_a_removed_log_are_not_counted() {
    let told = a_log_is_removed(&[Mechanism::GapCount]).await;
    assert_eq!(told, (Some("four".to_owned()), 0));
}

/// Redis comes back with a queued write that was flushed and overwritten since. Returns what is read.
async fn a_flushed_write_comes_back(left_out: &[Mechanism]) -> String {
    let mut scene = Scene::open_without(&AOF, left_out).await;
    scene.save(1, "old").await;
    let copy = scene.server.copy();
    scene.rows.flush().await.unwrap();
    scene.save(1, "new").await;
    scene.rows.flush().await.unwrap();
    scene.server.kill().await;
    scene.server.put_back(&copy);
    scene.server.restart().await;
    eventually("Redis is used again", async || {
        scene.cache.store().is_available()
    })
    .await;
    scene.rows.find(1).await.unwrap().unwrap().name.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_write_that_a_restart_has_brought_back_is_not_served() {
    assert_eq!(a_flushed_write_comes_back(&[]).await, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_position_check_a_restored_write_is_served() {
    let served = a_flushed_write_comes_back(&[Mechanism::StalePending]).await;
    assert_eq!(served, "old");
}

of_items! {
    #[cached(
        strategy = "write_behind",
        durability = "memory",
        partitions = 1
    )]
    struct Single
}

/// Another process has committed a batch, has not settled it yet, and knows which rows may stay cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_settles_its_own_batch() {
    let scene = Scene::open(&[]).await;
    let rows = Single::repository(&scene.cache, scene.world.pool.clone());
    let row = Single {
        id: 1,
        name: "one".to_owned(),
        note: None,
        quantity: 1,
    };
    rows.save(&row).await.unwrap();
    scene.faults.fail(Operation::Settle, 1);
    rows.flush().await.unwrap_err();
    assert!(rows.find_uncached(1).await.unwrap().is_some());
    let state = scene.keys("*:Single*:state").await.remove(0);
    let claim = state.replace(":state", ":flusher");
    let claimed = ["SET", &claim, "another process", "PX", "600000"];
    scene.server.command(&claimed).await.unwrap();
    let faults = Faults::new();
    let elsewhere = cache(&scene.server, &faults).await;
    let elsewhere = Single::repository(&elsewhere, scene.world.pool.clone());
    let flusher = elsewhere.start_flushing().await.unwrap();
    // The flusher fetches when it starts, when it finds the claim, and when it finds it again.
    eventually("the flusher has looked twice", async || {
        faults.calls(Operation::Fetch) > 2
    })
    .await;
    assert_eq!(faults.calls(Operation::Settle), 0);
    let outcome = elsewhere.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    // Now the claim expires, as if the process had died.
    scene.server.command(&["DEL", &claim]).await.unwrap();
    eventually("the batch is settled", async || {
        faults.calls(Operation::Settle) > 0
    })
    .await;
    drop(flusher);
}

/// Of the seven writes after the flush, the third, the fourth and the last two are gone. Two processes know of the last
/// ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_and_a_lost_end_of_one_log_are_counted_together_and_once() {
    let scene = Scene::open(&[]).await;
    let elsewhere = scene.elsewhere().await;
    scene.save(1, "flushed").await;
    scene.rows.flush().await.unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        scene.save(1, name).await;
    }
    elsewhere.save(&Behind::new(1, "f")).await.unwrap();
    scene.save(1, "g").await;
    for log in scene.keys("*:log:*").await {
        for number in ["0-4", "0-5", "0-7", "0-8"] {
            scene.server.command(&["XDEL", &log, number]).await.unwrap();
        }
    }
    // The store begins another history, and does not know the last number of this one.
    for state in scene.keys("*:state").await {
        scene.server.command(&["DEL", &state]).await.unwrap();
    }
    scene.save(2, "after").await;
    scene.save(1, "after").await;
    elsewhere.flush().await.unwrap();
    scene.rows.flush().await.unwrap();
    elsewhere.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "after");
    let lost = scene
        .world
        .text("SELECT CAST(SUM(lost) AS TEXT) FROM larder_offsets")
        .await;
    assert_eq!(lost, "4");
    assert_eq!(
        scene.rows.stats().lost_writes + elsewhere.stats().lost_writes,
        4
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_were_counted_as_lost_and_come_back_late_are_dead_letters_and_not_counted_again()
 {
    let mut scene = Scene::open(&AOF).await;
    for name in ["a", "b", "c"] {
        scene.save(1, name).await;
    }
    for log in scene.keys("*:log:*").await {
        scene.server.command(&["XDEL", &log, "0-2"]).await.unwrap();
    }
    let copy = scene.server.copy();
    scene.server.command(&["FLUSHALL"]).await.unwrap();
    scene.save(1, "after").await;
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.rows.stats().lost_writes, 3);
    scene.server.kill().await;
    scene.server.put_back(&copy);
    scene.server.restart().await;
    scene.save_when_back(2, "later").await;
    scene.save_when_back(1, "later").await;
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "later");
    let letters = scene.rows.dead_letters().list(10).await.unwrap();
    let numbers: Vec<_> = letters
        .iter()
        .map(larder::behind::letters::DeadLetter::number)
        .collect();
    assert_eq!(numbers, [1, 3]);
    assert_eq!(scene.rows.stats().lost_writes, 3);
}

/// Redis has been cut off, and does not know that its successor has closed the incarnation. It goes on to accept writes, of
/// which none may disappear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_to_a_server_that_was_cut_off_become_dead_letters_however_late_they_come() {
    let scene = Scene::open(&[]).await;
    scene.save(1, "flushed").await;
    scene.rows.flush().await.unwrap();
    scene
        .world
        .sql("UPDATE larder_offsets SET closed = 1")
        .await;
    for (number, name) in [(2, "late"), (3, "later")] {
        scene.save(1, name).await;
        scene.rows.flush().await.unwrap();
        let letters = scene.rows.dead_letters().list(10).await.unwrap();
        let last = letters.last().unwrap();
        assert_eq!(
            (
                letters.len(),
                last.number(),
                last.row().unwrap().name.as_str()
            ),
            (number - 1, number as u64, name)
        );
    }
    assert_eq!(scene.in_database(1).await.unwrap(), "flushed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_closed_incarnation_is_removed() {
    let mut scene = Scene::open(&AOF).await;
    scene.save(1, "before").await;
    let before = scene.keys("*:log:*").await;
    scene.server.kill().await;
    scene.server.restart().await;
    scene.save_when_back(1, "after").await;
    assert!(scene.keys("*:log:*").await.len() > before.len());
    scene.rows.flush().await.unwrap();
    scene.rows.flush().await.unwrap();
    let after = scene.keys("*:log:*").await;
    assert!(before.iter().all(|log| !after.contains(log)), "{after:?}");
    assert_eq!(scene.in_database(1).await.unwrap(), "after");
}

/// Returns the statement in an error message.
fn statement(error: &larder::Error) -> String {
    let text = error.to_string();
    text.split('`').nth(1).unwrap().to_owned()
}

/// Until the row exists again, writes are acknowledged and wait, and every operation on the queue returns the error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_position_was_deleted_reports_it_and_continues_when_the_row_is_inserted() {
    let scene = Scene::open(&[]).await;
    scene.save(1, "flushed").await;
    scene.rows.flush().await.unwrap();
    let flusher = scene.rows.start_flushing().await.unwrap();
    scene.world.sql("DELETE FROM larder_offsets").await;
    scene.save(1, "waits").await;
    scene.save(1, "waits too").await;
    let elsewhere = scene.elsewhere().await;
    for error in [
        scene.rows.flush().await.unwrap_err(),
        scene.rows.pending().await.unwrap_err(),
        elsewhere.flush().await.unwrap_err(),
        elsewhere.pending().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("larder_offsets"), "{error}");
    }
    eventually("the flusher fails", async || {
        scene.rows.stats().flush_retries > 0
    })
    .await;
    assert_eq!(scene.in_database(1).await.unwrap(), "flushed");
    assert_eq!(scene.rows.find(1).await.unwrap().unwrap().name, "waits too");
    // The error has one statement for each partition.
    while let Err(error) = elsewhere.pending().await {
        scene.world.sql(statement(&error)).await;
    }
    flusher.shutdown(Duration::from_secs(30)).await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "waits too");
    assert_eq!(scene.rows.stats().lost_writes, 0);
}

/// A new incarnation has begun, so the one with the deleted row gets no more writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_an_earlier_incarnation_whose_position_was_deleted_wait_and_come_first() {
    let mut scene = Scene::open(&AOF).await;
    scene.save(1, "one").await;
    scene.rows.flush().await.unwrap();
    scene.save(1, "two").await;
    scene.save(2, "two").await;
    scene.world.sql("DELETE FROM larder_offsets").await;
    scene.server.kill().await;
    scene.server.restart().await;
    scene.save_when_back(1, "three").await;
    let error = scene.rows.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert_eq!(scene.in_database(1).await.unwrap(), "one");
    while let Err(error) = scene.rows.pending().await {
        scene.world.sql(statement(&error)).await;
    }
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "three");
    assert_eq!(scene.in_database(2).await.unwrap(), "two");
    assert_eq!(scene.rows.stats().lost_writes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_read_after_redis_has_lost_its_scripts() {
    let scene = Scene::open(&[]).await;
    scene.save(1, "one").await;
    scene.save(1, "two").await;
    scene.server.command(&["SCRIPT", "FLUSH"]).await.unwrap();
    assert_eq!(scene.rows.pending().await.unwrap().count, 2);
    scene.server.command(&["SCRIPT", "FLUSH"]).await.unwrap();
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "two");
    assert_eq!(scene.rows.pending().await.unwrap().count, 0);
}

/// A flush frees memory, and must not need any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_flushed_from_a_redis_that_has_no_memory_left() {
    let scene = Scene::open(&[]).await;
    scene.save(1, "one").await;
    let full = ["CONFIG", "SET", "maxmemory", "1"];
    scene.server.command(&full).await.unwrap();
    let refused = scene.rows.save(&Behind::new(2, "two")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::CacheUnavailable, "{refused}");
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "one");
    assert_eq!(scene.rows.pending().await.unwrap().count, 0);
    assert_eq!(scene.in_database(2).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_redis_type_at_a_key_does_not_block_a_flush() {
    let scene = Scene::open(&[]).await;
    scene.save(1, "one").await;
    scene.save(2, "two").await;
    scene.drop_row(1).await;
    let rows: Repository<Behind, _> = Repository::new(&scene.cache, scene.world.pool.clone());
    let key = rows.key(1).unwrap();
    let key = String::from_utf8(key.as_bytes().to_vec()).unwrap();
    let list = ["LPUSH", &key, "not a row"];
    scene.server.command(&list).await.unwrap();
    scene.rows.flush().await.unwrap();
    assert_eq!(scene.in_database(1).await.unwrap(), "one");
    assert_eq!(scene.rows.pending().await.unwrap().count, 0);
    // A read finds the list at the key, and uses the database.
    assert_eq!(scene.rows.find(1).await.unwrap().unwrap().name, "one");
}
