//! Rows of every size: the size of a read and of a row is limited, and no row costs the connection.

use std::time::Duration;

use larder::{
    Cache, CacheBuilder, ErrorKind, Origin, Repository,
    partition_keys::PartitionKeys,
    queue_position::Incarnation,
    store::{
        Mechanism, Payload, Store,
        faulty::Faults,
        queue::{Fetch, Fetched, QueueStore},
    },
};
use larder_testing::{
    log,
    proxy::{Direction, Proxy},
    redis_server::RedisServer,
};
use sqlx::{Pool, Sqlite};
use tokio::sync::watch;

use crate::{
    entities::{Behind, BehindRepository, Item, Through, of_items},
    world::{Kind, World, at_once, unique, until},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The maximum size of a batch.
const MAX_BYTES: usize = 8 * MIB;
/// Longer than any command takes here, so that a slow machine does not look like a lost connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// A database and a Redis for one test, because of the amount of data.
struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    faults: Faults,
    cache: Cache,
    run: u64,
    /// How many lines were logged before about a server with this address.
    lines: usize,
}

impl Scene {
    async fn open(left_out: &[Mechanism]) -> Self {
        Self::with(&[], left_out, |builder| builder).await
    }

    async fn with(
        options: &[&str],
        left_out: &[Mechanism],
        options_of: impl FnOnce(CacheBuilder) -> CacheBuilder,
    ) -> Self {
        log::listen();
        let world = World::<Sqlite>::open(Kind::Memory).await;
        let server = RedisServer::start_with(options).await;
        let lines = log::lines(server.address()).len();
        let faults = Faults::new();
        for mechanism in left_out {
            faults.leave_out(*mechanism);
        }
        let builder = Cache::builder()
            .redis(server.url())
            .listed(false)
            .faults(&faults);
        let builder = builder.response_timeout(PATIENCE).connect_timeout(PATIENCE);
        let cache = options_of(builder).connect().await.unwrap();
        let run = cache.store().connection_number();
        Self {
            world,
            server,
            faults,
            cache,
            run,
            lines,
        }
    }

    async fn behind(&self, pool: &Pool<Sqlite>) -> BehindRepository<Sqlite> {
        let rows = Behind::repository(&self.cache, pool.clone());
        rows.install().await.unwrap();
        rows
    }

    /// Fails if the data connection was lost since the start.
    fn assert_same_link(&self) {
        assert!(self.cache.store().is_available(), "there is a link");
        assert_eq!(
            self.cache.store().connection_number(),
            self.run,
            "the link is the same"
        );
    }

    /// Returns the length of each row in the database, with its id.
    async fn lengths(&self) -> Vec<(i64, i64)> {
        let asked = sqlx::query_as("SELECT id, LENGTH(name) FROM items ORDER BY id");
        asked.fetch_all(&self.world.pool).await.unwrap()
    }

    fn lines(&self) -> Vec<(bool, String)> {
        log::lines(self.server.address()).split_off(self.lines)
    }

