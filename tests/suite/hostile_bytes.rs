//! Payloads that somebody else has written to the keys of larder: nested so deep that reading them would use up the stack, or
//! larger than any row. They are damage: a miss that is counted, and the row of the database. So is what was stored in the
//! table of dead letters.
//!
//! The reads run on the threads of tokio, in a debug build, which needs several times the stack of a release build.
//!
//! Not here: each codec and each kind of nesting (`protocol/codec/depth/tests`), and damage of the entry itself (`upgrade`).

use std::{sync::Arc, time::Duration};

use larder::{Cached, ErrorKind, Origin, entry, key::Key, state::State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    entities::of_items,
    world::{Tested, World, eventually, on_both_stores, on_redis},
};

on_redis!(
    a_payload_that_is_nested_too_deep_is_damage,
    an_answer_of_a_lookup_that_is_nested_too_deep_is_damage,
    a_queued_write_that_is_nested_too_deep_ends_no_process,
    a_payload_larger_than_any_row_is_not_decoded,
);
on_both_stores!(
    a_row_that_is_nested_too_deep_is_not_cached,
    a_queued_row_that_is_nested_too_deep_is_refused,
    a_dead_letter_that_is_nested_too_deep_is_listed,
);

const PAGES: &str = "CREATE TABLE pages (id BIGINT NOT NULL PRIMARY KEY, content TEXT NOT NULL, tree TEXT NOT NULL)";

/// How often an attack nests its value.
const TIMES: [usize; 4] = [130, 911, 5_000, 200_000];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Node {
    children: Vec<Node>,
}

macro_rules! pages {
    ($name:ident, $codec:literal, $content:ty $(, $more:meta)*) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "pages", codec = $codec, jitter = 0, lease(ttl = "60s", wait = "20s"))]
        $(#[cached($more)])*
        struct $name {
            #[cached(id)]
            id: i64,
            #[sqlx(json)]
            content: $content,
            #[sqlx(json)]
            tree: Node,
        }
    };
}

pages!(Packed, "msgpack", Value);
pages!(Texts, "json", Value);
pages!(Card, "postcard", Vec<Node>);
pages!(Small, "msgpack", Value, max_row = "1 KiB");

/// Replaces the payload of a cached row, and leaves the rest of its entry as it is.
async fn forge<DB: Tested>(world: &World<DB>, key: &Key, payload: &[u8]) {
    let store = world.cache.store();
    let (bytes, _) = store.peek_bytes(key).await.unwrap().unwrap();
    let forged = match entry::decode(&bytes) {
        State::Value(meta, _) => State::Value(meta, payload),
        State::Pending(pending, _) => State::Pending(pending, payload),
        other => panic!("the key holds no row: {other:?}"),
    };
    let forged = entry::encode(&forged);
    store.force_bytes(key, &forged, 600_000).await.unwrap();
}

