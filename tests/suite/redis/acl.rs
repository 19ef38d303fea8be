//! The rights in docs/operations.md are those that larder needs: a user with exactly them is refused nothing, and uses each.
//!
//! The document has an `ACL SETUSER` line for each group of operations. The tests read the lines from there. The server
//! counts every command, also those inside scripts (`INFO commandstats`), and keeps what it has refused (`ACL LOG`).

use std::{collections::BTreeSet, path::Path, time::Duration};

use larder::{Cache, tags::MAX_MARKS};
use larder_testing::redis_server::RedisServer;
use redis::{FromRedisValue, Value};
use sqlx::Sqlite;

use crate::{
    entities::{Behind, BehindRepository, Item, of_items},
    world::{Kind, World, eventually, filled},
};

of_items! {
    /// Rows that are invalidated together.
    #[cached(name = "Item", ttl = "10m", tags("name:{name}"))]
    struct Tagged
}

of_items! {
    /// As safe as the disk of Redis.
    #[cached(strategy = "write_behind", linger = "1ms")]
    struct Durable
}

const DOCUMENT: &str = include_str!("../../../docs/operations.md");

/// What the tests send themselves, or what needs no right.
const OURS: [&str; 10] = [
    "acl|log",
    "acl|setuser",
    "append",
    "config|resetstat",
    "debug",
    "hello",
    "keys",
    "scard",
    "strlen",
    "unlink",
];

/// The groups of the document, by the heading above each.
const CACHE: &str = "### Every cache";
const NEWER: &str = "### Every cache, on Redis 7.2 or newer";
const ALL: &str = "### Dropping all rows";
const TAGS: &str = "### Tags";
const LISTING: &str = "### Listing for the command `larder`";
const QUEUE: &str = "### Write-behind";
const DISK: &str = "### Write-behind with `appendfsync everysec`";

/// The rights that a group adds, as the document writes them.
fn rights(group: &str) -> Vec<&'static str> {
    let mut lines = DOCUMENT.lines().skip_while(|line| *line != group).skip(1);
    let lines = lines.by_ref().take_while(|line| !line.starts_with('#'));
    let words = lines.filter_map(|line| line.strip_prefix("ACL SETUSER shop "));
    let rights: Vec<_> = words.flat_map(str::split_whitespace).collect();
    assert!(!rights.is_empty(), "{group} is in docs/operations.md");
    rights
}

struct Scene {
    world: World<Sqlite>,
    server: RedisServer,
    granted: Vec<&'static str>,
    /// Whether its caches list themselves.
    is_listed: bool,
}

impl Scene {
    /// A server with a user that has the rights of some groups.
    async fn of(groups: &[&str]) -> Self {
        Self::on(&RedisServer::programs()[0], groups).await
    }

    /// The same on another server.
    async fn on(program: &Path, groups: &[&str]) -> Self {
        let server = RedisServer::start_program(program, &["--appendonly", "yes"]).await;
        let mut granted: Vec<_> = groups.iter().flat_map(|group| rights(group)).collect();
        let known = server.command(&["COMMAND", "INFO", "client|setinfo"]).await;
        if known.unwrap() != Value::Array(vec![Value::Nil]) {
            granted.extend(rights(NEWER));
        }
        let is_listed = groups.contains(&LISTING);
        Self {
            is_listed,
            ..Self::with(server, granted).await
        }
    }

    async fn with(server: RedisServer, granted: Vec<&'static str>) -> Self {
        let world = World::<Sqlite>::open(Kind::Memory).await;
        for id in 1..=3 {
            world.put(&Item::new(id, "one")).await;
        }
        let scene = Self {
            world,
            server,
            granted,
            is_listed: false,
        };
        let user = ["ACL", "SETUSER", "shop"];
        scene.admin(&[&user[..], &scene.granted[..]].concat()).await;
        scene.admin(&["ACL", "LOG", "RESET"]).await;
        scene.admin(&["CONFIG", "RESETSTAT"]).await;
        scene
    }

    async fn admin(&self, words: &[&str]) -> Value {
        self.server.command(words).await.unwrap()
    }

    async fn cache(&self) -> Cache {
        let url = self
            .server
            .url()
            .replace("redis://", "redis://shop:secret@");
        let builder = Cache::builder().redis(url).namespace("shop");
        let builder = builder.listed(self.is_listed);
        let builder = builder.connect_timeout(Duration::from_secs(10));
        let builder = builder.response_timeout(Duration::from_secs(10));
        builder.connect().await.unwrap()
    }

    /// What was refused.
    async fn refused(&self) -> Vec<Value> {
        Vec::from_redis_value(self.admin(&["ACL", "LOG"]).await).unwrap()
    }

