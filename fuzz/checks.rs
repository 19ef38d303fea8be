//! What must hold for any bytes: one function for each kind of input from outside.
//!
//! Each is a target of the fuzzer (`fuzz_targets`), and runs with the tests on a bounded number of inputs (`tests/suite/fuzzed.rs`).

use std::{collections::BTreeMap, sync::LazyLock};

use larder::{
    Cached, Codec, PlainEntries, SecretKey, behind, entry,
    family::{self, Shape},
    journal,
    key::Key,
    seal::Seals,
    state::{Identity, Lease, Meta, State},
    store,
    token::Token,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A row with every kind of content that a payload may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "rows", strategy = "write_behind")]
pub(crate) struct Row {
    #[cached(id)]
    id: i64,
    name: String,
    note: Option<String>,
    bytes: Vec<u8>,
    #[sqlx(json)]
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    With(u64),
    Named { left: i8, right: Option<Box<Kind>> },
}

const CODECS: [Codec; 3] = [Codec::MessagePack, Codec::Postcard, Codec::Json];

/// Any bytes at a key of Redis are some state. What is a state is written back the same.
pub(crate) fn entry(bytes: &[u8]) {
    let state = entry::decode(bytes);
    let payload = match &state {
        State::Unreadable(_) => bytes,
        State::Value(_, payload) | State::Pending(_, payload) => payload,
        State::Loading(..) | State::Negative(_) | State::Writing(_) => &[],
    };
    if !matches!(state, State::Unreadable(_)) {
        assert_eq!(entry::decode(&entry::encode(&state)), state);
    }
    for codec in CODECS {
        if let Ok(row) = codec.decode::<Row>(payload) {
            let again = codec.encode(&row).expect("what was read can be written");
            let read: Row = codec.decode(&again).expect("what was written can be read");
            assert_eq!(read, row);
        }
    }
}

#[derive(PartialEq, Serialize, Deserialize)]
struct List {
    children: Vec<List>,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Chain(Option<Box<Chain>>);

#[derive(PartialEq, Serialize, Deserialize)]
struct Map(BTreeMap<u8, Map>);

#[derive(PartialEq, Serialize, Deserialize)]
struct Units {
    units: Vec<()>,
    empty: Vec<[u8; 0]>,
}

#[derive(PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Newtype(Box<Tree>),
    Tuple(Vec<Tree>, Option<Box<Tree>>),
    Struct { left: Box<Tree>, right: Map },
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Leaf(u8),
    Nodes(Vec<Untagged>),
    Named(BTreeMap<String, Untagged>),
}

fn is_written_back<T: DeserializeOwned + Serialize + PartialEq>(codec: Codec, bytes: &[u8]) {
    if let Ok(value) = codec.decode::<T>(bytes) {
        let written = codec.encode(&value);
        let written = written.expect("what was read can be written");
        let again: Option<T> = codec.decode(&written).ok();
        assert!(again == Some(value), "what was written can be read");
    }
}

/// No bytes make a codec use up the stack, whatever types are nested in each other. What is read can be written, and read again.
pub(crate) fn depth(bytes: &[u8]) {
    for codec in CODECS {
        is_written_back::<List>(codec, bytes);
        is_written_back::<Map>(codec, bytes);
        is_written_back::<Units>(codec, bytes);
        is_written_back::<Tree>(codec, bytes);
        // MessagePack and JSON write `Some(None)` as `None`.
        let _any = codec.decode::<Chain>(bytes);
    }
    for codec in [Codec::MessagePack, Codec::Json] {
        is_written_back::<Untagged>(codec, bytes);
        let _any = codec.decode::<serde_json::Value>(bytes);
    }
}

/// The largest payload that is opened here.
const MOST: u64 = 100_000;

/// Caches that seal entries: with tags, with encryption, and with compression beside both and alone.
static SEALS: LazyLock<[Seals; 4]> = LazyLock::new(|| {
    // Not that of the fixtures, which are among the inputs.
    let keys = [SecretKey::new([9; 32])];
    let seals = |encrypts| Seals::new(&keys, encrypts, PlainEntries::Refuse);
    [
        seals(false),
        seals(true),
        seals(true).compress_above(Some(8)),
        Seals::default().compress_above(Some(8)),
    ]
});

/// Nothing is believed that was not sealed with a key, and no few bytes become many. What is sealed is opened again.
pub(crate) fn seal(bytes: &[u8]) {
    let key = Key::from_bytes(b"shop:Item:1");
    let state = entry::decode(bytes);
    let payload = match &state {
        State::Value(_, payload) | State::Pending(_, payload) => payload,
        _ => &[][..],
    };
    let is_sealed = matches!(
        state,
        State::Value(..) | State::Negative(_) | State::Pending(..)
    );
    for seals in &*SEALS {
        let opened = seals.open(&key, bytes, payload, MOST);
        if let Ok(Some(opened)) = &opened {
            assert!(opened.len() as u64 <= MOST, "{} bytes", opened.len());
        }
        if seals.are_required() && is_sealed {
            assert!(
                opened.is_err(),
                "an entry is believed that nobody has sealed"
            );
        }
    }
    let meta = Meta {
        lease: Lease {
            token: Token::numbered(bytes.len() as u64),
            identity: Identity::default(),
        },
        loaded_at_ms: 0,
        stamp: None,
    };
    for seals in &*SEALS {
        let mut sealed = seals.encode(&key, &State::Value(meta, bytes));
        let read = |sealed: &[u8]| match entry::decode(sealed) {
            State::Value(_, payload) => {
                let opened = seals.open(&key, sealed, payload, u64::MAX);
                opened.map(|opened| opened.unwrap_or_else(|| payload.to_vec()))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&sealed).as_deref(), Ok(bytes));
        if let (true, Some(last)) = (seals.are_required(), sealed.last_mut()) {
            *last ^= 1;
            assert!(read(&sealed).is_err(), "a changed entry is believed");
        }
    }
}

/// Any reply of Redis is read as each reply that larder waits for: queued writes, the state of a queue, the clock of tags, a binding,
/// answers to puts, `INFO`.
pub(crate) fn replies(bytes: &[u8]) {
    store::redis::replies::read_any(bytes);
}

const OWN: &str = "{\"entity\":\"Own\"}";

/// Any text is a record of the entities over a table.
pub(crate) fn family(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(shape) = Shape::decode(&text) {
        let again = Shape::decode(&shape.encode());
        assert_eq!(again.as_ref(), Some(&shape));
        assert!(family::INTENT_TTLS.contains(&shape.intent_ttl_ms));
        let _own = shape.is_of("shop");
    }
    for is_claimed in [false, true] {
        let record = family::record(&text, OWN, is_claimed, 1_000);
        let kept = record.changed.unwrap_or_else(|| text.clone().into_owned());
        let again = family::record(&kept, OWN, is_claimed, 1_000);
        assert_eq!(
            again.changed, None,
            "a record that is read again is the same"
        );
        assert_eq!(again.family.others, record.family.others);
    }
}

/// Any bytes are a segment of a journal.
pub(crate) fn journal(bytes: &[u8]) {
    journal::format::read_any(bytes);
}

/// Any bytes are the payload of a dead letter.
pub(crate) fn letter(bytes: &[u8]) {
    for codec in 0..5 {
        for is_deletion in [false, true] {
            let _read = behind::letters::read_any::<Row>(is_deletion, codec, bytes);
        }
    }
}
