//! Wake-ups have a connection of their own: a fault of that connection fails no operation, and it is made again.

use std::time::Duration;

use larder::{
    Cache, Origin, Repository,
    store::{
        Mechanism, Store,
        faulty::{Faults, Operation, Pause},
    },
    token::ProcessId,
};
use larder_testing::{
    log,
    proxy::{Point, Proxy},
    redis_server::RedisServer,
};
use redis::Value;
use sqlx::Sqlite;

use crate::{
    entities::{Item, ItemRepository},
    world::{Kind, World, eventually, unique, until},
};

/// A caller waits up to 10 s for another process's load. One that is served much earlier was woken.
const WELL_BEFORE: Duration = Duration::from_secs(7);
/// The response time-out for a server that is kept busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two caches in one Redis, as two processes have them, over one database.
struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    cache: Cache,
    faults: Faults,
    items: ItemRepository<Sqlite>,
    waiting: ItemRepository<Sqlite>,
    /// How many lines were logged before about a server with this address.
    lines: usize,
}

impl Scene {
    async fn open(options: &[&str], left_out: Option<Mechanism>) -> Self {
        let server = RedisServer::start_with(options).await;
        let url = server.url();
        Self::at(server, url, left_out, PATIENCE).await
    }

    async fn at(
        server: RedisServer,
        url: String,
        left_out: Option<Mechanism>,
        patience: Duration,
    ) -> Self {
        log::listen();
        let world = World::<Sqlite>::open(Kind::Memory).await;
        for id in 1..20 {
            world.put(&Item::new(id, "one")).await;
        }
        let lines = log::lines(server.address()).len();
        let namespace = unique("messages");
        let (faults, others) = (Faults::new(), Faults::new());
        for faults in [&faults, &others] {
            if let Some(mechanism) = left_out {
                faults.leave_out(mechanism);
            }
        }
        let open = async |faults: &Faults| {
            let builder = Cache::builder()
                .redis(url.clone())
                .listed(false)
                .namespace(&namespace);
            let builder = builder.response_timeout(patience);
            builder.faults(faults).connect().await.unwrap()
        };
        let (cache, elsewhere) = (open(&faults).await, open(&others).await);
        Self {
            items: Item::repository(&cache, world.pool.clone()),
            waiting: Item::repository(&elsewhere, world.pool.clone()),
            world,
            server,
            cache,
            faults,
            lines,
        }
    }

    /// Begins a load of a row whose fill is paused, and lets the other cache wait for it.
    async fn wait(&self, id: i64) -> (Pause, tokio::task::JoinHandle<Origin>) {
        let fill = self.faults.pause(Operation::Fill);
        self.items.find(id).await.unwrap();
        fill.reached().await;
        let waiting = self.waiting.clone();
        let waiter = tokio::spawn(async move {
            let outcome = waiting.find_outcome(id).await;
            outcome.unwrap().origin
        });
        self.has_waiter(id).await;
        (fill, waiter)
    }

    /// Waits until the entry lists a waiter: then it is longer than its header.
    async fn has_waiter(&self, id: i64) {
        let rows: Repository<Item, _> = Repository::new(&self.cache, self.world.pool.clone());
        let key = rows.key(id).unwrap();
        eventually("the server knows of the waiter", async || {
            let entry = self.cache.store().peek_bytes(&key).await.unwrap();
            entry.is_some_and(|(bytes, _)| bytes.len() > larder::entry::HEADER_LENGTH)
        })
        .await;
    }

    /// Returns whether the end of a load wakes a caller that waits for it.
    async fn wakes(&self, id: i64) -> bool {
        let (fill, waiter) = self.wait(id).await;
        fill.resume();
        let served = tokio::time::timeout(WELL_BEFORE, waiter).await;
        served.is_ok_and(|origin| origin.unwrap() == Origin::Cache)
    }

    async fn admin(&self, words: &[&str]) -> Value {
        self.server.command(words).await.unwrap()
    }

