//! No bytes make a codec use up the stack, whatever types are nested in each other; what is read can be written, and read again.
#![no_main]

use std::collections::BTreeMap;

use larder::Codec;
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

fn check<T: DeserializeOwned + Serialize + PartialEq>(codec: Codec, bytes: &[u8]) {
    if let Ok(value) = codec.decode::<T>(bytes) {
        let written = codec.encode(&value).ok().expect("what was read can be written");
        let again: Option<T> = codec.decode(&written).ok();
        assert!(again == Some(value), "what was written can be read");
    }
}

fuzz_target!(|bytes: &[u8]| {
    for codec in [Codec::MessagePack, Codec::Postcard, Codec::Json] {
        check::<List>(codec, bytes);
        check::<Map>(codec, bytes);
        check::<Units>(codec, bytes);
        check::<Tree>(codec, bytes);
        // MessagePack and JSON write `Some(None)` as `None`.
        let _any = codec.decode::<Chain>(bytes);
    }
    for codec in [Codec::MessagePack, Codec::Json] {
        check::<Untagged>(codec, bytes);
        let _any = codec.decode::<serde_json::Value>(bytes);
    }
});
