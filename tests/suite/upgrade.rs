//! Entries of other versions of a program, and damaged entries: a miss, never an error and never a wrong value.

use larder::{
    Cached, Codec, Origin, PlainEntries, SecretKey, entry,
    key::Key,
    queue_position::{Incarnation, QUEUE_POSITION_LENGTH, QueuePosition},
    seal::Seals,
    state::{Identity, Lease, Meta, Pending, State, Unreadable, Writers},
    tags::Stamp,
    token::{ProcessId, Token},
};
use proptest::prelude::*;

use crate::{
    entities::Item,
    world::{Tested, World, on_both_stores, on_redis},
};

on_both_stores!(
    another_layout_is_a_miss_and_is_overwritten,
    a_write_by_either_version_is_seen_by_the_other,
    another_layout_of_a_nested_type_is_a_miss,
    another_table_under_the_same_name_is_refused_until_the_namespace_is_rebound,
);
on_redis!(
    damaged_bytes_are_a_miss_counted_and_repaired,
    a_damaged_payload_is_a_miss_counted_and_repaired,
    an_entry_in_a_later_format_is_left_alone,
    every_prefix_of_an_entry_is_survived,
);

/// [`Item`] in another version of the program: one field more, one with another type, one removed.
mod next_version {
    use serde::{Deserialize, Serialize};

    use super::Cached;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "items", jitter = 0, lease(ttl = "60s", wait = "20s"))]
    pub(super) struct Item {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
        pub(super) quantity: i32,
    }
}

async fn another_layout_is_a_miss_and_is_overwritten<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let old = world.items();
    let new = next_version::Item::repository(&world.cache, world.pool.clone());
    for _ in 0..2 {
        assert_eq!(old.find_outcome(1).await.unwrap().origin, Origin::Database);
        assert_eq!(old.find_outcome(1).await.unwrap().origin, Origin::Cache);
        let outcome = new.find_outcome(1).await.unwrap();
        assert_eq!(
            outcome.origin,
            Origin::Database,
            "an entry of another layout is not decoded"
        );
        assert_eq!(outcome.row.unwrap().quantity, 1);
        assert_eq!(new.find_outcome(1).await.unwrap().origin, Origin::Cache);
    }
    assert_eq!(
        (
            new.stats().incompatible_entries,
            new.stats().corrupt_entries
        ),
        (2, 0)
    );
}

async fn a_write_by_either_version_is_seen_by_the_other<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let old = world.items();
    let new = next_version::Item::repository(&world.cache_elsewhere().await, world.pool.clone());
    for round in 0..5 {
        old.find(1).await.unwrap();
        let name = format!("new {round}");
        let row = next_version::Item {
            id: 1,
            name: name.clone(),
            quantity: 2,
        };
        new.update(&row).await.unwrap();
        assert_eq!(old.find(1).await.unwrap().unwrap().name, name);
        new.find(1).await.unwrap();
        let name = format!("old {round}");
        old.update(&Item::new(1, &name)).await.unwrap();
        assert_eq!(new.find(1).await.unwrap().unwrap().name, name);
    }
}

/// Two versions of a type that the entity only names: one in a nested struct, one in a JSON column.
macro_rules! version_with {
    ($version:ident, $table:literal, { $($nested:tt)* }, { $($variants:tt)* }) => {
        mod $version {
            use serde::{Deserialize, Serialize};

            use super::Cached;

            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
            pub(super) struct Nested {
                name: String,
                $($nested)*
            }

            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            pub(super) enum Note {
                $($variants)*
            }

            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
            #[cached(table = $table, jitter = 0, lease(ttl = "60s", wait = "20s"))]
            pub(super) struct Thing {
                #[cached(id)]
                id: i64,
                #[sqlx(flatten)]
                nested: Nested,
                #[sqlx(json(nullable))]
                note: Option<Note>,
            }
        }
    };
}

version_with!(first, "items", {}, { Plain });
version_with!(more_columns, "items", { quantity: i64, }, { Plain });
version_with!(more_variants, "items", {}, { Plain, Other { text: String } });
version_with!(other_table, "others", {}, { Plain });

macro_rules! is_loaded_and_cached {
    ($world:ident, $($version:ident),*) => {
        $(
            let things = $version::Thing::repository(&$world.cache, $world.pool.clone());
            let origin = things.find_outcome(1).await.unwrap().origin;
            assert_eq!(origin, Origin::Database, "an entry of another version was believed");
            assert_eq!(things.find_outcome(1).await.unwrap().origin, Origin::Cache);
        )*
    };
}

/// The same for a nested type.
async fn another_layout_of_a_nested_type_is_a_miss<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    is_loaded_and_cached!(world, first, more_columns, more_variants, first);
}

