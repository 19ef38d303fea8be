//! What other programs leave at the keys of larder: entries of other keys, states that a key cannot have, entries that never
//! expire, other types. None is served, none keeps a key from being cached, and none refuses a write.
//!
//! Not here: payloads that cannot be decoded (`hostile_bytes`), and what can be in a queue (`behind`).

use std::time::Duration;

use larder::{
    Cached, Origin,
    entry::{self, kind},
    key::Key,
    partition_keys::PartitionKeys,
    queue_position::{QUEUE_POSITION_LENGTH, QueuePosition},
    state::{Identity, Lease, MAX_INTENTS, MAX_WAITERS, Meta, Pending, State, Writers},
    store::Mechanism,
    token::{ProcessId, Token},
};
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

use crate::{
    entities::{Behind, BehindRepository, Item, ItemRepository, Through, of_items},
    world::{World, eventually, on_redis, redis_url},
};

on_redis!(
    an_entry_of_another_row_is_not_served,
    without_the_comparison_another_row_is_served,
    what_a_lookup_found_for_other_values_is_not_served,
    an_answer_of_another_query_is_not_served,
    a_queued_write_at_a_key_without_a_queue_is_damage,
    a_queued_write_at_a_key_without_a_queue_does_not_outlive_an_operation,
    what_never_expires_does_not_keep_a_key_uncached,
    what_never_expires_does_not_outlive_a_write,
    what_was_found_and_never_expires_is_replaced,
    without_the_look_at_it_a_row_that_never_expires_is_served,
    an_entry_of_a_clock_that_is_behind_is_served,
    another_type_is_replaced,
    another_type_does_not_refuse_a_write,
    a_binding_of_another_type_is_bound_again,
    a_clock_that_is_none_begins_again,
    lists_of_any_length_are_damage,
    a_claim_that_never_ends_does_not_stop_flushing,
);

of_items! {
    /// The same row, whose writes fail if they cannot be announced.
    #[cached(name = "Strict", strategy = "write_through", on_outage = "consistent")]
    struct Strict
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items", name = "Named", index(quantity))]
struct Named {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    name: String,
    note: Option<String>,
    quantity: i64,
}

/// The same row, with a clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "items",
    name = "Tagged",
    strategy = "write_through",
    on_outage = "consistent",
    tags("rows", "name:{name}")
)]
struct Tagged {
    #[cached(id)]
    id: i64,
    name: String,
    note: Option<String>,
    quantity: i64,
}

/// The items of a world, with a connection that larder does not own.
struct Scene {
    items: ItemRepository<Sqlite>,
    redis: MultiplexedConnection,
}

impl Scene {
    async fn open(world: &World<Sqlite>) -> Self {
        for (id, name) in [(1, "one"), (2, "two"), (3, "three")] {
            world
                .put(&Item {
                    quantity: id,
                    ..Item::new(id, name)
                })
                .await;
        }
        let client = redis::Client::open(redis_url()).unwrap();
        Self {
            items: world.items(),
            redis: client.get_multiplexed_async_connection().await.unwrap(),
        }
    }

    async fn run<T: redis::FromRedisValue>(&mut self, command: &mut redis::Cmd) -> T {
        command.query_async(&mut self.redis).await.unwrap()
    }

    async fn get(&mut self, key: &Key) -> Option<Vec<u8>> {
        self.run(redis::cmd("GET").arg(key.as_bytes())).await
    }

    /// Stores bytes, for ten minutes or for ever.
    async fn set(&mut self, key: &Key, bytes: &[u8], expires: bool) {
        let mut set = redis::cmd("SET");
        set.arg(key.as_bytes()).arg(bytes);
        if expires {
            set.arg("EX").arg(600);
        }
        self.run::<()>(&mut set).await;
    }

    async fn exists(&mut self, key: &Key) -> bool {
        self.run(redis::cmd("EXISTS").arg(key.as_bytes())).await
    }

    fn key(&self, id: i64) -> Key {
        self.items.inner().key(id).unwrap()
    }

    /// Reads an item until it comes from the cache, and returns its entry.
    async fn cached(&mut self, id: i64) -> Vec<u8> {
        self.is_cached(id).await;
        let key = self.key(id);
        self.get(&key).await.expect("the item is cached")
    }