    /// Waits until the log has named a setting of the server.
    async fn is_named(&self, setting: &str) {
        let address = self.server.address();
        until("the reason is said", || log::names(address, setting)).await;
    }
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn row(id: i64, length: usize) -> Behind {
    Behind::new(id, &text(length))
}

/// Saves `count` rows of one length, from several tasks.
async fn save_all(rows: &BehindRepository<Sqlite>, count: usize, length: usize) {
    const TASKS: usize = 8;
    at_once(TASKS, |task| {
        let rows = rows.clone();
        async move {
            for id in (0..count).filter(|id| id % TASKS == task) {
                rows.save(&row(id.try_into().unwrap(), length))
                    .await
                    .unwrap();
            }
        }
    })
    .await;
}

/// Saves rows while the database is unreachable, and then flushes them. Returns whether the connection to Redis has lasted.
async fn drained(scene: &Scene, count: usize, length: usize) -> bool {
    let one = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let options = scene.world.pool.connect_options();
    let pool = one.connect_with((*options).clone()).await.unwrap();
    let rows = scene.behind(&pool).await;
    let flusher = rows.start_flushing().await.unwrap();
    let held = pool.acquire().await.unwrap();
    save_all(&rows, count, length).await;
    drop(held);
    let same = async {
        if let Err(error) = flusher.shutdown(Duration::from_secs(60)).await {
            eprintln!("{error}");
            return false;
        }
        let length = i64::try_from(length).unwrap();
        let expected: Vec<_> = (0..i64::try_from(count).unwrap())
            .map(|id| (id, length))
            .collect();
        assert!(scene.lengths().await == expected, "each row is there");
        assert_eq!(rows.stats().dead_letters, 0);
        true
    };
    let lost = until("the link is another one", || {
        scene.cache.store().connection_number() != scene.run
    });
    let same = tokio::select! {
        same = same => same,
        () = lost => false,
    };
    pool.close().await;
    same
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_rows_of_any_size_reach_the_database_over_one_connection() {
    for (count, length) in [
        (1_000, 40 * KIB),
        (160, MIB),
        (3_000, 3 * KIB),
        (30, 3 * MIB),
    ] {
        let scene = Scene::open(&[]).await;
        assert!(drained(&scene, count, length).await, "{count} of {length}");
        scene.assert_same_link();
        assert_eq!(scene.lines(), []);
        scene.world.database.close().await;
    }
}

/// This link cannot transfer a full batch within the response time-out, but it can transfer a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_is_given_smaller_batches() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let server = RedisServer::start_with(&[]).await;
    let proxy = Proxy::start(server.address());
    let builder = Cache::builder()
        .redis(format!("redis://{}", proxy.address()))
        .listed(false);
    let cache = builder.connect().await.unwrap();
    let rows = Behind::repository(&cache, world.pool.clone());
    rows.install().await.unwrap();
    const COUNT: usize = 400;
    save_all(&rows, COUNT, 40 * KIB).await;
    // About 64 KiB in 8 ms: a batch of 8 MiB takes a second, and the time-out is half a second.
    proxy.delay(Direction::ToClient, Duration::from_millis(8));
    let flusher = rows.start_flushing().await.unwrap();
    flusher.shutdown(Duration::from_secs(60)).await.unwrap();
    proxy.heal();
    assert_eq!(rows.stats().dead_letters, 0);
    assert_eq!(rows.pending().await.unwrap().count, 0);
    for id in 0..i64::try_from(COUNT).unwrap() {
        let row = rows.find_uncached(id).await.unwrap();
        assert!(row.is_some(), "row {id}");
    }
    world.database.close().await;
}

/// The server accepts small rows, and rejects the command that lists large ones. Small rows in the same script call are
/// queued, and so are later rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_listed_fails_alone() {
    let scene = Scene::open(&[]).await;
    let rows = scene.behind(&scene.world.pool).await;
    save_all(&rows, 8, 10).await;
    let command = ["ACL", "SETUSER", "default", "-zadd"];
    scene.server.command(&command).await.unwrap();
    let saved = at_once(32, |task| {
        let rows = rows.clone();
        async move {
            let mut taken = Vec::new();
            for turn in 0..8 {
                let id = i64::try_from(100 + task * 8 + turn).unwrap();
                let length = if turn % 2 == 0 { 10 } else { 5 * KIB };
                if rows.save(&row(id, length)).await.is_ok() {
                    taken.push((id, length));
                }
            }
            taken
        }
    });
    let taken: Vec<_> = saved.await.into_iter().flatten().collect();
    assert_eq!(taken.len(), 32 * 4);
    assert!(taken.iter().all(|(_, length)| *length == 10));
    let command = ["ACL", "SETUSER", "default", "+zadd"];
    scene.server.command(&command).await.unwrap();
    save_all(&rows, 8, 5 * KIB).await;
    rows.flush().await.unwrap();
    assert_eq!(scene.lengths().await.len(), 8 + taken.len());
    assert_eq!(rows.stats().lost_writes, 0);
    scene.world.database.close().await;
}