async fn another_table_under_the_same_name_is_refused_until_the_namespace_is_rebound<DB: Tested>(
    world: &World<DB>,
) {
    world.put(&Item::new(1, "one")).await;
    world.sql("CREATE TABLE others (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, note VARCHAR(200))").await;
    world
        .sql("INSERT INTO others VALUES (1, 'other', NULL)")
        .await;
    is_loaded_and_cached!(world, first);
    let made = other_table::Thing::try_repository(&world.cache, world.pool.clone());
    assert_eq!(made.unwrap_err().kind(), larder::ErrorKind::Configuration);
    world.cache.rebind(&world.pool).await.unwrap();
    is_loaded_and_cached!(world, other_table);
}

async fn damaged_bytes_are_a_miss_counted_and_repaired<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let key = items.inner().key(1).unwrap();
    for damage in [
        b"".as_slice(),
        b"x",
        b"{\"id\":1}",
        &[entry::MAGIC],
        &[entry::MAGIC, 0],
        &[entry::MAGIC, 1, 9],
        &[0xFF; 200],
    ] {
        let before = items.stats().corrupt_entries;
        world
            .cache
            .store()
            .force_bytes(&key, damage, 60_000)
            .await
            .unwrap();
        let outcome = items.find_outcome(1).await.unwrap();
        assert_eq!(
            (outcome.origin, &*outcome.row.unwrap().name),
            (Origin::Database, "one"),
            "{damage:?}"
        );
        assert_eq!(items.stats().corrupt_entries, before + 1);
        assert_eq!(
            items.find_outcome(1).await.unwrap().origin,
            Origin::Cache,
            "repaired after {damage:?}"
        );
    }
}

async fn a_damaged_payload_is_a_miss_counted_and_repaired<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    let key = items.inner().key(1).unwrap();
    let (good, _) = world.cache.store().peek_bytes(&key).await.unwrap().unwrap();
    let cut = good[..good.len() - 1].to_vec();
    let longer = [good.as_slice(), b"x"].concat();
    let empty = good[..entry::HEADER_LENGTH].to_vec();
    for damaged in [cut, longer, empty] {
        let before = items.stats().corrupt_entries;
        world
            .cache
            .store()
            .force_bytes(&key, &damaged, 60_000)
            .await
            .unwrap();
        assert_eq!(
            items.find_outcome(1).await.unwrap().origin,
            Origin::Database
        );
        assert!(items.stats().corrupt_entries > before);
        assert_eq!(
            items.find_outcome(1).await.unwrap().origin,
            Origin::Cache,
            "repaired"
        );
    }
}

async fn an_entry_in_a_later_format_is_left_alone<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    let key = items.inner().key(1).unwrap();
    let later = [entry::MAGIC, entry::FORMAT + 1, 77, 78, 79];
    world
        .cache
        .store()
        .force_bytes(&key, &later, 60_000)
        .await
        .unwrap();
    assert_eq!(
        items.find_outcome(1).await.unwrap().origin,
        Origin::Database
    );
    let (bytes, _) = world.cache.store().peek_bytes(&key).await.unwrap().unwrap();
    assert_eq!(bytes, later, "a reader goes past it");
    items.update(&Item::new(1, "two")).await.unwrap();
    items.find(1).await.unwrap();
    assert_eq!(
        items.find(1).await.unwrap().unwrap().name,
        "two",
        "a writer replaces it"
    );
}

async fn every_prefix_of_an_entry_is_survived<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    let key = items.inner().key(1).unwrap();
    let (good, _) = world.cache.store().peek_bytes(&key).await.unwrap().unwrap();
    for length in 0..good.len() {
        world
            .cache
            .store()
            .force_bytes(&key, &good[..length], 60_000)
            .await
            .unwrap();
        assert_eq!(
            items.find(1).await.unwrap().unwrap().name,
            "one",
            "cut to {length} bytes"
        );
    }
}