    /// Reads an item until it comes from the cache. Each read returns the item.
    async fn is_cached(&self, id: i64) {
        eventually("the item comes from the cache", async || {
            let outcome = self.items.find_outcome(id).await.unwrap();
            assert_eq!(outcome.row.expect("the item exists").id, id);
            outcome.origin == Origin::Cache
        })
        .await;
    }

    /// Returns states that larder could read with the identity of the items.
    fn states(&self) -> Vec<(&'static str, Vec<u8>)> {
        let identity = self.items.inner().identity();
        let lease = lease(identity);
        let writing = State::Writing(Writers {
            intents: vec![Token::numbered(1), Token::numbered(2)],
            contended: false,
            saturated: false,
        });
        let saturated = State::Writing(Writers {
            intents: Vec::new(),
            contended: true,
            saturated: true,
        });
        let later = |kind: u8| vec![entry::MAGIC, entry::FORMAT + 1, kind, 0, 0];
        vec![
            ("a lease", entry::encode(&State::Loading(lease, Vec::new()))),
            (
                "a lease with waiters",
                entry::encode(&State::Loading(lease, vec![ProcessId([7; 8])])),
            ),
            ("intents", entry::encode(&writing)),
            ("unlisted intents", entry::encode(&saturated)),
            ("intents of a later format", later(kind::WRITING)),
            ("a later format", later(kind::VALUE)),
        ]
    }
}

fn lease(identity: Identity) -> Lease {
    Lease {
        token: Token::numbered(42),
        identity,
    }
}

fn meta(identity: Identity) -> Meta {
    Meta {
        lease: lease(identity),
        loaded_at_ms: 0,
        stamp: None,
    }
}

/// Returns the entry of a queued write.
fn pending(identity: Identity, payload: &[u8], is_deletion: bool) -> Vec<u8> {
    let pending = Pending {
        position: QueuePosition::from_bytes([1; QUEUE_POSITION_LENGTH]),
        is_deletion,
        meta: meta(identity),
    };
    entry::encode(&State::Pending(pending, payload))
}

async fn an_entry_of_another_row_is_not_served(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let two = scene.cached(2).await;
    scene.cached(1).await;
    let key = scene.key(1);
    scene.set(&key, &two, true).await;
    let before = scene.items.stats();
    let found = scene.items.find_outcome(1).await.unwrap();
    assert_eq!((found.row.unwrap().id, found.origin), (1, Origin::Database));
    let damaged = scene.items.stats().corrupt_entries - before.corrupt_entries;
    assert_eq!(damaged, 1);
    scene.is_cached(1).await;

    scene.set(&key, &two, true).await;
    let many = scene.items.find_many(&[1, 2]).await.unwrap();
    let ids: Vec<_> = many.iter().flatten().map(|item| item.id).collect();
    assert_eq!(ids, [1, 2]);
    scene.is_cached(1).await;
}

async fn without_the_comparison_another_row_is_served(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    world.faults.leave_out(Mechanism::OwnKey);
    let two = scene.cached(2).await;
    let key = scene.key(1);
    scene.set(&key, &two, true).await;
    assert_eq!(scene.items.find(1).await.unwrap().unwrap().id, 2);
}

async fn what_a_lookup_found_for_other_values_is_not_served(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let named = Named::repository(&world.cache, world.pool.clone());
    let prefix = format!("{}:Named#", world.namespace);
    let at = |name: &str| Key::from_bytes(format!("{prefix}{name}").as_bytes());
    for (from, to) in [("name:two", "name:one"), ("quantity:2", "quantity:1")] {
        let find = async || match from.starts_with("name") {
            true => {
                let ids = [
                    named.find_by_name("one").await,
                    named.find_by_name("two").await,
                ];
                ids.map(|found| found.unwrap().map(|row| row.id))
            }
            false => {
                let lists = [
                    named.find_all_by_quantity(1).await,
                    named.find_all_by_quantity(2).await,
                ];
                lists.map(|list| list.unwrap().first().map(|row| row.id))
            }
        };
        let mut other = None;
        eventually("both are cached", async || {
            find().await;
            // Not a lease, under which they are still loaded.
            let is_filled = |found: &Vec<u8>| found[2] == kind::VALUE;
            other = scene.get(&at(from)).await.filter(is_filled);
            other.is_some()
                && scene
                    .get(&at(to))
                    .await
                    .is_some_and(|found| is_filled(&found))
        })
        .await;
        let before = named.stats().corrupt_entries;
        scene.set(&at(to), &other.unwrap(), true).await;
        assert_eq!(find().await, [Some(1), Some(2)], "{to}");
        assert!(named.stats().corrupt_entries > before, "{to}");
    }
}

