//! Entries with a seal: tags, encryption and compression. Whatever somebody without the keys writes into Redis, no read returns it,
//! and no flush puts it into the database.
//!
//! Not here: the bytes of a seal (`protocol/seal`), and what is refused without keys (`damage`, `behind/forged`).

use larder::{
    Cache, CacheBuilder, Cached, Codec, ErrorKind, Origin, PlainEntries, SecretKey, entry,
    key::Key,
    partition_keys::PartitionKeys,
    queue_position::{Incarnation, QUEUE_POSITION_LENGTH, QueuePosition},
    seal::Seals,
    state::{Identity, Lease, Meta, Pending, State},
    store::Mechanism,
    token::Token,
};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

use crate::{
    entities::{Behind, BehindRepository, Item, ItemRepository, Through},
    world::{World, eventually, filled, on_redis, redis_url},
};

on_redis!(
    sealed_entries_are_served,
    what_a_sealed_entry_holds_cannot_be_read_in_redis,
    without_encryption_it_can_be_read,
    a_forged_row_is_not_served,
    without_tags_a_forged_row_is_served,
    what_a_lookup_found_cannot_be_forged,
    an_answer_of_a_query_cannot_be_forged,
    a_forged_write_over_a_queued_one_does_not_hide_it,
    a_forged_write_in_a_queue_is_not_applied,
    without_tags_a_forged_write_is_applied,
    a_cached_row_in_a_queue_is_not_applied,
    a_forged_entry_decides_no_conditional_write,
    without_tags_a_forged_entry_decides_a_conditional_write,
    keys_are_introduced_without_losing_a_queued_write,
    a_program_without_keys_serves_no_encrypted_row,
    a_key_is_replaced,
);

const OURS: SecretKey = SecretKey::new([1; 32]);
const OTHERS: SecretKey = SecretKey::new([2; 32]);
/// What stands in rows, and in nothing else.
const SECRET: &str = "the secret of the row";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "items",
    name = "Listed",
    strategy = "write_through",
    index(quantity),
    tags("items", "note:{note}"),
    queries
)]
struct Listed {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    name: String,
    note: Option<String>,
    quantity: i64,
}

/// The ways to seal entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tags,
    Encryption,
    Compression,
    Everything,
}

impl Way {
    const ALL: [Self; 4] = [
        Self::Tags,
        Self::Encryption,
        Self::Compression,
        Self::Everything,
    ];

    fn of(self, builder: CacheBuilder) -> CacheBuilder {
        match self {
            Self::Tags => builder.authenticate([OURS]),
            Self::Encryption => builder.encrypt([OURS]),
            Self::Compression => builder.compress_above(64),
            Self::Everything => builder.encrypt([OURS]).compress_above(64),
        }
    }
}

/// A cache of a world with other options, and a connection that larder does not own.
struct Scene<'w> {
    world: &'w World<Sqlite>,
    cache: Cache,
    redis: MultiplexedConnection,
}

impl<'w> Scene<'w> {
    async fn open(world: &'w World<Sqlite>, namespace: &str, way: Way) -> Self {
        let client = redis::Client::open(redis_url()).unwrap();
        let mut scene = Self {
            world,
            cache: world.cache.clone(),
            redis: client.get_multiplexed_async_connection().await.unwrap(),
        };
        scene.cache = scene.cache(namespace, |builder| way.of(builder)).await;
        scene
    }

    /// Returns another cache, as another process would have it.
    async fn cache(
        &self,
        namespace: &str,
        set: impl FnOnce(CacheBuilder) -> CacheBuilder,
    ) -> Cache {
        let builder = Cache::builder()
            .namespace(format!("{}-{namespace}", self.world.namespace))
            .faults(&self.world.faults)
            .redis(redis_url())
            .listed(false);
        set(builder).connect().await.unwrap()
    }

    async fn run<T: FromRedisValue>(&mut self, command: &mut redis::Cmd) -> T {
        command.query_async(&mut self.redis).await.unwrap()
    }

    async fn get(&mut self, key: &Key) -> Option<Vec<u8>> {
        self.run(redis::cmd("GET").arg(key.as_bytes())).await
    }

    async fn set(&mut self, key: &Key, bytes: &[u8]) {
        let mut set = redis::cmd("SET");
        set.arg(key.as_bytes()).arg(bytes).arg("EX").arg(600);
        self.run::<()>(&mut set).await;
    }