fn meta() -> Meta {
    Meta {
        lease: Lease {
            token: Token([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
            identity: Identity {
                history: 0x1122_3344_5566_7788,
                fingerprint: 0xAABB_CCDD,
                codec: 3,
            },
        },
        loaded_at_ms: 1_700_000_000_123,
        stamp: None,
    }
}

fn pending(is_deletion: bool) -> Pending {
    let incarnation = Incarnation {
        epoch: 3,
        nonce: 0x00FF_8000_1234_5678,
    };
    Pending {
        position: QueuePosition {
            incarnation,
            number: 77,
        },
        is_deletion,
        meta: meta(),
    }
}

/// A name, the stored bytes, and the state that they encode.
type Fixture = (&'static str, &'static [u8], State<&'static [u8]>);

/// The stored bytes of format 1, one file per state. A change of the format needs a new number and further files.
fn fixtures() -> Vec<Fixture> {
    let intents = vec![Token([0xA1; 16]), Token([0xB2; 16])];
    vec![
        (
            "loading",
            include_bytes!("fixtures/format-1/loading.bin"),
            State::Loading(meta().lease, vec![ProcessId([7; 8]), ProcessId([9; 8])]),
        ),
        (
            "value",
            include_bytes!("fixtures/format-1/value.bin"),
            State::Value(meta(), b"payload".as_slice()),
        ),
        (
            "negative",
            include_bytes!("fixtures/format-1/negative.bin"),
            State::Negative(meta()),
        ),
        (
            "writing",
            include_bytes!("fixtures/format-1/writing.bin"),
            State::Writing(Writers {
                intents: intents.clone(),
                contended: false,
                saturated: false,
            }),
        ),
        (
            "contended",
            include_bytes!("fixtures/format-1/contended.bin"),
            State::Writing(Writers {
                intents,
                contended: true,
                saturated: true,
            }),
        ),
        (
            "pending",
            include_bytes!("fixtures/format-1/pending.bin"),
            State::Pending(pending(false), b"payload".as_slice()),
        ),
        (
            "deletion",
            include_bytes!("fixtures/format-1/deletion.bin"),
            State::Pending(pending(true), b"id".as_slice()),
        ),
    ]
}

/// Bytes that only the settle script writes: a value with a queue position.
fn settled() -> (&'static [u8], State<&'static [u8]>) {
    let bytes = include_bytes!("fixtures/format-1/marked.bin");
    (bytes, State::Value(meta(), b"payload".as_slice()))
}

#[test]
fn a_settled_value_is_read_without_its_queue_position() {
    let (bytes, state) = settled();
    assert_eq!(entry::decode(bytes), state);
    let position_end = entry::HEADER_LENGTH + QUEUE_POSITION_LENGTH;
    let empty = State::Value(meta(), b"".as_slice());
    assert_eq!(entry::decode(&bytes[..position_end]), empty);
    let damaged = State::Unreadable(Unreadable::Damaged);
    for length in 0..position_end {
        assert_eq!(entry::decode(&bytes[..length]), damaged, "{length} bytes");
    }
}

#[test]
fn bytes_of_released_formats_are_read_exactly() {
    for (name, bytes, state) in fixtures() {
        assert_eq!(entry::decode(bytes), state, "{name}");
    }
}

#[test]
fn the_format_has_not_changed_without_a_new_number() {
    assert_eq!(
        entry::FORMAT,
        2,
        "a new format needs fixtures of its own beside those of the old one"
    );
    for (name, bytes, state) in fixtures() {
        assert_eq!(entry::encode(&state), bytes, "{name}");
    }
}

/// What the compressed fixtures hold.
const LONG: &[u8] =
    b"a payload that repeats itself, a payload that repeats itself, a payload that repeats itself";

/// How an entry was sealed, the stored bytes, and what they hold.
type SealedFixture = (Seals, &'static [u8], State<&'static [u8]>);

/// The stored bytes of format 2.
fn sealed_fixtures() -> Vec<SealedFixture> {
    let keys = [SecretKey::new([7; 32])];
    let tags = || Seals::new(&keys, false, PlainEntries::Refuse);
    let encryption = || Seals::new(&keys, true, PlainEntries::Refuse);
    let stamped = Meta {
        stamp: Some(Stamp {
            incarnation: 3,
            time: 4,
        }),
        ..meta()
    };
    let payload = b"payload".as_slice();
    macro_rules! bytes {
        ($name:literal) => {
            include_bytes!(concat!("fixtures/format-2/", $name, ".bin")).as_slice()
        };
    }
    vec![
        (tags(), bytes!("value"), State::Value(meta(), payload)),
        (tags(), bytes!("stamped"), State::Value(stamped, payload)),
        (tags(), bytes!("negative"), State::Negative(meta())),
        (
            tags(),
            bytes!("pending"),
            State::Pending(pending(false), payload),
        ),
        (
            tags(),
            bytes!("deletion"),
            State::Pending(pending(true), b"id"),
        ),
        (
            encryption(),
            bytes!("encrypted"),
            State::Value(meta(), payload),
        ),
        (
            encryption(),
            bytes!("encrypted-pending"),
            State::Pending(pending(false), payload),
        ),
        (
            Seals::default().compress_above(Some(64)),
            bytes!("compressed"),
            State::Value(meta(), LONG),
        ),
        (
            encryption().compress_above(Some(64)),
            bytes!("everything"),
            State::Value(meta(), LONG),
        ),
    ]
}

#[test]
fn sealed_bytes_of_released_formats_are_read_exactly() {
    let key = Key::from_bytes(b"shop:Item:1");
    for (seals, bytes, state) in sealed_fixtures() {
        let decoded = entry::decode(bytes);
        let stored = match decoded {
            State::Value(_, payload) | State::Pending(_, payload) => payload,
            _ => b"",
        };
        let opened = seals.open(&key, bytes, stored, 1_000).unwrap();
        let payload = opened.as_deref().unwrap_or(stored);
        let read = match decoded {
            State::Value(meta, _) => State::Value(meta, payload),
            State::Pending(pending, _) => State::Pending(pending, payload),
            other => other,
        };
        assert_eq!(read, state);
        // A compressor may become better, and its output another.
        if !matches!(state, State::Value(_, LONG)) {
            assert_eq!(seals.encode(&key, &state), bytes);
        }
    }
}

#[test]
fn payloads_of_released_codecs_are_read_exactly() {
    let item = Item {
        id: 42,
        name: "näme".to_owned(),
        note: Some("note".to_owned()),
        quantity: -7,
    };
    for (codec, bytes) in [
        (
            Codec::MessagePack,
            include_bytes!("fixtures/codecs/item.msgpack").as_slice(),
        ),
        (
            Codec::Postcard,
            include_bytes!("fixtures/codecs/item.postcard"),
        ),
        (Codec::Json, include_bytes!("fixtures/codecs/item.json")),
    ] {
        assert_eq!(codec.decode::<Item>(bytes).unwrap(), item, "{codec:?}");
        assert_eq!(codec.encode(&item).unwrap(), bytes, "{codec:?}");
    }
}

fn any_state() -> impl Strategy<Value = State<Vec<u8>>> {
    let token = any::<[u8; 16]>().prop_map(Token);
    let identity =
        (any::<u64>(), any::<u32>(), any::<u8>()).prop_map(|(history, fingerprint, codec)| {
            Identity {
                history,
                fingerprint,
                codec,
            }
        });
    let lease = (token.clone(), identity).prop_map(|(token, identity)| Lease { token, identity });
    let stamp =
        (any::<u64>(), any::<u64>()).prop_map(|(incarnation, time)| Stamp { incarnation, time });
    let stamp = prop::option::of(stamp);
    let meta = (lease.clone(), any::<u64>(), stamp).prop_map(|(lease, loaded_at_ms, stamp)| Meta {
        lease,
        loaded_at_ms,
        stamp,
    });
    prop_oneof![
        (
            lease,
            prop::collection::vec(any::<[u8; 8]>().prop_map(ProcessId), 0..5)
        )
            .prop_map(|(lease, waiters)| State::Loading(lease, waiters)),
        (meta.clone(), any::<Vec<u8>>()).prop_map(|(meta, payload)| State::Value(meta, payload)),
        meta.prop_map(State::Negative),
        (
            prop::collection::vec(token, 0..5),
            any::<bool>(),
            any::<bool>()
        )
            .prop_map(|(intents, contended, saturated)| {
                State::Writing(Writers {
                    intents,
                    contended,
                    saturated,
                })
            }),
    ]
}

fn borrowed(state: &State<Vec<u8>>) -> State<&[u8]> {
    match state {
        State::Loading(lease, waiters) => State::Loading(*lease, waiters.clone()),
        State::Value(meta, payload) => State::Value(*meta, payload),
        State::Negative(meta) => State::Negative(*meta),
        State::Writing(writers) => State::Writing(writers.clone()),
        State::Pending(pending, payload) => State::Pending(*pending, payload),
        State::Unreadable(unreadable) => State::Unreadable(*unreadable),
    }
}

proptest! {
    #[test]
    fn every_state_survives_its_bytes(state in any_state()) {
        let state = borrowed(&state);
        let bytes = entry::encode(&state);
        prop_assert_eq!(entry::decode(&bytes), state);
    }

    /// A bounded form of the fuzz target: any bytes decode to a state. A readable state encodes to the same bytes, except
    /// for bytes that the format reserves.
    #[test]
    fn any_bytes_decode_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        if magic && bytes.len() > 2 {
            bytes[0] = entry::MAGIC;
            bytes[1] = entry::FORMAT;
            bytes[2] %= 6;
        }
        let state = entry::decode(&bytes);
        if !matches!(state, State::Unreadable(Unreadable::Damaged | Unreadable::LaterFormat { .. })) {
            let bytes = entry::encode(&state);
            prop_assert_eq!(entry::decode(&bytes), state);
        }
        for codec in [Codec::MessagePack, Codec::Postcard, Codec::Json] {
            let _refused_or_read = codec.decode::<Item>(&bytes);
        }
    }
}
