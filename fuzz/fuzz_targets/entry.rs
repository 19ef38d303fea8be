//! Any bytes at a key of Redis are read as some state, without a panic; what is a real state is written back the same.
#![no_main]

use larder::{Codec, entry, state::State};
use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    id: i64,
    name: String,
    note: Option<String>,
    bytes: Vec<u8>,
    kind: Kind,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    With(u64),
    Named { left: i8, right: Option<Box<Kind>> },
}

fuzz_target!(|bytes: &[u8]| {
    let state = entry::decode(bytes);
    let payload = match &state {
        State::Unreadable(_) => bytes,
        State::Value(_, payload) | State::Pending(_, payload) => payload,
        State::Loading(..) | State::Negative(_) | State::Writing(_) => &[],
    };
    if !matches!(state, State::Unreadable(_)) {
        assert_eq!(entry::decode(&entry::encode(&state)), state);
    }
    for codec in [Codec::MessagePack, Codec::Postcard, Codec::Json] {
        if let Ok(row) = codec.decode::<Row>(payload) {
            let again = codec.encode(&row).expect("what was read can be written");
            assert_eq!(codec.decode::<Row>(&again).expect("what was written can be read"), row);
        }
    }
});