async fn an_answer_of_another_query_is_not_served(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let queries = world.cache.queries(world.pool.clone());
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
    let pattern = format!("{}:*double*", world.namespace);
    let mut keys = Vec::<Vec<u8>>::new();
    eventually("both are cached", async || {
        assert_eq!((ask(1).await, ask(2).await), (2, 4));
        keys = scene.run(redis::cmd("KEYS").arg(&pattern)).await;
        keys.len() == 2
    })
    .await;
    let [one, other] = [0, 1].map(|at| Key::from_bytes(&keys[at]));
    let entry = scene.get(&other).await.unwrap();
    scene.set(&one, &entry, true).await;
    assert_eq!((ask(1).await, ask(2).await), (2, 4));
}

async fn a_queued_write_at_a_key_without_a_queue_is_damage(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let row = scene.cached(1).await;
    let payload = row[entry::HEADER_LENGTH..].to_vec();
    let identity = scene.items.inner().identity();
    let key = scene.key(1);
    for (is_deletion, history) in [(false, 0), (true, 0), (false, 1)] {
        let identity = Identity {
            history: identity.history ^ history,
            ..identity
        };
        let forged = pending(identity, &payload, is_deletion);
        scene.set(&key, &forged, false).await;
        world
            .sql("UPDATE items SET name = 'new' WHERE id = 1")
            .await;
        let found = scene.items.find(1).await.unwrap().unwrap();
        assert_eq!(found.name, "new");
        scene.is_cached(1).await;
        assert_ne!(scene.get(&key).await.unwrap(), forged);
        world
            .sql("UPDATE items SET name = 'one' WHERE id = 1")
            .await;
    }
}

async fn a_queued_write_at_a_key_without_a_queue_does_not_outlive_an_operation(
    world: &World<Sqlite>,
) {
    let mut scene = Scene::open(world).await;
    let through = Through::repository(&world.cache, world.pool.clone());
    let row = scene.cached(1).await;
    let payload = row[entry::HEADER_LENGTH..].to_vec();
    let (items, key) = (scene.items.clone(), scene.key(1));
    let forged = pending(items.inner().identity(), &payload, false);
    for operation in [
        "update",
        "delete",
        "invalidate",
        "invalidate_all",
        "refresh",
        "update_many",
    ] {
        scene.set(&key, &forged, false).await;
        let new = Item {
            quantity: 9,
            ..Item::new(1, "new")
        };
        match operation {
            "update" => drop(items.update(&new).await.unwrap()),
            "delete" => items.delete(1).await.unwrap(),
            "invalidate" => items.invalidate(1).await.unwrap(),
            "invalidate_all" => items.invalidate_all().await.unwrap(),
            "refresh" => drop(items.refresh(1).await.unwrap()),
            _ => drop(items.update_many(std::slice::from_ref(&new)).await.unwrap()),
        }
        assert_ne!(scene.get(&key).await.as_ref(), Some(&forged), "{operation}");
        if operation == "delete" {
            assert_eq!(items.find(1).await.unwrap(), None);
            items.insert(&new).await.unwrap();
        }
    }

    let key = through.inner().key(2).unwrap();
    let forged = pending(through.inner().identity(), &payload, false);
    scene.set(&key, &forged, false).await;
    through.update(&Through::new(2, "new")).await.unwrap();
    assert_eq!(through.find(2).await.unwrap().unwrap().name, "new");
}

async fn what_never_expires_does_not_keep_a_key_uncached(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    for (what, forged) in scene.states() {
        let key = scene.key(1);
        scene.set(&key, &forged, false).await;
        let reading = tokio::time::timeout(Duration::from_secs(9), scene.is_cached(1));
        reading.await.unwrap_or_else(|_| panic!("{what}"));
        let left: i64 = scene.run(redis::cmd("PTTL").arg(key.as_bytes())).await;
        assert!(left > 0, "{what}");
        let many = scene.items.find_many(&[1, 2]).await.unwrap();
        assert_eq!(many.iter().flatten().count(), 2, "{what}");
    }
}