    /// The commands that were executed, with their subcommands.
    async fn used(&self) -> BTreeSet<String> {
        let stats = self.admin(&["INFO", "commandstats"]).await;
        let stats = String::from_redis_value(stats).unwrap();
        let names = stats
            .lines()
            .filter_map(|line| line.strip_prefix("cmdstat_"));
        let names = names.filter_map(|line| Some(line.split_once(':')?.0));
        let names = names.filter(|name| !OURS.contains(name));
        names.map(str::to_owned).collect()
    }

    /// Checks that the rights were sufficient, and that each command was needed.
    async fn check(&self) {
        assert_eq!(self.refused().await, []);
        let commands = self
            .granted
            .iter()
            .filter_map(|right| right.strip_prefix('+'));
        let granted: BTreeSet<String> = commands.map(str::to_owned).collect();
        assert_eq!(self.used().await, granted);
    }

    async fn names(&self, pattern: &str) -> Vec<String> {
        Vec::from_redis_value(self.admin(&["KEYS", pattern]).await).unwrap()
    }
}

/// Reads, writes, transactions, and callers of several processes that wait for one load.
async fn use_the_cache(scene: &Scene) {
    let world = &scene.world;
    let items = Item::repository(&scene.cache().await, world.pool.clone());
    world.warm(&items, 1).await;
    items.find(1).await.unwrap();
    world.warm(&items, 77).await;
    items.insert(&Item::new(10, "ten")).await.unwrap();
    items.update(&Item::new(1, "two")).await.unwrap();
    items
        .insert_many(&[Item::new(11, ""), Item::new(12, "")])
        .await
        .unwrap();
    items.delete(10).await.unwrap();
    world.warm(&items, 1).await;
    items.invalidate(1).await.unwrap();
    let elsewhere = Item::repository(&scene.cache().await, world.pool.clone());
    elsewhere.find(1).await.unwrap();
    let gate = world.close_gate().await;
    let find = |items: crate::entities::ItemRepository<Sqlite>| {
        tokio::spawn(async move { items.find(2).await.unwrap().unwrap() })
    };
    let leader = find(items.clone());
    let key = "shop:Item:2";
    let length = async || {
        let length = scene.admin(&["STRLEN", key]).await;
        usize::from_redis_value(length).unwrap()
    };
    eventually("there is a lease", async || length().await > 0).await;
    let alone = length().await;
    let follower = find(elsewhere);
    eventually("another cache waits for it", async || {
        length().await > alone
    })
    .await;
    drop(gate);
    assert_eq!(leader.await.unwrap(), follower.await.unwrap());
}

/// Puts of all kinds, flushes, rows and logs that were deleted, and another history of the server.
async fn use_the_queue(scene: &Scene) {
    let rows = Behind::repository(&scene.cache().await, scene.world.pool.clone());
    rows.install().await.unwrap();
    let flusher = rows.start_flushing().await.unwrap();
    rows.save(&Behind::new(1, "saved")).await.unwrap();
    rows.flush().await.unwrap();
    rows.modify(1, |row| row.quantity += 1).await.unwrap();
    rows.insert(&Behind::new(20, &"long".repeat(2_000)))
        .await
        .unwrap();
    rows.delete(2).await.unwrap();
    rows.flush().await.unwrap();
    eventually("the flusher waits for the next write", async || {
        rows.save(&Behind::new(1, "again")).await.unwrap();
        rows.flush().await.unwrap();
        scene.used().await.contains("publish")
    })
    .await;
    flusher.shutdown(Duration::from_secs(20)).await.unwrap();
    rows.save(&Behind::new(3, "deleted at its key"))
        .await
        .unwrap();
    for key in scene.names("{shop:Behind*:3").await {
        scene.admin(&["UNLINK", &key]).await;
    }
    let found = rows.find(3).await.unwrap().unwrap();
    assert_eq!(found.name, "deleted at its key");
    rows.pending().await.unwrap();
    rows.flush().await.unwrap();
    scene.admin(&["DEBUG", "CHANGE-REPL-ID"]).await;
    save_until_a_log_is_new(scene, &rows).await;
    rows.flush().await.unwrap();
    rows.find(1).await.unwrap();
    // The log of a partition is no log any more, so a write is refused.
    for log in scene.names("larder:q:{shop:Behind*:log:*").await {
        scene.admin(&["UNLINK", &log]).await;
        scene.admin(&["APPEND", &log, "no log"]).await;
    }
    let row = Behind::new(21, &"long".repeat(2_000));
    for id in 21..60 {
        let row = Behind { id, ..row.clone() };
        if rows.save(&row).await.is_err() {
            break;
        }
    }
}