    /// Returns how many connections have subscribed.
    async fn subscribed(&self) -> usize {
        let list = self.admin(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        let list: String = redis::from_redis_value(list).unwrap();
        list.lines().count()
    }

    fn lines(&self) -> Vec<(bool, String)> {
        log::lines(self.server.address()).split_off(self.lines)
    }

    fn run(&self) -> u64 {
        self.cache.store().connection_number()
    }

    /// Calls `harm`, which interferes with the message connection. Fails if an operation fails, or the link is replaced.
    async fn costs_nothing(&self, harm: impl AsyncFnOnce()) {
        self.world.warm(&self.items, 1).await;
        let (run, errors) = (self.run(), self.items.stats().store_errors);
        harm().await;
        // Takes longer than the messages would need to arrive on the same connection.
        for _ in 0..200 {
            let outcome = self.items.find_outcome(1).await.unwrap();
            assert_eq!(outcome.origin, Origin::Cache);
            self.items.update(&Item::new(2, "new")).await.unwrap();
        }
        assert_eq!(self.run(), run, "the link is the same");
        assert_eq!(self.items.stats().store_errors, errors);
    }
}

/// Returns the name of the channel of this process, as Redis has it.
fn channel() -> Vec<u8> {
    [b"larder:wake:".as_slice(), &ProcessId::current().0].concat()
}

/// Publishes messages to this process from a script, more than any client could read in time.
async fn flood(server: &RedisServer, messages: u32, bytes: usize) {
    let client = redis::Client::open(server.url()).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connected = client.get_multiplexed_async_connection_with_config(&patient);
    let mut connection = connected.await.unwrap();
    let publish =
        "for _ = 1, ARGV[2] do redis.call('PUBLISH', ARGV[1], string.rep('x', ARGV[3])) end";
    redis::cmd("EVAL")
        .arg(publish)
        .arg(0)
        .arg(channel())
        .arg(messages)
        .arg(bytes)
        .exec_async(&mut connection)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_woken_from_the_first_operation_on() {
    let scene = Scene::open(&[], None).await;
    assert!(scene.wakes(3).await);
    // The subscribers have connections of their own.
    assert_eq!(scene.subscribed().await, 2);
    scene.world.database.close().await;
}

/// The same without wake-ups: the caller is served when its wait ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_permission_to_subscribe_operations_continue_and_one_line_is_logged() {
    let server = RedisServer::start().await;
    let deny = ["ACL", "SETUSER", "default", "-subscribe"];
    server.command(&deny).await.unwrap();
    let url = server.url();
    let scene = Scene::at(server, url, None, PATIENCE).await;
    let address = scene.server.address();
    scene.costs_nothing(async || ()).await;
    assert_eq!(scene.subscribed().await, 0);
    assert!(!scene.wakes(3).await, "who waits does so to its end");
    // One line for each of the two caches.
    let denied = (true, "NOPERM".to_owned());
    assert_eq!(log::lines(address), [denied.clone(), denied.clone()]);
    let allow = ["ACL", "SETUSER", "default", "+subscribe"];
    scene.admin(&allow).await;
    eventually("both have subscribed", async || {
        scene.subscribed().await == 2
    })
    .await;
    assert!(scene.wakes(4).await);
    until("it was said", || log::lines(address).len() == 4).await;
    let allowed = (false, "NOPERM".to_owned());
    assert_eq!(log::lines(address)[2..], [allowed.clone(), allowed]);
    scene.world.database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_costs_no_operation() {
    for (messages, bytes) in [(400_000, 100), (40_000, 4_000), (1, 40 << 20)] {
        let scene = Scene::open(&[], None).await;
        scene
            .costs_nothing(async || flood(&scene.server, messages, bytes).await)
            .await;
        // For each cache, one line with the setting, and one line when the problem has ended.
        until("it was said", || scene.lines().len() == 4).await;
        let troubles = scene.lines().iter().filter(|line| line.0).count();
        assert_eq!(troubles, 2);
        assert!(log::names(
            scene.server.address(),
            "client-output-buffer-limit"
        ));
        assert!(scene.wakes(3).await);
        scene.world.database.close().await;
    }
}

/// The negative control: on the data connection, the same messages cost the link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_data_connection_a_giant_message_costs_the_link() {
    let scene = Scene::open(&[], Some(Mechanism::OwnMessages)).await;
    assert!(scene.wakes(3).await, "messages arrive there as well");
    let run = scene.run();
    flood(&scene.server, 1, 40 << 20).await;
    until("the link is another one", || scene.run() != run).await;
    scene.world.database.close().await;
}

/// Short messages are read. Messages that are longer than any key are ignored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_without_a_waiter_are_ignored() {
    let scene = Scene::open(&[], None).await;
    scene
        .costs_nothing(async || {
            for (messages, bytes) in [(10_000, 0), (1_000, 200), (3, 5 << 20)] {
                flood(&scene.server, messages, bytes).await;
            }
        })
        .await;
    assert!(scene.wakes(3).await);
    assert_eq!(scene.lines(), []);
    scene.world.database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_message_connection_fails_no_operation_and_is_replaced() {
    let scene = Scene::open(&[], None).await;
    let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
    for id in 3..6 {
        scene
            .costs_nothing(async || {
                assert_eq!(scene.admin(&kill).await, Value::Int(2));
            })
            .await;
        eventually("both are there again", async || {
            scene.subscribed().await == 2
        })
        .await;
        assert!(scene.wakes(id).await);
    }
    // The wake-up was lost with the connection. The waiter is woken when the connection is made again.
    let (fill, waiter) = scene.wait(6).await;
    let waits = scene.waiting.stats().lease_waits;
    scene.admin(&kill).await;
    until("the waiter looks again", || {
        scene.waiting.stats().lease_waits > waits
    })
    .await;
    fill.resume();
    assert_eq!(waiter.await.unwrap(), Origin::Cache);
    scene.world.database.close().await;
}

/// The negative control: the same with messages on the data connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_data_connection_a_kill_costs_the_link() {
    let scene = Scene::open(&[], Some(Mechanism::OwnMessages)).await;
    let run = scene.run();
    scene.admin(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    until("the link is another one", || scene.run() != run).await;
    scene.world.database.close().await;
}

/// A PING detects a connection that the network has dropped without notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_messages_that_is_silent_is_made_again() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.address());
    let url = format!("redis://{}", proxy.address());
    let scene = Scene::at(server, url, None, Duration::from_secs(1)).await;
    // Links send INFO. Only message connections send PING.
    let held = [(); 2].map(|()| proxy.hold(Point::BeforeReply, "PING"));
    for held in &held {
        held.sprung().await;
    }
    let lost = (true, "UNREACHABLE".to_owned());
    let lines = || log::lines(proxy.address());
    until("both are given up", || {
        lines().iter().filter(|line| **line == lost).count() == 2
    })
    .await;
    until("both are there again", || lines().len() == 4).await;
    scene.costs_nothing(async || ()).await;
    assert!(scene.wakes(3).await);
    scene.world.database.close().await;
}

/// A link works from the start, even if its message connection cannot be made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_second_connection_operations_continue() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.address());
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world.put(&Item::new(1, "one")).await;
    // The message connection is the first one that subscribes, and it is cut there.
    let cut = proxy.cut(Point::BeforeRequest, "SUBSCRIBE");
    let url = format!("redis://{}", proxy.address());
    let cache = Cache::builder()
        .redis(url)
        .listed(false)
        .connect()
        .await
        .unwrap();
    assert!(cut.has_sprung());
    assert!(cache.store().is_available(), "there is a link");
    let run = cache.store().connection_number();
    let items = Item::repository(&cache, world.pool.clone());
    world.warm(&items, 1).await;
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    let lines = || log::lines(proxy.address());
    until("it has subscribed after all", || lines().len() == 2).await;
    let codes = [(true, "UNREACHABLE"), (false, "UNREACHABLE")];
    let codes = codes.map(|(trouble, code)| (trouble, code.to_owned()));
    assert_eq!(lines(), codes);
    assert_eq!(cache.store().connection_number(), run);
    world.database.close().await;
}