    /// Returns every byte that is in Redis below the namespaces of the world.
    async fn everything(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let pattern = format!("*{}*", self.world.namespace);
        let keys: Vec<Vec<u8>> = self.run(redis::cmd("KEYS").arg(pattern)).await;
        for key in keys {
            let kind: String = self.run(redis::cmd("TYPE").arg(&key)).await;
            let mut read = match kind.as_str() {
                "string" => redis::cmd("GET"),
                "hash" => redis::cmd("HGETALL"),
                "stream" => redis::cmd("XRANGE"),
                "set" => redis::cmd("SMEMBERS"),
                _ => continue,
            };
            read.arg(&key);
            if kind == "stream" {
                read.arg("-").arg("+");
            }
            let value: redis::Value = self.run(&mut read).await;
            bytes_of(&value, &mut all);
        }
        all
    }
}

fn bytes_of(value: &redis::Value, all: &mut Vec<u8>) {
    match value {
        redis::Value::BulkString(bytes) => all.extend_from_slice(bytes),
        redis::Value::Array(parts) => parts.iter().for_each(|part| bytes_of(part, all)),
        redis::Value::Map(pairs) => pairs.iter().for_each(|(name, value)| {
            bytes_of(name, all);
            bytes_of(value, all);
        }),
        _ => {}
    }
}

fn contains(all: &[u8], text: &str) -> bool {
    all.windows(text.len()).any(|part| part == text.as_bytes())
}

/// A row with something to hide, which is long enough to be compressed.
fn row(id: i64) -> Item {
    Item {
        note: Some(format!("{SECRET}, {}", "again, ".repeat(30))),
        ..Item::new(id, &format!("name {id}"))
    }
}

fn meta(identity: Identity) -> Meta {
    Meta {
        lease: Lease {
            token: Token::numbered(42),
            identity,
        },
        loaded_at_ms: 0,
        stamp: None,
    }
}

async fn is_cached(items: &ItemRepository<Sqlite>, id: i64) {
    eventually("the item comes from the cache", async || {
        items.find_outcome(id).await.unwrap().origin == Origin::Cache
    })
    .await;
}

/// Uses everything that stores entries, and returns when it comes from the cache of another process.
async fn serve(scene: &Scene<'_>, namespace: &str, way: Way) {
    let pool = || scene.world.pool.clone();
    let elsewhere = scene.cache(namespace, |builder| way.of(builder)).await;
    let spaces = ["items", "through", "listed"];
    let [items, through, listed] = spaces.map(|name| {
        [&scene.cache, &elsewhere].map(|cache| {
            cache
                .with_namespace(format!("{}-{namespace}-{name}", scene.world.namespace))
                .unwrap()
        })
    });
    let items = items.map(|cache| Item::repository(&cache, pool()));
    let through = through.map(|cache| Through::repository(&cache, pool()));
    let listed = listed.map(|cache| Listed::repository(&cache, pool()));

    // Rows and absences.
    for found in &items {
        eventually("a row and an absence are cached", async || {
            let row = found.find_outcome(1).await.unwrap();
            assert_eq!(row.row.as_deref(), Some(&self::row(1)), "{way:?}");
            let absence = found.find_outcome(99).await.unwrap();
            assert_eq!(absence.row, None);
            row.origin == Origin::Cache && absence.origin == Origin::Cache
        })
        .await;
    }
    let many = items[1].find_many(&[1, 2, 99]).await.unwrap();
    assert_eq!(many.iter().flatten().count(), 2);

    // A row that is written through.
    let mut written = Through::new(50, "written through");
    written.note = row(1).note;
    through[0].save(&written).await.unwrap();
    let found = through[1].find_outcome(50).await.unwrap();
    assert_eq!(
        (found.row.as_deref(), found.origin),
        (Some(&written), Origin::Cache),
        "{way:?}"
    );

    // What lookups and queries found, and entries with a stamp, which gets a later one.
    for found in &listed {
        eventually("lookups, lists and answers are cached", async || {
            let before = scene_loads(found);
            let unique = found.find_by_name("name 2").await.unwrap();
            assert_eq!(unique.map(|row| row.id), Some(2), "{way:?}");
            assert_eq!(found.find_by_name("nobody").await.unwrap(), None);
            let list = found.find_all_by_quantity(5).await.unwrap();
            assert_eq!(list.iter().map(|row| row.id).collect::<Vec<_>>(), [2, 3]);
            let query = found.query::<Vec<i64>>("all");
            let answer = query.fetch(|connection| {
                Box::pin(async move {
                    sqlx::query_scalar("SELECT id FROM items WHERE quantity = 5 ORDER BY id")
                        .fetch_all(connection)
                        .await
                })
            });
            assert_eq!(*answer.await.unwrap(), [2, 3], "{way:?}");
            scene_loads(found) == before
        })
        .await;
        found.invalidate_tag("note:elsewhere").await.unwrap();
        for _ in 0..2 {
            let kept = found.find_outcome(2).await.unwrap();
            assert_eq!(kept.origin, Origin::Cache, "{way:?}");
        }
        found.invalidate_tag("items").await.unwrap();
        let loaded = found.find_outcome(2).await.unwrap();
        assert_eq!(loaded.origin, Origin::Database, "{way:?}");
        filled(|| found.stats()).await;
    }
    let stats = items.map(|found| found.stats());
    assert!(
        stats.iter().all(|stats| stats.corrupt_entries == 0),
        "{way:?}"
    );
}