async fn what_never_expires_does_not_outlive_a_write(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    scene.cached(1).await;
    for (what, forged) in scene.states() {
        let key = scene.key(1);
        for invalidates in [true, false] {
            scene.set(&key, &forged, false).await;
            match invalidates {
                true => scene.items.invalidate(1).await.unwrap(),
                false => drop(scene.items.update(&Item::new(1, what)).await.unwrap()),
            }
            assert!(!scene.exists(&key).await, "{what}");
        }
        assert_eq!(scene.items.find(1).await.unwrap().unwrap().name, what);
    }
}

/// Makes an entry one that was loaded in 1970. `is_endless`: also one without a time to live.
async fn age(scene: &mut Scene, key: &Key, is_endless: bool) {
    let mut entry = scene.get(key).await.expect("it is cached");
    entry[16..24].fill(0);
    scene.set(key, &entry, !is_endless).await;
}

async fn what_was_found_and_never_expires_is_replaced(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let namespace = format!("{}-named", world.namespace);
    let cache = world.cache.with_namespace(&namespace).unwrap();
    let named = Named::repository(&cache, world.pool.clone());
    let queries = cache.queries(world.pool.clone());
    // A row, an absence, what two lookups found, and an answer.
    let items = scene.items.clone();
    let see = async || {
        let item = items.find(1).await.unwrap();
        let absent = items.find(9).await.unwrap();
        let by_name = named.find_by_name("new").await.unwrap();
        let list = named.find_all_by_quantity(77).await.unwrap();
        let query = queries.query::<i64>("count").ttl(Duration::from_secs(600));
        let answer = query.fetch(|connection| {
            Box::pin(sqlx::query_scalar("SELECT COUNT(*) FROM items").fetch_one(connection))
        });
        [
            item.is_some_and(|item| item.name == "new"),
            absent.is_some(),
            by_name.is_some(),
            list.rows.len() == 1,
            *answer.await.unwrap() == 4,
        ]
    };
    let mut keys = Vec::new();
    eventually("all are cached", async || {
        assert_eq!(see().await, [false; 5]);
        keys.clear();
        for pattern in [":Item:", "-named:Named#*", "-named:*count*"] {
            let pattern = format!("{}{pattern}*", world.namespace);
            let found: Vec<Vec<u8>> = scene.run(redis::cmd("KEYS").arg(&pattern)).await;
            keys.extend(found.iter().map(|key| Key::from_bytes(key)));
        }
        keys.len() == 5
    })
    .await;
    for key in &keys {
        age(&mut scene, key, true).await;
    }
    world
        .sql("UPDATE items SET name = 'new', quantity = 77 WHERE id = 1")
        .await;
    world.put(&Item::new(9, "nine")).await;
    eventually("all are replaced", async || see().await == [true; 5]).await;
    for key in &keys {
        let left: i64 = scene.run(redis::cmd("PTTL").arg(key.as_bytes())).await;
        assert_ne!(left, -1, "{key}");
    }
}

async fn without_the_look_at_it_a_row_that_never_expires_is_served(world: &World<Sqlite>) {
    world.faults.leave_out(Mechanism::Overdue);
    let mut scene = Scene::open(world).await;
    scene.cached(1).await;
    let key = scene.key(1);
    age(&mut scene, &key, true).await;
    world
        .sql("UPDATE items SET name = 'new' WHERE id = 1")
        .await;
    for _ in 0..20 {
        assert_eq!(scene.items.find(1).await.unwrap().unwrap().name, "one");
    }
}

async fn an_entry_of_a_clock_that_is_behind_is_served(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    scene.cached(1).await;
    let key = scene.key(1);
    age(&mut scene, &key, false).await;
    for _ in 0..20 {
        let outcome = scene.items.find_outcome(1).await.unwrap();
        assert_eq!(outcome.origin, Origin::Cache);
    }
}

async fn another_type_is_replaced(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    // In a namespace of its own: it is not told of writes of the items.
    let namespace = format!("{}-named", world.namespace);
    let cache = world.cache.with_namespace(&namespace).unwrap();
    let named = Named::repository(&cache, world.pool.clone());
    let pointer = Key::from_bytes(format!("{namespace}:Named#name:one").as_bytes());
    for make in OTHER_TYPES {
        let (key, before) = (scene.key(1), scene.items.stats().corrupt_entries);
        for key in [&key, &pointer] {
            scene.run::<()>(redis::cmd("DEL").arg(key.as_bytes())).await;
            make_other_type(&mut scene, key, make).await;
        }
        scene.is_cached(1).await;
        assert!(scene.items.stats().corrupt_entries > before, "{make:?}");
        eventually("the pointer is replaced", async || {
            assert_eq!(named.find_by_name("one").await.unwrap().unwrap().id, 1);
            let kind: String = scene.run(redis::cmd("TYPE").arg(pointer.as_bytes())).await;
            kind == "string"
        })
        .await;
        // In a batch, and with an absence.
        let absent = scene.key(9);
        make_other_type(&mut scene, &absent, make).await;
        let many = scene.items.find_many(&[9, 1]).await.unwrap();
        assert!(many[0].is_none() && many[1].is_some(), "{make:?}");
        assert_eq!(scene.items.find(9).await.unwrap(), None);
        scene.items.invalidate(9).await.unwrap();
        assert!(!scene.exists(&absent).await);
    }
}