/// Writes until Redis is used again, and the queue has begun another incarnation.
async fn save_until_a_log_is_new(scene: &Scene, rows: &BehindRepository<Sqlite>) {
    let sets = scene.names("larder:q:{shop:Behind*:logs").await;
    eventually("there are logs of two histories", async || {
        for id in 30..40 {
            let _unless_away = rows.save(&Behind::new(id, "later")).await;
        }
        let mut most = 0;
        for set in &sets {
            let count = scene.admin(&["SCARD", set]).await;
            most = most.max(u64::from_redis_value(count).unwrap());
        }
        most > 1
    })
    .await;
}

async fn use_the_disk(scene: &Scene) -> Result<(), larder::Error> {
    let rows = Durable::repository(&scene.cache().await, scene.world.pool.clone());
    rows.install().await?;
    let row = Durable {
        id: 90,
        name: "safe".to_owned(),
        note: None,
        quantity: 1,
    };
    rows.save(&row).await?;
    rows.flush().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_a_cache_are_sufficient_and_all_needed() {
    let scene = Scene::of(&[CACHE]).await;
    use_the_cache(&scene).await;
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_to_drop_all_rows_are_sufficient_and_all_needed() {
    let scene = Scene::of(&[CACHE, ALL]).await;
    use_the_cache(&scene).await;
    let cache = scene.cache().await;
    let items = Item::repository(&cache, scene.world.pool.clone());
    items.invalidate_all().await.unwrap();
    cache.rebind(&scene.world.pool).await.unwrap();
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_to_be_listed_are_sufficient_and_all_needed() {
    let scene = Scene::of(&[CACHE, LISTING]).await;
    use_the_cache(&scene).await;
    eventually("the processes are listed", async || {
        !scene.names("shop:@processes").await.is_empty()
    })
    .await;
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_tags_are_sufficient_and_all_needed() {
    let scene = Scene::of(&[CACHE, TAGS]).await;
    use_the_cache(&scene).await;
    let tagged = Tagged::repository(&scene.cache().await, scene.world.pool.clone());
    assert!(tagged.find(3).await.unwrap().is_some());
    filled(|| tagged.stats()).await;
    tagged.invalidate_name("another").await.unwrap();
    eventually("the row has a new stamp", async || {
        assert!(tagged.find(3).await.unwrap().is_some());
        scene.used().await.contains("setrange")
    })
    .await;
    let many = (0..=MAX_MARKS).map(|number| format!("name:{number}"));
    tagged.invalidate_tags(many).await.unwrap();
    tagged.invalidate_all().await.unwrap();
    assert!(tagged.find(3).await.unwrap().is_some());
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_write_behind_are_sufficient_and_all_needed() {
    let scene = Scene::of(&[CACHE, QUEUE]).await;
    use_the_cache(&scene).await;
    use_the_queue(&scene).await;
    scene.check().await;
}

/// A server that does not know `WAITAOF` refuses such a queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_write_behind_on_the_disk_are_sufficient_and_all_needed() {
    for program in RedisServer::programs() {
        let server = RedisServer::start_program(&program, &[]).await;
        let knows = server
            .command(&["COMMAND", "INFO", "waitaof"])
            .await
            .unwrap();
        if knows == Value::Array(vec![Value::Nil]) {
            let scene = Scene::on(&program, &[CACHE, QUEUE]).await;
            let refused = use_the_disk(&scene).await.unwrap_err();
            assert!(refused.to_string().contains("WAITAOF"), "{refused}");
            continue;
        }
        let scene = Scene::on(&program, &[CACHE, QUEUE, DISK]).await;
        use_the_cache(&scene).await;
        use_the_disk(&scene).await.unwrap();
        use_the_queue(&scene).await;
        scene.check().await;
    }
}

/// Each key pattern and channel is needed, and a command that is missing would have been noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_taken_away_is_missed() {
    let all = [rights(CACHE), rights(QUEUE)].concat();
    let is_pattern = |right: &str| right.starts_with(['~', '&']);
    let patterns: Vec<_> = all
        .iter()
        .copied()
        .filter(|right| is_pattern(right))
        .collect();
    assert!(patterns.len() >= 3, "{patterns:?}");
    for missing in patterns
        .into_iter()
        .chain(["+get", "+subscribe", "+xadd", "+info"])
    {
        assert!(all.contains(&missing), "{missing}");
        let rest = all.iter().copied().filter(|right| *right != missing);
        let server = RedisServer::start_with(&["--appendonly", "yes"]).await;
        let scene = Scene::with(server, rest.collect()).await;
        let cache = scene.cache().await;
        let items = Item::repository(&cache, scene.world.pool.clone());
        assert_eq!(
            items.find(1).await.unwrap().unwrap().name,
            "one",
            "without {missing}"
        );
        let rows = Behind::repository(&cache, scene.world.pool.clone());
        rows.install().await.unwrap();
        let _refused = rows.save(&Behind::new(1, "saved")).await;
        eventually("the missing right is refused", async || {
            !scene.refused().await.is_empty()
        })
        .await;
    }
}
