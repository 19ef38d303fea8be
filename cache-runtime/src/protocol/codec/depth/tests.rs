//! Attacks on the codecs: bytes that nest a type in itself, and lengths that are not true.
//!
//! Each attack runs on a thread with a small stack. Debug builds need several times the stack of a release build for the same
//! value, so what passes here passes there on the stack of any thread, which has 2 MiB by default.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    thread,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::*;
use crate::protocol::codec::{Codec, CodecError};

/// Half of the stack of a thread of tokio, in bytes.
const STACK: usize = 1 << 20;

/// How often an attack nests its type: from a little too deep, up to a megabyte of bytes.
const TIMES: [usize; 5] = [200, 911, 5_000, 66_000, 1_000_000];

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct List {
    children: Vec<List>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped(Vec<Wrapped>);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Map(BTreeMap<u8, Map>);

/// A type that a value which is not `None` has no end in.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Endless(Option<Box<Endless>>);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Newtype(Box<Tree>),
    Tuple(Box<Tree>, ()),
    Struct { inner: Box<Tree> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Leaf(u8),
    Nodes(Vec<Untagged>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Flattened {
    #[serde(flatten)]
    rest: HashMap<String, serde_json::Value>,
}

#[cfg(feature = "postcard")]
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Empty {}

/// Runs something on a thread with [`STACK`].
fn on_small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let builder = thread::Builder::new().stack_size(STACK);
    builder.spawn(run).unwrap().join().unwrap()
}

/// Checks that a codec neither aborts nor returns a value for bytes that nest a type, and that the search for the field
/// survives them.
#[track_caller]
fn refused<T: DeserializeOwned + Debug + Send + 'static>(codec: Codec, bytes: Vec<u8>) -> String {
    let error = on_small_stack(move || {
        let _any_or_none = codec.field_not_read::<T>(&bytes);
        codec.decode::<T>(&bytes).map(|_| ())
    });
    error.expect_err("it is too deep").to_string()
}

fn nested(opening: &[u8], closing: &[u8], times: usize) -> Vec<u8> {
    [opening.repeat(times), closing.repeat(times)].concat()
}

#[cfg(feature = "msgpack")]
#[test]
fn message_pack_that_is_too_deep_is_refused() {
    for times in TIMES {
        let array = || nested(&[0x91], &[], times);
        let all = [
            refused::<Wrapped>(Codec::MessagePack, array()),
            refused::<List>(Codec::MessagePack, array()),
            refused::<List>(
                Codec::MessagePack,
                nested(b"\x81\xa8children\x91", &[], times),
            ),
            refused::<Chain>(Codec::MessagePack, nested(b"\x81\xa4next", &[], times)),
            refused::<Map>(Codec::MessagePack, nested(&[0x81, 1], &[], times)),
            refused::<Tree>(Codec::MessagePack, nested(b"\x81\xa7Newtype", &[], times)),
            refused::<Tree>(Codec::MessagePack, nested(b"\x81\xa5Tuple\x92", &[], times)),
            refused::<Tree>(
                Codec::MessagePack,
                nested(b"\x81\xa6Struct\x81\xa5inner", &[], times),
            ),
            refused::<Untagged>(Codec::MessagePack, array()),
            refused::<serde_json::Value>(Codec::MessagePack, array()),
            refused::<Flattened>(Codec::MessagePack, nested(b"\x81\xa1a", &[], times)),
            refused::<de::IgnoredAny>(Codec::MessagePack, array()),
        ];
        for error in all {
            assert!(error.contains("127 levels"), "{times}: {error}");
        }
    }
    let error = refused::<Endless>(Codec::MessagePack, vec![1]);
    assert!(error.contains("127 levels"), "{error}");
}

#[cfg(feature = "postcard")]
#[test]
fn postcard_that_is_too_deep_is_refused() {
    for times in TIMES {
        let ones = || nested(&[1], &[], times);
        let all = [
            refused::<Wrapped>(Codec::Postcard, ones()),
            refused::<List>(Codec::Postcard, ones()),
            refused::<Chain>(Codec::Postcard, ones()),
            refused::<Map>(Codec::Postcard, ones()),
            refused::<Endless>(Codec::Postcard, ones()),
            refused::<Tree>(Codec::Postcard, ones()),
            refused::<Tree>(Codec::Postcard, nested(&[2], &[], times)),
            refused::<Tree>(Codec::Postcard, nested(&[3], &[], times)),
        ];
        for error in all {
            // postcard drops the texts of errors.
            assert!(!error.contains("end of"), "{times}: {error}");
        }
    }
}

/// The control: what larder refuses is a value, and only the stack bounds it.
#[cfg(all(feature = "msgpack", feature = "postcard"))]
#[test]
fn without_the_limits_the_codecs_read_on() {
    let levels = 300;
    let packed = nested(&[0x91], &[], levels - 1);
    let packed = [packed.as_slice(), &[0x90]].concat();
    let card = [nested(&[1], &[], levels - 1).as_slice(), &[0]].concat();
    refused::<Wrapped>(Codec::MessagePack, packed.clone());
    refused::<Wrapped>(Codec::Postcard, card.clone());
    let builder = thread::Builder::new().stack_size(64 << 20);
    let read = builder.spawn(move || {
        let packed: Wrapped = rmp_serde::from_slice(&packed).unwrap();
        let card: Wrapped = postcard::from_bytes(&card).unwrap();
        assert!(packed == card);
    });
    read.unwrap().join().unwrap();
}

#[cfg(feature = "json")]
#[test]
fn json_that_is_too_deep_is_refused() {
    for times in TIMES {
        let _array = [
            refused::<Wrapped>(Codec::Json, nested(b"[", b"]", times)),
            refused::<List>(Codec::Json, nested(br#"{"children":["#, b"]}", times)),
            refused::<Chain>(Codec::Json, nested(br#"{"next":"#, b"}", times)),
            refused::<Map>(Codec::Json, nested(br#"{"1":"#, b"}", times)),
            refused::<Tree>(Codec::Json, nested(br#"{"Newtype":"#, b"}", times)),
            refused::<Tree>(Codec::Json, nested(br#"{"Struct":{"inner":"#, b"}}", times)),
            refused::<Untagged>(Codec::Json, nested(b"[", b"]", times)),
            refused::<serde_json::Value>(Codec::Json, nested(b"[", b"]", times)),
            refused::<Flattened>(Codec::Json, nested(br#"{"a":"#, b"}", times)),
        ];
    }
    let error = refused::<Endless>(Codec::Json, b"1".to_vec());
    assert!(error.contains("127 levels"), "{error}");
}

/// Returns a list that has this many levels.
fn list(levels: usize) -> Wrapped {
    // A newtype is one level, and the list in it another.
    (2..=levels / 2).fold(Wrapped(Vec::new()), |inner, _| Wrapped(vec![inner]))
}

#[test]
fn what_was_written_is_read() {
    for codec in Codec::all() {
        let deepest = usize::from(DEEPEST) - 1;
        let (written, again) = on_small_stack(move || {
            let written = codec.encode(&list(deepest)).unwrap();
            let again: Wrapped = codec.decode(&written).unwrap();
            (
                list(deepest) == again,
                codec.encode(&again).unwrap() == written,
            )
        });
        assert!(written && again, "{codec:?}");
    }
}

#[test]
fn what_is_nested_too_deep_is_not_written() {
    for codec in Codec::all() {
        let error = on_small_stack(move || {
            let row = list(usize::from(DEEPEST) + 2);
            let _any_or_none = codec.field_not_written(&row);
            codec.encode(&row).unwrap_err().to_string()
        });
        if codec.is_positional() {
            assert!(!error.is_empty(), "postcard drops the texts of errors");
        } else {
            assert!(error.contains("127 levels"), "{codec:?}: {error}");
        }
    }
}

#[test]
fn every_kind_of_nesting_is_counted_when_it_is_written() {
    fn chain(levels: usize) -> Chain {
        (0..levels).fold(Chain { next: None }, |inner, _| Chain {
            next: Some(Box::new(inner)),
        })
    }
    fn tree(levels: usize, of: fn(Box<Tree>) -> Tree) -> Tree {
        (0..levels).fold(Tree::Leaf, |inner, _| of(Box::new(inner)))
    }
    fn map(levels: usize) -> Map {
        (0..levels).fold(Map(BTreeMap::new()), |inner, _| {
            Map(BTreeMap::from([(1, inner)]))
        })
    }
    for codec in Codec::all() {
        on_small_stack(move || {
            let fails = |encoded: [Result<Vec<u8>, CodecError>; 2]| {
                let [fits, too_deep] = encoded;
                fits.unwrap();
                too_deep.unwrap_err();
            };
            fails([60, 64].map(|levels| codec.encode(&chain(levels))));
            fails([60, 64].map(|levels| codec.encode(&map(levels))));
            let kinds: [fn(Box<Tree>) -> Tree; 3] = [
                Tree::Newtype,
                |inner| Tree::Tuple(inner, ()),
                |inner| Tree::Struct { inner },
            ];
            for kind in kinds {
                fails([127, 128].map(|levels| codec.encode(&tree(levels, kind))));
            }
        });
    }
}

#[cfg(feature = "postcard")]
#[test]
fn elements_without_bytes_are_limited() {
    // 2^31 and 2^63 elements.
    let lengths: [&[u8]; 2] = [
        &[0x80, 0x80, 0x80, 0x80, 0x08],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
    ];
    for length in lengths {
        Codec::Postcard.decode::<Vec<()>>(length).unwrap_err();
        Codec::Postcard.decode::<Vec<Empty>>(length).unwrap_err();
        Codec::Postcard.decode::<Vec<[u8; 0]>>(length).unwrap_err();
        Codec::Postcard
            .decode::<HashMap<(), ()>>(length)
            .unwrap_err();
    }
    for length in [0, 1, FREE_ELEMENTS] {
        let written = Codec::Postcard.encode(&vec![(); length]).unwrap();
        assert_eq!(
            Codec::Postcard.decode::<Vec<()>>(&written).unwrap().len(),
            length
        );
    }
}

#[test]
fn fields_are_not_counted_as_elements() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Outer((u8, ()), Vec<Vec<u8>>);
    let rows = vec![Outer((1, ()), vec![Vec::new(); 2]); FREE_ELEMENTS];
    for codec in Codec::all() {
        let written = codec.encode(&rows).unwrap();
        assert!(
            codec.decode::<Vec<Outer>>(&written).unwrap() == rows,
            "{codec:?}"
        );
    }
}

/// JSON that is kept as a text goes past serde's usual calls.
#[cfg(feature = "json")]
#[test]
fn raw_json_is_carried() {
    use serde_json::value::RawValue;
    #[derive(Serialize, Deserialize)]
    struct Row {
        raw: Box<RawValue>,
        more: Option<Box<RawValue>>,
    }
    let text = nested(b"[", b"]", 10_000);
    let text = String::from_utf8(text).unwrap();
    let row = Row {
        raw: RawValue::from_string(r#"{"a":[1,{"b":null}]}"#.to_owned()).unwrap(),
        more: RawValue::from_string(text).ok(),
    };
    let again: Row = Codec::Json
        .decode(&Codec::Json.encode(&row).unwrap())
        .unwrap();
    assert_eq!(again.raw.get(), row.raw.get());
    assert_eq!(again.more.unwrap().get(), row.more.unwrap().get());
}

#[test]
fn bytes_after_a_row_are_refused() {
    for codec in Codec::all() {
        let row = (1_u8, "text".to_owned());
        let written = codec.encode(&row).unwrap();
        assert_eq!(codec.decode::<(u8, String)>(&written).unwrap(), row);
        for more in 0..=u8::MAX {
            for times in [1, 5_000] {
                let bytes = [written.as_slice(), &[more].repeat(times)].concat();
                let read = codec.decode::<(u8, String)>(&bytes);
                let is_space = is_json(codec) && more.is_ascii_whitespace() && more != b'\x0c';
                assert_eq!(read.is_ok(), is_space, "{codec:?} {more:#x}");
            }
        }
    }
}

fn is_json(codec: Codec) -> bool {
    codec.number() == 3
}

/// A collection that believes its size hint.
#[cfg(any(feature = "msgpack", feature = "postcard"))]
struct Trusting;

#[cfg(any(feature = "msgpack", feature = "postcard"))]
impl<'de> Deserialize<'de> for Trusting {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Hint;
        impl<'de> Visitor<'de> for Hint {
            type Value = Trusting;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Trusting, A::Error> {
                assert!(list.size_hint().is_none_or(|hint| hint <= LARGEST_HINT));
                Err(de::Error::custom("seen"))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Trusting, A::Error> {
                assert!(map.size_hint().is_none_or(|hint| hint <= LARGEST_HINT));
                Err(de::Error::custom("seen"))
            }
        }
        if from.is_human_readable() {
            from.deserialize_map(Hint)
        } else {
            from.deserialize_seq(Hint)
        }
    }
}

#[cfg(any(feature = "msgpack", feature = "postcard"))]
#[test]
fn a_length_that_is_not_true_allocates_nothing() {
    #[cfg(feature = "msgpack")]
    for kind in [0xdb, 0xc6, 0xdd, 0xdf] {
        // A text, bytes, a list and a map of 2^31 elements.
        let bytes = [kind, 0x80, 0, 0, 0, b'x', b'y', b'z'];
        assert!(Codec::MessagePack.decode::<String>(&bytes).is_err());
        assert!(Codec::MessagePack.decode::<Vec<u64>>(&bytes).is_err());
        assert!(Codec::MessagePack.decode::<Box<[u8]>>(&bytes).is_err());
        assert!(
            Codec::MessagePack
                .decode::<HashMap<u64, u64>>(&bytes)
                .is_err()
        );
        assert!(
            Codec::MessagePack
                .decode::<serde_json::Value>(&bytes)
                .is_err()
        );
        assert!(Codec::MessagePack.decode::<Trusting>(&bytes).is_err());
    }
    #[cfg(feature = "postcard")]
    for length in [&[0x80, 0x80, 0x80, 0x80, 0x08][..], &[0xff; 9], &[0xff; 10]] {
        let bytes = [length, b"xyz"].concat();
        assert!(Codec::Postcard.decode::<String>(&bytes).is_err());
        assert!(Codec::Postcard.decode::<Vec<u64>>(&bytes).is_err());
        assert!(Codec::Postcard.decode::<Box<[u8]>>(&bytes).is_err());
        assert!(Codec::Postcard.decode::<HashMap<u64, u64>>(&bytes).is_err());
        assert!(Codec::Postcard.decode::<Trusting>(&bytes).is_err());
    }
}