async fn another_type_does_not_refuse_a_write(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let strict = Strict::repository(&world.cache, world.pool.clone());
    let key = strict.inner().key(1).unwrap();
    for make in OTHER_TYPES {
        scene.run::<()>(redis::cmd("DEL").arg(key.as_bytes())).await;
        make_other_type(&mut scene, &key, make).await;
        let row = Strict {
            id: 1,
            name: make[0].to_owned(),
            note: None,
            quantity: 1,
        };
        strict.update(&row).await.unwrap();
        assert_eq!(*strict.find(1).await.unwrap().unwrap(), row);
    }
}

/// Commands that make a key of another type than a string, without the key.
const OTHER_TYPES: [&[&str]; 5] = [
    &["RPUSH", "a"],
    &["SADD", "a"],
    &["HSET", "a", "b"],
    &["ZADD", "1", "a"],
    &["XADD", "*", "a", "b"],
];

async fn make_other_type(scene: &mut Scene, key: &Key, make: &[&str]) {
    let mut command = redis::cmd(make[0]);
    command.arg(key.as_bytes()).arg(&make[1..]);
    let _: redis::Value = scene.run(&mut command).await;
}

async fn a_binding_of_another_type_is_bound_again(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let binding = Key::from_bytes(format!("{}::bound", world.namespace).as_bytes());
    for make in OTHER_TYPES {
        scene
            .run::<()>(redis::cmd("DEL").arg(binding.as_bytes()))
            .await;
        make_other_type(&mut scene, &binding, make).await;
        let cache = world.cache_elsewhere().await;
        let strict = Strict::repository(&cache, world.pool.clone());
        let row = Strict {
            id: 1,
            name: make[0].to_owned(),
            note: None,
            quantity: 1,
        };
        strict.update(&row).await.unwrap();
        assert_eq!(*strict.find(1).await.unwrap().unwrap(), row);
        let kind: String = scene.run(redis::cmd("TYPE").arg(binding.as_bytes())).await;
        assert_eq!(kind, "hash", "{make:?}");
    }
}