/// The negative control: reads without a limit, on a connection that small entries share, and that also receives messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_three_mechanisms_such_rows_cost_the_link() {
    let without = [
        Mechanism::OwnMessages,
        Mechanism::LargeConnection,
        Mechanism::ReadBound,
    ];
    let scene = Scene::open(&without).await;
    assert!(!drained(&scene, 160, MIB).await);
    // Either the server counts the closing, or larder names the limit for this kind of connection.
    until("it is said", || !scene.lines().is_empty()).await;
    scene.world.database.close().await;
}

/// A row that is larger than a batch is read alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_33_mib_is_refused_with_its_kind_and_goes_through_where_it_is_allowed() {
    let scene = Scene::open(&[]).await;
    let rows = scene.behind(&scene.world.pool).await;
    rows.save(&row(1, 10)).await.unwrap();
    for error in [
        rows.save(&row(2, 33 * MIB)).await.unwrap_err(),
        rows.update(&row(1, 5 * MIB)).await.unwrap_err(),
        rows.insert(&row(3, 4 * MIB)).await.unwrap_err(),
        rows.modify(1, |row| row.name = text(4 * MIB))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        let said = error.to_string();
        assert!(
            said.contains("`max_row` allows 4194304") && said.contains("Behind"),
            "{said}"
        );
    }
    assert_eq!(rows.pending().await.unwrap().count, 1);
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, text(10));
    assert_eq!((rows.stats().too_large, rows.stats().write_errors), (4, 4));
    scene.assert_same_link();

    let scene = Scene::with(&[], &[], |builder| builder.max_row(64 * MIB)).await;
    let rows = scene.behind(&scene.world.pool).await;
    let flusher = rows.start_flushing().await.unwrap();
    for (id, length) in [(1, 10), (2, 33 * MIB), (3, 10), (4, 9 * MIB), (5, 10)] {
        rows.save(&row(id, length)).await.unwrap();
    }
    assert_eq!(rows.find(2).await.unwrap().unwrap().name.len(), 33 * MIB);
    flusher.shutdown(Duration::from_secs(60)).await.unwrap();
    let lengths: Vec<_> = scene.lengths().await;
    let long = |mib: usize| i64::try_from(mib * MIB).unwrap();
    assert_eq!(
        lengths,
        [(1, 10), (2, long(33)), (3, 10), (4, long(9)), (5, 10)]
    );
    scene.assert_same_link();
}

of_items! {
    /// The row of the items with a bound of its own.
    #[cached(
        strategy = "write_behind",
        durability = "memory",
        max_row = "1 KiB",
        partitions = 1
    )]
    struct Bounded
}

of_items! {
    /// The same over a journal.
    #[cached(
        strategy = "write_behind",
        max_row = "1 KiB",
        journal = "bounded"
    )]
    struct Journaled
}