/// The payloads of an attack: MessagePack and postcard need no closing bytes to be read to their last level.
fn attacks(codec: &str) -> Vec<Vec<u8>> {
    let nested = |before: &[u8], each: &[u8], after: &[u8]| -> Vec<Vec<u8>> {
        let at = |times| [before, &each.repeat(times), &after.repeat(times)].concat();
        TIMES.map(at).to_vec()
    };
    let payloads = match codec {
        "msgpack" => [
            nested(b"\x83\xa2id\x01\xa7content", &[0x91], b""),
            nested(b"\x83\xa2id\x01\xa7content", b"\x81\xa1a", b""),
            nested(
                b"\x83\xa2id\x01\xa7content\xc0\xa4tree",
                b"\x81\xa8children\x91",
                b"",
            ),
            nested(b"\x93\x01\xc0", &[0x91], b""),
        ],
        "json" => [
            nested(br#"{"id":1,"content":"#, b"[", b"]"),
            nested(br#"{"id":1,"content":"#, br#"{"a":"#, b"}"),
            nested(
                br#"{"id":1,"content":0,"tree":"#,
                br#"{"children":["#,
                b"]}",
            ),
            nested(br#"[1,0,"#, b"[", b"]"),
        ],
        _ => [
            nested(&[2, 0], &[1], b""),
            nested(&[2, 1], &[1], b""),
            nested(&[2, 1], &[2], b""),
            nested(&[], &[1], b""),
        ],
    };
    payloads.concat()
}

async fn a_payload_that_is_nested_too_deep_is_damage<DB: Tested>(world: &World<DB>) {
    world.sql(PAGES).await;
    let insert = r#"INSERT INTO pages (id, content, tree) VALUES (1, '[]', '{"children":[{"children":[]}]}')"#;
    world.sql(insert).await;
    macro_rules! is_damage {
        ($($entity:ident: $codec:literal),*) => {
            $(let pages = $entity::repository(&world.cache, world.pool.clone());
            let key = pages.inner().key(1).unwrap();
            let row = pages.find(1).await.unwrap().unwrap();
            let is_cached = async || pages.find_outcome(1).await.unwrap().origin == Origin::Cache;
            for (number, payload) in attacks($codec).iter().enumerate() {
                eventually("the row is cached", is_cached).await;
                forge(world, &key, payload).await;
                let before = pages.stats();
                let read = pages.find_outcome(1).await.unwrap();
                assert_eq!(read.origin, Origin::Database, "{} {number}", $codec);
                assert_eq!(read.row, Some(Arc::clone(&row)));
                let damaged = pages.stats().corrupt_entries - before.corrupt_entries;
                assert_eq!(damaged, 1, "{} {number}", $codec);
            }
            eventually("the row is cached again", is_cached).await;
            assert_eq!(pages.find(1).await.unwrap(), Some(row));)*
        };
    }
    is_damage!(Packed: "msgpack", Texts: "json", Card: "postcard");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items", jitter = 0, lease(ttl = "60s", wait = "20s"))]
struct Named {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    name: String,
}

async fn an_answer_of_a_lookup_that_is_nested_too_deep_is_damage<DB: Tested>(world: &World<DB>) {
    world.put(&crate::entities::Item::new(1, "one")).await;
    let rows = Named::repository(&world.cache, world.pool.clone());
    assert_eq!(rows.find_all_by_name("one").await.unwrap().rows.len(), 1);
    let key = Key::from_bytes(format!("{}:Named#name:one", world.namespace).as_bytes());
    let store = world.cache.store();
    for times in TIMES {
        eventually("the ids are cached", async || {
            let stored = store.peek_bytes(&key).await.unwrap();
            stored.is_some_and(|(bytes, _)| matches!(entry::decode(&bytes), State::Value(..)))
        })
        .await;
        forge(world, &key, &[0x91].repeat(times)).await;
        let before = rows.stats().corrupt_entries;
        assert_eq!(rows.find_all_by_name("one").await.unwrap().rows[0].id, 1);
        assert_eq!(rows.stats().corrupt_entries, before + 1, "{times}");
    }
}

of_items! {
    /// A row of the items with a queue.
    #[cached(strategy = "write_behind", durability = "memory", partitions = 1, ttl = "10m")]
    struct Queued
}

async fn a_queued_write_that_is_nested_too_deep_ends_no_process<DB: Tested>(world: &World<DB>) {
    let rows = Queued::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    for times in TIMES {
        let row = Queued {
            id: 1,
            name: format!("name {times}"),
            note: None,
            quantity: 1,
        };
        rows.save(&row).await.unwrap();
        let key = rows.inner().key(1).unwrap();
        forge(world, &key, &[0x91].repeat(times)).await;
        // The row at the key cannot be read, and the log still has the write.
        let flushed = tokio::time::timeout(Duration::from_secs(20), rows.flush()).await;
        flushed.expect("the flush ends").unwrap();
        assert_eq!(*rows.find_uncached(1).await.unwrap().unwrap(), row);
        eventually("the row is read again", async || {
            rows.find(1).await.unwrap().as_deref() == Some(&row)
        })
        .await;
    }
}

async fn a_payload_larger_than_any_row_is_not_decoded<DB: Tested>(world: &World<DB>) {
    world.sql(PAGES).await;
    let insert = r#"INSERT INTO pages (id, content, tree) VALUES (1, '0', '{"children":[]}')"#;
    world.sql(insert).await;
    let pages = Small::repository(&world.cache, world.pool.clone());
    let is_cached = async || pages.find_outcome(1).await.unwrap().origin == Origin::Cache;
    eventually("the row is cached", is_cached).await;
    let key = pages.inner().key(1).unwrap();
    // It could be decoded: only its size is wrong.
    let large = |length: usize| {
        let row = json!({"id": 1, "content": "x".repeat(length), "tree": {"children": []}});
        larder::Codec::MessagePack.encode(&row).unwrap()
    };
    forge(world, &key, &large(10)).await;
    let read = pages.find(1).await.unwrap().unwrap();
    assert_eq!(
        read.content,
        Value::from("x".repeat(10)),
        "a small one is served"
    );
    for length in [1_100, 100_000, 3_000_000] {
        eventually("the row is cached", is_cached).await;
        forge(world, &key, &large(length)).await;
        let before = pages.stats().corrupt_entries;
        let read = pages.find_outcome(1).await.unwrap();
        assert_eq!(
            (read.origin, &read.row.unwrap().content),
            (Origin::Database, &json!(0))
        );
        assert_eq!(pages.stats().corrupt_entries, before + 1, "{length}");
    }
    eventually("the row is cached again", is_cached).await;
}

/// Returns a list that has this many lists in it.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!([]), |inner, _| json!([inner]))
}

async fn a_row_that_is_nested_too_deep_is_not_cached<DB: Tested>(world: &World<DB>) {
    world.sql(PAGES).await;
    let pages = Packed::repository(&world.cache, world.pool.clone());
    // The most that a row of the database can have, because sqlx reads JSON with a limit. In the cache it is one level more.
    for (id, levels, origin) in [(1, 125, Origin::Cache), (2, 126, Origin::Database)] {
        let content = nested(levels);
        world
            .sql(format!(
                r#"INSERT INTO pages (id, content, tree) VALUES ({id}, '{content}', '{{"children":[]}}')"#
            ))
            .await;
        let before = pages.stats().codec_mismatches;
        let read = async || pages.find_outcome(id).await.unwrap();
        assert_eq!(read().await.row.unwrap().content, content);
        let was_judged = async || {
            let now = pages.stats();
            read().await.origin == Origin::Cache || now.codec_mismatches > before
        };
        eventually("the row was judged", was_judged).await;
        let again = read().await;
        assert_eq!(
            (again.origin, &again.row.unwrap().content),
            (origin, &content)
        );
    }
    // Nor is such a row written: nobody could read it.
    let row = Packed {
        id: 3,
        content: nested(127),
        tree: Node::default(),
    };
    let refused = pages.insert(&row).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conversion, "{refused}");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "pages",
    strategy = "write_behind",
    durability = "memory",
    partitions = 1
)]
struct QueuedPage {
    #[cached(id)]
    id: i64,
    #[sqlx(json)]
    content: Value,
    #[sqlx(json)]
    tree: Node,
}

async fn a_queued_row_that_is_nested_too_deep_is_refused<DB: Tested>(world: &World<DB>) {
    world.sql(PAGES).await;
    let pages = QueuedPage::repository(&world.cache, world.pool.clone());
    pages.install().await.unwrap();
    let page = |levels| QueuedPage {
        id: 1,
        content: nested(levels),
        tree: Node::default(),
    };
    pages.save(&page(125)).await.unwrap();
    let refused = pages.save(&page(126)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conversion, "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("`content`") && text.contains("127 levels"),
        "{text}"
    );
    pages.flush().await.unwrap();
    let written = pages.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(written.content, nested(125));
}

async fn a_dead_letter_that_is_nested_too_deep_is_listed<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE UNIQUE INDEX one_name ON items (name)")
        .await;
    world.put(&crate::entities::Item::new(1, "taken")).await;
    let rows = Queued::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    let row = Queued {
        id: 2,
        name: "taken".to_owned(),
        note: None,
        quantity: 1,
    };
    rows.save(&row).await.unwrap();
    rows.flush().await.unwrap();
    let dead = rows.dead_letters();
    assert_eq!(dead.list(10).await.unwrap().len(), 1);
    for times in TIMES {
        let payload = "91".repeat(times);
        world
            .sql(format!(
                "UPDATE larder_dead_letters SET payload = x'{payload}'"
            ))
            .await;
        let letters = dead.list(10).await.unwrap();
        let why = letters[0].decode_error().unwrap();
        assert!(why.contains("MessagePack cannot read it"), "{why}");
        assert!(dead.replay(&letters[0]).await.is_err());
    }
    let letters = dead.list(10).await.unwrap();
    dead.discard(&letters[0]).await.unwrap();
}