fn scene_loads(listed: &ListedRepository<Sqlite>) -> u64 {
    listed.stats().loads + listed.inner().queries().unwrap().stats().loads
}

/// A queued row and a queued deletion, before and after they are flushed.
async fn queue(scene: &Scene<'_>, namespace: &str, way: Way) {
    let elsewhere = scene.cache(namespace, |builder| way.of(builder)).await;
    let [here, there] =
        [&scene.cache, &elsewhere].map(|cache| Behind::repository(cache, scene.world.pool.clone()));
    here.install().await.unwrap();
    let mut row = Behind::new(7, "queued");
    row.note = self::row(7).note;
    here.save(&row).await.unwrap();
    here.save(&Behind::new(8, "to be deleted")).await.unwrap();
    here.flush().await.unwrap();
    here.delete(8).await.unwrap();
    for is_flushed in [false, true] {
        let found = there.find_outcome(7).await.unwrap();
        assert_eq!(
            (found.row.as_deref(), found.origin),
            (Some(&row), Origin::Cache),
            "{way:?}"
        );
        let gone = there.find_outcome(8).await.unwrap();
        assert_eq!(
            (gone.row.as_deref(), gone.origin),
            (None, Origin::Cache),
            "{way:?}"
        );
        if !is_flushed {
            there.flush().await.unwrap();
            let stored = there.find_uncached(7).await.unwrap();
            assert_eq!(stored.as_deref(), Some(&row), "{way:?}");
        }
    }
    row.quantity = 9;
    there.update(&row).await.unwrap();
    here.flush().await.unwrap();
    assert_eq!(here.find_uncached(7).await.unwrap().unwrap().quantity, 9);
    assert_eq!(
        here.dead_letters().list(9).await.unwrap().len(),
        0,
        "{way:?}"
    );
    here.delete(7).await.unwrap();
    here.flush().await.unwrap();
}

async fn sealed_entries_are_served(world: &World<Sqlite>) {
    for id in [1, 2, 3] {
        let quantity = if id == 1 { 1 } else { 5 };
        world
            .put(&Item {
                quantity,
                ..row(id)
            })
            .await;
    }
    for way in Way::ALL {
        let namespace = format!("{way:?}");
        let scene = Scene::open(world, &namespace, way).await;
        serve(&scene, &namespace, way).await;
        queue(&scene, &format!("{way:?}"), way).await;
    }
}

async fn what_a_sealed_entry_holds_cannot_be_read_in_redis(world: &World<Sqlite>) {
    for way in [Way::Encryption, Way::Everything] {
        let mut scene = hidden(world, way).await;
        let all = scene.everything().await;
        assert!(all.len() > 500, "{way:?}");
        assert!(!contains(&all, SECRET), "{way:?}");
    }
}

async fn without_encryption_it_can_be_read(world: &World<Sqlite>) {
    let mut scene = hidden(world, Way::Tags).await;
    assert!(contains(&scene.everything().await, SECRET));
}

/// A scene with a cached row and a queued one.
async fn hidden(world: &World<Sqlite>, way: Way) -> Scene<'_> {
    let name = format!("hidden-{way:?}");
    let scene = Scene::open(world, &name, way).await;
    let apart = format!("{}-{name}-items", world.namespace);
    let items = scene.cache.with_namespace(&apart).unwrap();
    let items = Item::repository(&items, world.pool.clone());
    if items.find_uncached(1).await.unwrap().is_none() {
        world.put(&row(1)).await;
    }
    is_cached(&items, 1).await;
    let behind = Behind::repository(&scene.cache, world.pool.clone());
    behind.install().await.unwrap();
    let mut queued = Behind::new(7, "queued");
    queued.note = row(7).note;
    behind.save(&queued).await.unwrap();
    scene
}