/// Returns the length of the name of a row with this encoded size.
fn name_in(bytes: usize) -> usize {
    let encoded = |length: usize| {
        let row = Item {
            name: text(length),
            ..Item::new(1, "")
        };
        larder::Codec::MessagePack.encode(&row).unwrap().len()
    };
    bytes - (encoded(600) - 600)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_may_have_as_many_bytes_as_its_bound_and_not_one_more() {
    let scene = Scene::with(&[], &[], |builder| builder.max_row(10)).await;
    let rows = Bounded::repository(&scene.cache, scene.world.pool.clone());
    rows.install().await.unwrap();
    let bounded = |id: i64, name: String| Bounded {
        id,
        name,
        note: None,
        quantity: 1,
    };
    let most = name_in(KIB);
    rows.save(&bounded(1, text(most))).await.unwrap();
    let error = rows.save(&bounded(1, text(most + 1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("it has 1025 bytes"), "{error}");
    rows.flush().await.unwrap();
    assert_eq!(scene.lengths().await, [(1, i64::try_from(most).unwrap())]);

    // With the cache's own limit, into which no row fits.
    scene.world.put(&Item::new(2, "two")).await;
    // In a namespace of its own, because no other entity is cached beside queued writes.
    let apart = scene.cache.with_namespace(unique("bound")).unwrap();
    let items = Item::repository(&apart, scene.world.pool.clone());
    for judged in 1..4 {
        let outcome = items.find_outcome(2).await.unwrap();
        assert_eq!(outcome.origin, Origin::Database);
        until("it was judged", || items.stats().too_large == judged).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_takes_no_larger_row_either() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::builder().journal_dir(folder.path()).build().unwrap();
    let rows = Journaled::repository(&cache, world.pool.clone());
    rows.install().await.unwrap();
    let journaled = |length: usize| Journaled {
        id: 1,
        name: text(length),
        note: None,
        quantity: 1,
    };
    let most = name_in(KIB);
    rows.save(&journaled(most)).await.unwrap();
    let error = rows.save(&journaled(most + 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(rows.find(1).await.unwrap().unwrap().name.len(), most);
    rows.flush().await.unwrap();
    world.database.close().await;
}

#[test]
fn no_row_fits_into_nothing() {
    let error = Cache::builder().max_row(0).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

of_items! {
    /// The row of the items under a name that no other test has, because its lines in the log are counted.
    #[cached(ttl = "10m")]
    struct Manual
}

/// Inserts a long row without larder. The database creates the text, so that no statement contains it.
async fn put_long(world: &World<Sqlite>, id: i64, bytes: usize) {
    let half = bytes / 2;
    world
        .sql(format!(
            "INSERT INTO items VALUES ({id}, hex(zeroblob({half})), NULL, 1)"
        ))
        .await;
}

/// Reads a row that is too large, and returns when that was counted. A read does not wait for it.
async fn find_too_large(rows: &ManualRepository<Sqlite>, id: i64) {
    let before = rows.stats().too_large;
    let outcome = rows.find_outcome(id).await.unwrap();
    assert_eq!(outcome.origin, Origin::Database);
    assert!(outcome.row.unwrap().name.len() >= MIB);
    until("it was judged", || rows.stats().too_large == before + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_40_mb_is_not_cached_and_costs_no_link() {
    let scene = Scene::open(&[]).await;
    put_long(&scene.world, 1, 40_000_000).await;
    put_long(&scene.world, 2, 4 * MIB).await;
    put_long(&scene.world, 3, 3 * MIB).await;
    let rows = Manual::repository(&scene.cache, scene.world.pool.clone());
    for id in [1, 2, 1, 2] {
        find_too_large(&rows, id).await;
    }
    assert_eq!(log::troubles_of("Manual"), 1, "one line");
    rows.find(3).await.unwrap();
    until("it is stored", || rows.stats().fills_accepted == 1).await;
    assert_eq!(rows.find_outcome(3).await.unwrap().origin, Origin::Cache);
    assert_eq!(rows.stats().store_errors, 0);
    scene.assert_same_link();
    assert_eq!(scene.lines(), []);
    scene.world.database.close().await;
}

/// The limit also applies to the cache update of a write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_too_large_is_not_cached_and_drops_the_earlier_entry() {
    let scene = Scene::open(&[]).await;
    let rows = Through::repository(&scene.cache, scene.world.pool.clone());
    rows.save(&Through::new(1, "short")).await.unwrap();
    assert_eq!(rows.find_outcome(1).await.unwrap().origin, Origin::Cache);
    let long = Through::new(1, &text(5 * MIB));
    let saved = rows.save(&long).await.unwrap();
    assert_eq!(saved.name.len(), 5 * MIB, "its caller has it");
    let outcome = rows.find_outcome(1).await.unwrap();
    assert_eq!(
        (outcome.origin, outcome.row.unwrap().name.len()),
        (Origin::Database, 5 * MIB)
    );
    assert!(rows.stats().too_large >= 1);
    scene.assert_same_link();
    scene.world.database.close().await;
}

/// The negative control: the same row without the mechanisms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_bound_a_row_of_40_mb_costs_the_link_that_messages_arrive_on() {
    let without = [Mechanism::OwnMessages, Mechanism::LargeConnection];
    let scene = Scene::with(&[], &without, |builder| builder.max_row(100 * MIB)).await;
    put_long(&scene.world, 1, 40_000_000).await;
    let rows = Manual::repository(&scene.cache, scene.world.pool.clone());
    rows.find(1).await.unwrap();
    until("it is stored", || rows.stats().fills_accepted == 1).await;
    rows.find(1).await.unwrap();
    until("the link is another one", || {
        scene.cache.store().connection_number() != scene.run
    })
    .await;
    scene.world.database.close().await;
}

/// Each of these servers accepts at most a megabyte at once.
const SMALL_SERVERS: [[&str; 2]; 2] = [
    ["--proto-max-bulk-len", "1mb"],
    ["--client-query-buffer-limit", "1mb"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_above_the_servers_limit_is_not_sent() {
    for options in SMALL_SERVERS {
        let scene = Scene::with(&options, &[], |builder| builder).await;
        put_long(&scene.world, 100, 3 * MIB / 2).await;
        put_long(&scene.world, 101, MIB).await;
        let manuals = Manual::repository(&scene.cache, scene.world.pool.clone());
        for id in [100, 101, 100, 101] {
            find_too_large(&manuals, id).await;
        }
        let rows = scene.behind(&scene.world.pool).await;
        for length in [3 * MIB, MIB] {
            let error = rows.save(&row(1, length)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert!(error.to_string().contains(&options[0][2..]), "{error}");
        }
        // Rows that are slightly smaller are all accepted.
        save_all(&rows, 20, 900 * KIB).await;
        rows.flush().await.unwrap();
        assert_eq!(scene.lengths().await.len(), 22);
        assert_eq!(rows.stats().store_errors, 0);
        scene.assert_same_link();
        scene.world.database.close().await;
    }
}

/// The negative control: the row is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_above_the_servers_limit_costs_the_link_if_it_is_sent() {
    for options in SMALL_SERVERS {
        let scene = Scene::with(&options, &[Mechanism::StoreBound], |builder| builder).await;
        let rows = scene.behind(&scene.world.pool).await;
        rows.save(&row(1, 10)).await.unwrap();
        let error = rows.save(&row(1, 3 * MIB)).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::TooLarge);
        until("the link is another one", || {
            scene.cache.store().connection_number() != scene.run
        })
        .await;
        scene.world.database.close().await;
    }
}

/// Redis closes a connection because of one of its limits. The log names the setting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_the_setting_that_cost_a_connection() {
    let options = ["--client-output-buffer-limit", "normal 1mb 0 0"];
    let scene = Scene::with(&options, &[], |builder| builder).await;
    put_long(&scene.world, 1, 2 * MIB).await;
    let rows = Manual::repository(&scene.cache, scene.world.pool.clone());
    rows.find(1).await.unwrap();
    until("it is stored", || rows.stats().fills_accepted == 1).await;
    rows.find(1).await.unwrap();
    scene.is_named(options[0].trim_start_matches('-')).await;
    scene.world.database.close().await;
}

/// The same with a server that counts its closings, as newer ones do for each limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_reports_a_counted_closing_once_and_its_end() {
    let options = ["--maxmemory-clients", "3mb"];
    let scene = Scene::with(&options, &[], |builder| builder.max_row(64 * MIB)).await;
    put_long(&scene.world, 1, 20 * MIB).await;
    let rows = Manual::repository(&scene.cache, scene.world.pool.clone());
    // The fill exceeds the limit of the server for all clients together.
    rows.find(1).await.unwrap();
    until("it was said", || scene.lines().len() >= 2).await;
    scene.assert_same_link();
    put_long(&scene.world, 2, MIB).await;
    rows.find(2).await.unwrap();
    let line = |trouble: bool, code: &str| (trouble, code.to_owned());
    let expected = [
        line(true, "UNREACHABLE"),
        line(true, "maxmemory-clients"),
        line(false, "maxmemory-clients"),
    ];
    until("it was said", || scene.lines().len() >= 3).await;
    assert_eq!(scene.lines(), expected);
    scene.world.database.close().await;
}

/// The control: the log names no setting for a link that is lost for another reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_no_setting_for_a_killed_link() {
    let scene = Scene::open(&[]).await;
    let kill = ["CLIENT", "KILL", "TYPE", "normal"];
    scene.server.command(&kill).await.unwrap();
    until("the link is another one", || {
        scene.cache.store().connection_number() != scene.run
    })
    .await;
    let line = |trouble: bool| (trouble, "UNREACHABLE".to_owned());
    until("it was said", || scene.lines().len() >= 2).await;
    assert_eq!(scene.lines(), [line(true), line(false)]);
    assert!(!log::names(
        scene.server.address(),
        "client-output-buffer-limit"
    ));
    scene.world.database.close().await;
}

/// Returns the partition of a row as the store knows it, and its incarnation.
async fn queue_of(
    scene: &Scene,
    rows: &Repository<Behind, Sqlite>,
    id: i64,
) -> (PartitionKeys, Incarnation) {
    let key = rows.key(id).unwrap();
    let key = String::from_utf8(key.as_bytes().to_vec()).unwrap();
    let tag = key.split(['{', '}']).nth(1).unwrap();
    let (name, number) = tag.rsplit_once(":p").unwrap();
    let partition = PartitionKeys::new(name, u16::from_str_radix(number, 16).unwrap());
    assert!(partition.holds(&rows.key(id).unwrap()));
    let nothing = Incarnation { epoch: 0, nonce: 0 };
    let seen = fetch(scene, &partition, nothing, 0, 0).await;
    (partition, seen.current.unwrap())
}

async fn fetch(
    scene: &Scene,
    partition: &PartitionKeys,
    incarnation: Incarnation,
    after: u64,
    count: u32,
) -> Fetched {
    let fetch = Fetch {
        incarnation,
        after,
        count,
        claim_ms: 0,
        is_first: false,
    };
    scene.cache.store().fetch(partition, fetch).await.unwrap()
}

fn bytes(fetched: &Fetched) -> usize {
    let writes = fetched.writes.iter().map(|write| match &write.payload {
        Payload::Bytes(entry, _) => entry.len() + write.key.as_bytes().len(),
        Payload::Shared(..) => 0,
    });
    writes.sum()
}

/// Reads one partition while rows of all sizes are put. Returns the size of the largest batch.
async fn largest_batch(scene: &Scene, sizes: &'static [usize]) -> usize {
    let rows = scene.behind(&scene.world.pool).await;
    rows.save(&row(0, 10)).await.unwrap();
    let (partition, incarnation) = queue_of(scene, rows.inner(), 0).await;
    // All writes are of one row, so that they are in one partition.
    const WRITES: usize = 160;
    // Enough writes that the largest ones do not fit into one batch.
    const TOGETHER: usize = 40;
    let (put, mut is_put) = watch::channel(0);
    let putting = tokio::spawn({
        let rows = rows.clone();
        async move {
            for turn in 0..WRITES {
                rows.save(&row(0, sizes[turn * 7 % sizes.len()]))
                    .await
                    .unwrap();
                put.send_replace(turn + 1);
            }
        }
    });
    let (mut after, mut largest) = (0, 0);
    while after <= WRITES as u64 {
        let enough = WRITES.min(usize::try_from(after).unwrap() + TOGETHER);
        let put = is_put.wait_for(|put| *put >= enough).await;
        put.expect("every save succeeds");
        let fetched = fetch(scene, &partition, incarnation, after, 1_000).await;
        if fetched.writes.len() > 1 {
            largest = largest.max(bytes(&fetched));
        }
        for write in &fetched.writes {
            after += 1;
            assert_eq!(write.pending.position.number, after, "no write is left out");
        }
    }
    putting.await.unwrap();
    // Once more from the first write, whose sizes are no longer known.
    let fetched = fetch(scene, &partition, incarnation, 0, 1_000).await;
    assert!(fetched.writes.len() > 1);
    largest.max(bytes(&fetched))
}

const MIXED: [usize; 8] = [100, 40 * KIB, MIB, 3_900, 4_200, 3 * MIB, 10, 600 * KIB];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_puts_do_not_make_a_batch_too_large_in_redis() {
    for sizes in [&MIXED[..], &[100 * KIB], &[10, 10, 10, 4 * MIB - 100]] {
        let scene = Scene::open(&[]).await;
        let sizes: &'static [usize] = sizes.to_vec().leak();
        let largest = largest_batch(&scene, sizes).await;
        assert!(largest <= MAX_BYTES, "{largest} bytes");
        // The batches are not much smaller than the limit.
        assert!(largest > MAX_BYTES / 3, "{largest} bytes");
        scene.world.database.close().await;
    }
}

/// The negative control.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bound_a_batch_has_as_many_bytes_as_there_are() {
    let scene = Scene::open(&[Mechanism::ReadBound]).await;
    let largest = largest_batch(&scene, &MIXED).await;
    assert!(largest > 2 * MAX_BYTES, "{largest} bytes");
    scene.world.database.close().await;
}

/// The list of large writes is trimmed with the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_large_writes_that_have_left_the_queue() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut scene = Scene::with(&options, &[], |builder| builder).await;
    let rows = scene.behind(&scene.world.pool).await;
    let listed = async |scene: &Scene| {
        let keys = scene.server.command(&["KEYS", "larder:q:*:large"]).await;
        let keys: Vec<String> = redis::from_redis_value(keys.unwrap()).unwrap();
        keys.len()
    };
    save_all(&rows, 16, 5 * KIB).await;
    assert!(listed(&scene).await > 0);
    rows.flush().await.unwrap();
    assert_eq!(listed(&scene).await, 0, "after a flush");
    // The same for incarnations that have ended.
    save_all(&rows, 40, 600 * KIB).await;
    scene.server.kill().await;
    scene.server.restart().await;
    until("there is another link", || {
        scene.cache.store().connection_number() != scene.run
    })
    .await;
    save_all(&rows, 40, 5 * KIB).await;
    rows.flush().await.unwrap();
    let long = i64::try_from(5 * KIB).unwrap();
    assert!(scene.lengths().await.iter().all(|row| row.1 == long));
    assert_eq!(scene.lengths().await.len(), 40);
    assert_eq!(listed(&scene).await, 0, "after a restart");
    assert_eq!(rows.stats().lost_writes, 0);
    scene.world.database.close().await;
}

/// A flush that has committed a batch and not settled it reads the batch again, with the same limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rows_that_were_committed_and_not_settled_are_settled() {
    use larder::store::faulty::Operation;
    let scene = Scene::open(&[]).await;
    let rows = scene.behind(&scene.world.pool).await;
    save_all(&rows, 60, MIB).await;
    scene.faults.fail(Operation::Settle, 1_000);
    rows.flush().await.unwrap_err();
    scene.faults.fail(Operation::Settle, 0);
    let elsewhere = Cache::builder().redis(scene.server.url()).listed(false);
    let elsewhere = elsewhere
        .response_timeout(PATIENCE)
        .connect()
        .await
        .unwrap();
    let elsewhere = Behind::repository(&elsewhere, scene.world.pool.clone());
    elsewhere.flush().await.unwrap();
    assert_eq!(scene.lengths().await.len(), 60);
    assert_eq!(elsewhere.pending().await.unwrap().count, 0);
    scene.assert_same_link();
    scene.world.database.close().await;
}