/// Neither reads nor writes are kept from the cache, and what was marked in a clock that is none is outdated.
async fn a_clock_that_is_none_begins_again(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    // In a namespace of its own: it is not told of writes of the items.
    let namespace = format!("{}-tagged", world.namespace);
    let cache = world.cache.with_namespace(&namespace).unwrap();
    let tagged = Tagged::repository(&cache, world.pool.clone());
    let clock = Key::from_bytes(format!("{namespace}:Tagged@tags").as_bytes());
    let is_cached = async |what: &str| {
        let reading = eventually("the row comes from the cache", async || {
            let outcome = tagged.find_outcome(1).await.unwrap();
            outcome.origin == Origin::Cache
        });
        let reading = tokio::time::timeout(Duration::from_secs(9), reading);
        reading.await.unwrap_or_else(|_| panic!("{what}"));
    };
    is_cached("nothing").await;
    let tag: Vec<u8> = {
        tagged.invalidate_tag("rows").await.unwrap();
        let fields: Vec<Vec<u8>> = scene.run(redis::cmd("HKEYS").arg(clock.as_bytes())).await;
        fields.into_iter().find(|field| field.len() == 8).unwrap()
    };
    let number = |number: u64| number.to_le_bytes().to_vec();
    let clock_of = |time: u64, floor: u64| [number(7), number(time), number(floor)].concat();
    let open =
        |until: u64, tags: u32| [vec![9; 16], number(until), tags.to_le_bytes().to_vec()].concat();
    let c = || b"c".to_vec();
    let o = || b"o".to_vec();
    let forged: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("no clock", c(), b"x".to_vec()),
        ("an empty clock", c(), Vec::new()),
        (
            "a time that cannot be counted on",
            c(),
            clock_of(1 << 53, 0),
        ),
        ("the last time", c(), clock_of(u64::MAX, 0)),
        ("a floor above the time", c(), clock_of(5, 6)),
        ("no open write", o(), b"x".to_vec()),
        (
            "an open write with more tags than it has",
            o(),
            open(u64::MAX, u32::MAX),
        ),
        ("a short mark", tag.clone(), b"x".to_vec()),
        ("a long mark", tag.clone(), vec![b'x'; 9]),
        ("a mark of another time", tag.clone(), number(u64::MAX)),
    ];
    for (number, (what, field, value)) in forged.into_iter().enumerate() {
        for writes in [false, true] {
            is_cached(what).await;
            let mut set = redis::cmd("HSET");
            set.arg(clock.as_bytes()).arg(&field).arg(&value);
            scene.run::<i64>(&mut set).await;
            if writes {
                let row = Tagged {
                    id: 1,
                    name: format!("name{number}"),
                    note: None,
                    quantity: 1,
                };
                tagged.update(&row).await.unwrap();
                assert_eq!(*tagged.find(1).await.unwrap().unwrap(), row, "{what}");
                world
                    .sql("UPDATE items SET name = 'unseen' WHERE id = 1")
                    .await;
                tagged.invalidate_tag("rows").await.unwrap();
                let found = tagged.find(1).await.unwrap().unwrap();
                assert_eq!(found.name, "unseen", "{what}");
            }
            is_cached(what).await;
        }
    }
    for make in OTHER_TYPES {
        for writes in [false, true] {
            scene
                .run::<()>(redis::cmd("DEL").arg(clock.as_bytes()))
                .await;
            make_other_type(&mut scene, &clock, make).await;
            if writes {
                tagged.invalidate_tag("rows").await.unwrap();
            }
            is_cached(make[0]).await;
        }
    }
    // An open write ends.
    let mut set = redis::cmd("HSET");
    set.arg(clock.as_bytes()).arg("o").arg(open(u64::MAX, 0));
    scene.run::<i64>(&mut set).await;
    assert_eq!(
        tagged.find_outcome(1).await.unwrap().origin,
        Origin::Database
    );
    tagged.invalidate_tag("rows").await.unwrap();
    let left: Vec<u8> = scene
        .run(redis::cmd("HGET").arg(clock.as_bytes()).arg("o"))
        .await;
    let until = u64::from_le_bytes(left[16..24].try_into().unwrap());
    let (seconds, _): (u64, u64) = scene.run(&mut redis::cmd("TIME")).await;
    assert!(until <= (seconds + 86_401) * 1_000, "{until}");
}

async fn lists_of_any_length_are_damage(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let identity = scene.items.inner().identity();
    let waiters = vec![ProcessId([7; 8]); MAX_WAITERS + 1];
    let writing = State::Writing(Writers {
        intents: vec![Token::numbered(1); MAX_INTENTS + 1],
        contended: true,
        saturated: true,
    });
    let many = [State::Loading(lease(identity), waiters), writing];
    for state in many {
        let key = scene.key(1);
        scene.set(&key, &entry::encode(&state), true).await;
        scene.is_cached(1).await;
        scene.set(&key, &entry::encode(&state), true).await;
        scene.items.update(&Item::new(1, "new")).await.unwrap();
        scene.is_cached(1).await;
    }
}

async fn a_claim_that_never_ends_does_not_stop_flushing(world: &World<Sqlite>) {
    let mut scene = Scene::open(world).await;
    let behind: BehindRepository<Sqlite> = Behind::repository(&world.cache, world.pool.clone());
    behind.install().await.unwrap();
    behind.save(&Behind::new(1, "queued")).await.unwrap();
    let row = behind.inner().key(1).unwrap().to_string();
    let (queue, rest) = row[1..].split_once(":p").unwrap();
    let number = u16::from_str_radix(&rest[..2], 16).unwrap();
    let partition = PartitionKeys::new(queue, number);
    scene.set(&partition.flusher, b"somebody", false).await;
    let flusher = behind.start_flushing().await.unwrap();
    eventually("the write is in the database", async || {
        let row = behind.find_uncached(1).await.unwrap();
        row.is_some_and(|row| row.name == "queued")
    })
    .await;
    flusher.shutdown(Duration::from_secs(10)).await.unwrap();
}