/// Entries of the item 1 that nobody with the key has stored there.
async fn forgeries(
    scene: &mut Scene<'_>,
    items: &ItemRepository<Sqlite>,
) -> Vec<(&'static str, Vec<u8>)> {
    let identity = items.inner().identity();
    let [one, two] = [1, 2].map(|id| items.inner().key(id).unwrap());
    let genuine = scene.get(&one).await.unwrap();
    let other = scene.get(&two).await.unwrap();
    let payload = Codec::default().encode(&Item::new(1, "forged")).unwrap();
    let value = State::Value(meta(identity), &payload[..]);
    let by = |key: SecretKey, at: &Key, state: &State<&[u8]>| {
        Seals::new(&[key], false, PlainEntries::Refuse).encode(at, state)
    };
    let start = entry::HEADER_LENGTH + entry::SEAL_LENGTH;
    let mut stripped = genuine.clone();
    stripped[25] = 0;
    let with_other_payload = [&genuine[..start], &payload].concat();
    let mut shortened = genuine.clone();
    shortened.pop();
    let mut as_absence = genuine[..start].to_vec();
    as_absence[2] = entry::kind::NEGATIVE;
    let mut later = genuine.clone();
    later[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    vec![
        ("a row without a tag", entry::encode(&value)),
        (
            "an absence without a tag",
            entry::encode(&State::Negative(meta(identity))),
        ),
        ("a row with a tag of another key", by(OTHERS, &one, &value)),
        (
            "a row that was sealed for another key of the store",
            by(OURS, &two, &value),
        ),
        (
            "an absence that was sealed for another key",
            by(OURS, &two, &State::Negative(meta(identity))),
        ),
        ("the row of another key", other),
        ("a row whose tag is taken away", stripped),
        ("another payload under a genuine tag", with_other_payload),
        ("a payload that is cut", shortened),
        ("an absence with the tag of a row", as_absence),
        ("a row that was loaded later", later),
    ]
}

/// Two cached items, of which Redis holds sealed entries.
async fn items(scene: &Scene<'_>) -> ItemRepository<Sqlite> {
    for id in [1, 2] {
        scene.world.put(&row(id)).await;
    }
    let items = Item::repository(&scene.cache, scene.world.pool.clone());
    for id in [1, 2] {
        is_cached(&items, id).await;
    }
    items
}

async fn a_forged_row_is_not_served(world: &World<Sqlite>) {
    for way in [Way::Tags, Way::Encryption] {
        world.sql("DELETE FROM items").await;
        let mut scene = Scene::open(world, &format!("{way:?}"), way).await;
        let items = items(&scene).await;
        let key = items.inner().key(1).unwrap();
        for (what, forged) in forgeries(&mut scene, &items).await {
            let before = items.stats().corrupt_entries;
            scene.set(&key, &forged).await;
            let found = items.find_outcome(1).await.unwrap();
            let answer = (found.row.as_deref(), found.origin);
            assert_eq!(answer, (Some(&row(1)), Origin::Database), "{what}");
            assert_eq!(items.stats().corrupt_entries - before, 1, "{what}");
            is_cached(&items, 1).await;

            scene.set(&key, &forged).await;
            let many = items.find_many(&[1, 2]).await.unwrap();
            assert_eq!(many[0].as_deref(), Some(&row(1)), "{what}");
            is_cached(&items, 1).await;
        }
    }
}

async fn without_tags_a_forged_row_is_served(world: &World<Sqlite>) {
    let mut scene = Scene::open(world, "control", Way::Tags).await;
    let items = items(&scene).await;
    world.faults.leave_out(Mechanism::Seal);
    let key = items.inner().key(1).unwrap();
    let (mut rows, mut absences) = (0, 0);
    for (_, forged) in forgeries(&mut scene, &items).await {
        scene.set(&key, &forged).await;
        match items.find(1).await.unwrap() {
            Some(found) if found.name == "forged" => rows += 1,
            Some(_) => {}
            None => absences += 1,
        }
    }
    assert_eq!((rows, absences), (4, 3));
}

async fn what_a_lookup_found_cannot_be_forged(world: &World<Sqlite>) {
    let mut scene = Scene::open(world, "lookups", Way::Tags).await;
    for id in [1, 2] {
        world.put(&row(id)).await;
    }
    let listed = Listed::repository(&scene.cache, world.pool.clone());
    let prefix = format!("{}-lookups:Listed#", world.namespace);
    let at = |name: &str| Key::from_bytes(format!("{prefix}{name}").as_bytes());
    let pointer = at("name:name%201");
    let list = at("quantity:1");
    let find = async || {
        let one = listed.find_by_name("name 1").await.unwrap();
        let all = listed.find_all_by_quantity(1).await.unwrap();
        (
            one.map(|row| row.id),
            all.iter().map(|row| row.id).collect::<Vec<_>>(),
        )
    };
    let expected = (Some(1), vec![1, 2]);
    eventually("both are cached", async || {
        assert_eq!(find().await, expected);
        // Not a lease, under which they are still loaded.
        let is_filled =
            |found: Option<Vec<u8>>| found.is_some_and(|found| found[2] == entry::kind::VALUE);
        is_filled(scene.get(&pointer).await) && is_filled(scene.get(&list).await)
    })
    .await;
    for key in [&pointer, &list] {
        let genuine = scene.get(key).await.unwrap();
        let State::Value(meta, payload) = entry::decode(&genuine) else {
            panic!("{key} holds no ids");
        };
        for state in [State::Negative(meta), State::Value(meta, payload)] {
            let before = listed.stats().corrupt_entries;
            scene.set(key, &entry::encode(&state)).await;
            assert_eq!(find().await, expected, "{key}");
            assert!(listed.stats().corrupt_entries > before, "{key}");
        }
    }
}

async fn an_answer_of_a_query_cannot_be_forged(world: &World<Sqlite>) {
    let mut scene = Scene::open(world, "queries", Way::Tags).await;
    let queries = scene.cache.queries(world.pool.clone());
    let ask = async |value: i64| {
        let query = queries.query::<i64>("double").key(&value);
        let answer = query.fetch(move |connection| {
            Box::pin(async move {
                sqlx::query_scalar("SELECT 2 * ?")
                    .bind(value)
                    .fetch_one(connection)
                    .await
            })
        });
        *answer.await.unwrap()
    };
    let pattern = format!("{}-queries:*double*", world.namespace);
    let mut keys = Vec::<Vec<u8>>::new();
    eventually("the answer is cached", async || {
        assert_eq!(ask(1).await, 2);
        keys = scene.run(redis::cmd("KEYS").arg(&pattern)).await;
        keys.len() == 1
    })
    .await;
    let key = Key::from_bytes(&keys[0]);
    filled(|| queries.stats()).await;
    let mut forged = scene.get(&key).await.unwrap();
    let last = forged.last_mut().unwrap();
    assert_eq!(*last, 2, "the answer stands at the end");
    *last = 3;
    scene.set(&key, &forged).await;
    assert_eq!(ask(1).await, 2);
    assert_eq!(queries.stats().corrupt_entries, 1);
}

/// A repository with a queue, of which one write is flushed, and what an attacker knows of it.
struct Queue<'s, 'w> {
    scene: &'s mut Scene<'w>,
    rows: BehindRepository<Sqlite>,
    key: Key,
    partition: PartitionKeys,
}

impl<'s, 'w> Queue<'s, 'w> {
    async fn open(scene: &'s mut Scene<'w>) -> Self {
        let rows = Behind::repository(&scene.cache, scene.world.pool.clone());
        rows.install().await.unwrap();
        rows.save(&Behind::new(1, "first")).await.unwrap();
        rows.flush().await.unwrap();
        let key = rows.inner().key(1).unwrap();
        let text = key.to_string();
        let (queue, rest) = text[1..].split_once(":p").unwrap();
        let number = u16::from_str_radix(&rest[..2], 16).unwrap();
        Self {
            partition: PartitionKeys::new(queue, number),
            scene,
            rows,
            key,
        }
    }

    async fn incarnation(&mut self) -> Incarnation {
        let state = self.partition.state.as_bytes().to_vec();
        let bytes: Vec<u8> = self.scene.run(redis::cmd("HGET").arg(state).arg("i")).await;
        Incarnation::from_bytes(bytes.try_into().unwrap())
    }

    /// Appends an entry to the log, at the place that follows.
    async fn append(&mut self, entry: impl FnOnce(QueuePosition) -> Vec<u8>) {
        let incarnation = self.incarnation().await;
        let log = self.partition.log(incarnation);
        let state = self.partition.state.as_bytes().to_vec();
        let last: u64 = self.scene.run(redis::cmd("HGET").arg(state).arg("n")).await;
        let number = last + 1;
        let position = QueuePosition {
            incarnation,
            number,
        };
        let mut add = redis::cmd("XADD");
        add.arg(log.as_bytes()).arg(format!("0-{number}"));
        add.arg("k").arg(self.key.as_bytes());
        add.arg("e").arg(entry(position)).arg("a").arg(0);
        let _: String = self.scene.run(&mut add).await;
    }

    /// Returns the name in the database.
    async fn stored(&self) -> String {
        let row = self.rows.find_uncached(1).await.unwrap();
        row.expect("the row is there").name.clone()
    }
}

async fn a_forged_write_over_a_queued_one_does_not_hide_it(world: &World<Sqlite>) {
    let mut scene = Scene::open(world, "hide", Way::Tags).await;
    let queue = Queue::open(&mut scene).await;
    queue
        .rows
        .save(&Behind::new(1, "acknowledged"))
        .await
        .unwrap();
    for is_deletion in [false, true] {
        let position = QueuePosition::from_bytes([1; QUEUE_POSITION_LENGTH]);
        let forged = forged_write(&queue.rows, position, is_deletion);
        let key = queue.key.clone();
        queue.scene.set(&key, &forged).await;
        let found = queue.rows.find_outcome(1).await.unwrap();
        assert_eq!(found.row.unwrap().name, "acknowledged");
        assert_eq!(found.origin, Origin::Cache, "it is restored from the log");
    }
    queue.rows.flush().await.unwrap();
    assert_eq!(queue.stored().await, "acknowledged");
}

async fn a_forged_write_in_a_queue_is_not_applied(world: &World<Sqlite>) {
    for way in [Way::Tags, Way::Encryption] {
        let mut scene = Scene::open(world, &format!("{way:?}"), way).await;
        let mut queue = Queue::open(&mut scene).await;
        let rows = queue.rows.clone();
        for is_deletion in [false, true] {
            let forged = |position| forged_write(&rows, position, is_deletion);
            queue.append(forged).await;
            queue.rows.flush().await.unwrap();
            assert_eq!(
                queue.stored().await,
                if is_deletion { "after" } else { "first" }
            );
            let letters = rows.dead_letters();
            let listed = letters.list(9).await.unwrap();
            let [letter] = &listed[..] else {
                panic!("{listed:?}");
            };
            let said = "not written by larder: it has no tag";
            assert!(letter.error().contains(said), "{}", letter.error());
            letters.discard(letter).await.unwrap();
            // The queue goes on, and loses nothing.
            rows.save(&Behind::new(1, "after")).await.unwrap();
            rows.flush().await.unwrap();
            assert_eq!(queue.stored().await, "after");
            assert_eq!(rows.stats().lost_writes, 0);
        }
    }
}

/// Returns a write that is right in every detail but its tag.
fn forged_write(
    rows: &BehindRepository<Sqlite>,
    position: QueuePosition,
    is_deletion: bool,
) -> Vec<u8> {
    let pending = Pending {
        position,
        is_deletion,
        meta: meta(rows.inner().identity()),
    };
    let payload = match is_deletion {
        true => Codec::default().encode(&1_i64),
        false => Codec::default().encode(&Behind::new(1, "forged")),
    };
    entry::encode(&State::Pending(pending, &payload.unwrap()))
}

async fn without_tags_a_forged_write_is_applied(world: &World<Sqlite>) {
    let mut scene = Scene::open(world, "applied", Way::Tags).await;
    let mut queue = Queue::open(&mut scene).await;
    world.faults.leave_out(Mechanism::Seal);
    let rows = queue.rows.clone();
    queue
        .append(|position| forged_write(&rows, position, false))
        .await;
    queue.rows.flush().await.unwrap();
    assert_eq!(queue.stored().await, "forged");
}

/// The row that a reader has cached is genuine, and older than the row of the database.
async fn a_cached_row_in_a_queue_is_not_applied(world: &World<Sqlite>) {
    let mut scene = Scene::open(world, "replay", Way::Tags).await;
    let mut queue = Queue::open(&mut scene).await;
    world.sql("UPDATE items SET name = 'filled'").await;
    let cached = queue.rows.inner().clone();
    cached.invalidate(1).await.unwrap();
    let key = queue.key.clone();
    eventually("the row is cached", async || {
        queue.rows.find(1).await.unwrap();
        let found = queue.scene.get(&key).await;
        found.is_some_and(|bytes| bytes[2] == entry::kind::VALUE)
    })
    .await;
    let row = queue.scene.get(&key).await.unwrap();
    queue.rows.save(&Behind::new(1, "later")).await.unwrap();
    queue.rows.flush().await.unwrap();
    queue
        .append(|position| {
            let start = entry::HEADER_LENGTH + entry::SEAL_LENGTH;
            let mut forged = [&row[..start], &position.to_bytes(), &row[start..]].concat();
            forged[2] = entry::kind::PENDING;
            forged
        })
        .await;
    queue.rows.flush().await.unwrap();
    assert_eq!(queue.stored().await, "later");
    let letters = queue.rows.dead_letters().list(9).await.unwrap();
    assert!(
        letters[0].error().contains("not as a queued write"),
        "{}",
        letters[0].error()
    );
}

/// What an attacker puts at the key of a row before a conditional write of it: an absence or a row.
async fn decide(world: &World<Sqlite>, namespace: &str, breaks: bool) -> Vec<Option<ErrorKind>> {
    let mut scene = Scene::open(world, namespace, Way::Tags).await;
    let rows = Behind::repository(&scene.cache, world.pool.clone());
    rows.install().await.unwrap();
    let (there, missing) = (Behind::new(1, "there"), Behind::new(2, "missing"));
    rows.save(&there).await.unwrap();
    rows.flush().await.unwrap();
    if breaks {
        world.faults.leave_out(Mechanism::Seal);
    }
    let identity = rows.inner().identity();
    let payload = Codec::default().encode(&missing).unwrap();
    let absence = entry::encode(&State::Negative(meta(identity)));
    let row = entry::encode(&State::Value(meta(identity), &payload));
    let mut answers = Vec::new();
    let keys = [1, 2].map(|id| rows.inner().key(id).unwrap());
    scene.set(&keys[0], &absence).await;
    answers.push(rows.update(&there).await.err());
    rows.flush().await.unwrap();
    scene.set(&keys[0], &absence).await;
    answers.push(rows.insert(&there).await.err());
    rows.flush().await.unwrap();
    scene.set(&keys[1], &row).await;
    answers.push(rows.update(&missing).await.err());
    rows.flush().await.unwrap();
    scene.set(&keys[1], &row).await;
    answers.push(rows.delete(2).await.err());
    rows.flush().await.unwrap();
    scene.set(&keys[1], &row).await;
    answers.push(rows.insert(&missing).await.err());
    answers
        .into_iter()
        .map(|error| error.map(|error| error.kind()))
        .collect()
}

async fn a_forged_entry_decides_no_conditional_write(world: &World<Sqlite>) {
    let expected = [
        None,
        Some(ErrorKind::Duplicate),
        Some(ErrorKind::NotFound),
        Some(ErrorKind::NotFound),
        None,
    ];
    assert_eq!(decide(world, "decide", false).await, expected);
}

async fn without_tags_a_forged_entry_decides_a_conditional_write(world: &World<Sqlite>) {
    let answers = decide(world, "decided", true).await;
    assert_eq!(answers[..2], [Some(ErrorKind::NotFound), None]);
    assert_eq!(answers[2], None);
}

/// Programs of two settings that follow each other run beside each other, and each flushes what the other has queued.
async fn keys_are_introduced_without_losing_a_queued_write(world: &World<Sqlite>) {
    let scene = Scene::open(world, "none", Way::Tags).await;
    let with = |plain| move |builder: CacheBuilder| builder.encrypt([OURS]).plain_entries(plain);
    let caches = [
        scene.cache("rollout", |builder| builder).await,
        scene.cache("rollout", with(PlainEntries::Store)).await,
        scene.cache("rollout", with(PlainEntries::Accept)).await,
        scene.cache("rollout", with(PlainEntries::Refuse)).await,
    ];
    let rows = caches.map(|cache| Behind::repository(&cache, world.pool.clone()));
    rows[0].install().await.unwrap();
    let mut number = 0;
    // To the keys, and back from them.
    for (old, new) in [(0, 1), (1, 2), (2, 3), (3, 2), (2, 1), (1, 0)] {
        for (writes, flushes) in [(old, new), (new, old)] {
            number += 1;
            let row = Behind::new(1, &format!("write {number}"));
            rows[writes].save(&row).await.unwrap();
            for reader in [old, new] {
                let found = rows[reader].find(1).await.unwrap();
                assert_eq!(found.as_deref(), Some(&row), "{writes} to {reader}");
            }
            rows[flushes].flush().await.unwrap();
            let stored = rows[flushes].find_uncached(1).await.unwrap();
            assert_eq!(stored.as_deref(), Some(&row), "{writes} to {flushes}");
        }
        // Nothing that was queued before the step is left.
        rows[new].flush().await.unwrap();
    }
    assert_eq!(rows[0].dead_letters().list(9).await.unwrap().len(), 0);
}

async fn a_program_without_keys_serves_no_encrypted_row(world: &World<Sqlite>) {
    let scene = Scene::open(world, "without", Way::Encryption).await;
    let without = scene.cache("without", |builder| builder).await;
    let items = items(&scene).await;
    let plain = Item::repository(&without, world.pool.clone());
    // Each replaces the entries of the other, and both are right.
    for _ in 0..3 {
        for reader in [&plain, &items] {
            let found = reader.find_outcome(1).await.unwrap();
            let answer = (found.row.as_deref(), found.origin);
            assert_eq!(answer, (Some(&row(1)), Origin::Database));
            is_cached(reader, 1).await;
        }
    }
    // A queued write that it cannot read is not lost to it: it is kept as it is.
    let behind =
        [&scene.cache, &without].map(|cache| Behind::repository(cache, world.pool.clone()));
    behind[0].install().await.unwrap();
    behind[0].save(&Behind::new(5, "encrypted")).await.unwrap();
    let found = behind[1].find_outcome(5).await.unwrap();
    assert_eq!((found.row, found.origin), (None, Origin::Database));
    let found = behind[0].find_outcome(5).await.unwrap();
    assert_eq!(
        (found.row.unwrap().name.as_str(), found.origin),
        ("encrypted", Origin::Cache)
    );
    behind[1].flush().await.unwrap();
    let letters = behind[1].dead_letters().list(9).await.unwrap();
    assert!(
        letters[0].error().contains("`CacheBuilder::encrypt`"),
        "{}",
        letters[0].error()
    );
}

async fn a_key_is_replaced(world: &World<Sqlite>) {
    let scene = Scene::open(world, "none", Way::Tags).await;
    let keyed = |keys: &[SecretKey]| {
        let keys = keys.to_vec();
        move |builder: CacheBuilder| builder.authenticate(keys)
    };
    let steps = [
        vec![OURS],
        vec![OURS, OTHERS],
        vec![OTHERS, OURS],
        vec![OTHERS],
    ];
    let mut caches = Vec::new();
    for keys in &steps {
        caches.push(scene.cache("rotation", keyed(keys)).await);
    }
    let rows = caches.iter();
    let rows: Vec<_> = rows
        .map(|cache| Behind::repository(cache, world.pool.clone()))
        .collect();
    rows[0].install().await.unwrap();
    for step in 0..steps.len() - 1 {
        for (writes, flushes) in [(step, step + 1), (step + 1, step)] {
            let row = Behind::new(1, &format!("{writes} to {flushes}"));
            rows[writes].save(&row).await.unwrap();
            assert_eq!(rows[flushes].find(1).await.unwrap().as_deref(), Some(&row));
            rows[flushes].flush().await.unwrap();
            let found = rows[writes].find_outcome(1).await.unwrap();
            assert_eq!(
                (found.row.as_deref(), found.origin),
                (Some(&row), Origin::Cache)
            );
        }
    }
    let strangers = rows[0].find_outcome(1).await.unwrap();
    assert_eq!(strangers.row.unwrap().name, "3 to 2");
    assert_eq!(rows[0].dead_letters().list(9).await.unwrap().len(), 0);
}

#[test]
fn options_of_keys_without_keys_are_refused() {
    let refused = |builder: CacheBuilder| {
        let error = builder
            .redis(redis_url())
            .listed(false)
            .build()
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.to_string()
    };
    for plain in [PlainEntries::Accept, PlainEntries::Store] {
        let error = refused(Cache::builder().plain_entries(plain));
        assert!(error.contains("`CacheBuilder::plain_entries`"), "{error}");
    }
    let error = refused(Cache::builder().authenticate([]));
    assert!(
        error.contains("`CacheBuilder::authenticate` has no key"),
        "{error}"
    );
}
