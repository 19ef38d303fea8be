//! What is at a key: its state, its times, and its row as JSON.
//!
//! MessagePack and JSON describe themselves. postcard does not, so a row in it is told by its bytes.
//!
//! Not here: the states (`protocol::state`), and the bytes (`protocol::entry`).

use std::fmt;

use redis::Value;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value as Json, json};

use super::Tools;
use crate::{
    error::Error,
    policy::Codec,
    printed::Printed,
    protocol::{
        entry,
        key::Key,
        listing::ListedEntity,
        state::{Meta, State, Unreadable},
        token::{ProcessId, Token},
    },
    store::Store,
};

/// What is at a key.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The key.
    pub key: String,
    /// What it holds.
    pub state: ShownState,
    /// How many bytes it has.
    pub bytes: usize,
    /// How many milliseconds are left until it expires. `None`: it does not expire.
    pub ttl_left_ms: Option<u64>,
    /// How long ago its row was loaded or written, in milliseconds, by the clocks of the two machines.
    pub age_ms: Option<u64>,
    /// The token of the fill or the write that left it.
    pub token: Option<String>,
    /// The processes that it names: whose lease, whose intents, who waits.
    pub processes: Vec<String>,
    /// Why the programs that are listed would not use it, if they would not.
    pub unused_because: Vec<String>,
    /// The stamp of its tags, if it has one.
    pub stamp: Option<u64>,
    /// The row, the ids that a lookup found, or the id of a row to delete.
    pub row: Option<Json>,
}

/// The state of a key, in the words of `docs/format.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownState {
    /// Nothing is there.
    Absent,
    /// A reader loads the row.
    Loading,
    /// The row.
    Value,
    /// The row does not exist.
    Negative,
    /// Writers are at work.
    Writing,
    /// A queued write.
    Pending,
    /// A queued delete.
    PendingDeletion,
    /// An entry of a later version of larder.
    LaterFormat,
    /// No entry of larder, or a damaged one.
    Damaged,
}

impl fmt::Display for ShownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Loading => "loading",
            Self::Value => "value",
            Self::Negative => "negative",
            Self::Writing => "writing",
            Self::Pending => "pending",
            Self::PendingDeletion => "pending_deletion",
            Self::LaterFormat => "later_format",
            Self::Damaged => "damaged",
        })
    }
}

impl Shown {
    fn nothing(key: &Key) -> Self {
        Self {
            key: key.to_string(),
            state: ShownState::Absent,
            bytes: 0,
            ttl_left_ms: None,
            age_ms: None,
            token: None,
            processes: Vec::new(),
            unused_because: Vec::new(),
            stamp: None,
            row: None,
        }
    }
}

impl Tools {
    /// Returns what is at a key. `entity`: whose row it is, to say whether its programs would use it.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn show(&self, key: &Key, entity: Option<&ListedEntity>) -> Result<Shown, Error> {
        let mut get = redis::cmd("GET");
        get.arg(key.as_bytes());
        let bytes = match self.ask(&get).await {
            Ok(Value::BulkString(bytes)) => bytes,
            Ok(_) => return Ok(Shown::nothing(key)),
            // A key of another type.
            Err(error) if error.to_string().contains("WRONGTYPE") => {
                return Ok(Shown {
                    state: ShownState::Damaged,
                    unused_because: vec!["it is no string".to_owned()],
                    ..Shown::nothing(key)
                });
            }
            Err(error) => return Err(error),
        };
        let mut left = redis::cmd("PTTL");
        left.arg(key.as_bytes());
        let left: i64 = self.ask_for(&left).await?;
        let state = entry::decode(&bytes);
        let mut shown = Shown {
            bytes: bytes.len(),
            ttl_left_ms: u64::try_from(left).ok(),
            ..Shown::nothing(key)
        };
        self.describe(&mut shown, key, &bytes, &state, entity);
        Ok(shown)
    }

    fn describe(
        &self,
        shown: &mut Shown,
        key: &Key,
        bytes: &[u8],
        state: &State<&[u8]>,
        entity: Option<&ListedEntity>,
    ) {
        let (kind, meta, payload) = match state {
            State::Loading(lease, waiters) => {
                shown.token = Some(format!("{:?}", lease.token));
                shown.processes.push(process(lease.token));
                let waiters = waiters.iter().map(|waiter| format!("{waiter:?}"));
                shown.processes.extend(waiters);
                (ShownState::Loading, None, None)
            }
            State::Value(meta, payload) => (ShownState::Value, Some(meta), Some(*payload)),
            State::Negative(meta) => (ShownState::Negative, Some(meta), None),
            State::Writing(writers) => {
                let intents = writers.intents.iter().map(|intent| process(*intent));
                shown.processes.extend(intents);
                (ShownState::Writing, None, None)
            }
            State::Pending(pending, payload) => match pending.is_deletion {
                true => (
                    ShownState::PendingDeletion,
                    Some(&pending.meta),
                    Some(*payload),
                ),
                false => (ShownState::Pending, Some(&pending.meta), Some(*payload)),
            },
            State::Unreadable(Unreadable::LaterFormat { .. }) => {
                (ShownState::LaterFormat, None, None)
            }
            State::Unreadable(Unreadable::Damaged) => (ShownState::Damaged, None, None),
        };
        shown.state = kind;
        let Some(meta) = meta else { return };
        let Meta {
            lease,
            loaded_at_ms,
            stamp,
        } = *meta;
        shown.age_ms = Some(self.clock().wall_ms().saturating_sub(loaded_at_ms));
        shown.token = Some(format!("{:?}", lease.token));
        shown.processes.push(process(lease.token));
        shown.stamp = stamp.map(|stamp| stamp.time);
        let is_lookup = entity.is_some_and(|entity| is_lookup(entity, key));
        let layouts: Vec<_> = entity
            .into_iter()
            .flat_map(|entity| {
                let lookups = entity.lookups.iter().map(|lookup| lookup.layout);
                lookups.chain([entity.layout])
            })
            .collect();
        if entity.is_some() && !layouts.contains(&lease.identity.fingerprint) {
            let why = "it was stored for another layout of the struct or the table";
            shown.unused_because.push(why.to_owned());
        }
        if lease.identity.history != self.store().history() {
            let why = "it was stored before the last restart or failover of Redis";
            shown.unused_because.push(why.to_owned());
        }
        let Some(payload) = payload else { return };
        let opened = match self.store().open(key, bytes, payload) {
            Ok(opened) => opened,
            Err(refusal) => {
                shown.unused_because.push(refusal.reason().to_owned());
                return;
            }
        };
        let payload = opened.as_deref().unwrap_or(payload);
        // The ids that a lookup has found, and answers of queries, have the hash of their key before them.
        let payload = match is_lookup {
            true => key.unmarked(payload).unwrap_or(payload),
            false => payload,
        };
        shown.row = Some(readable(lease.identity.codec, payload));
    }
}

fn is_lookup(entity: &ListedEntity, key: &Key) -> bool {
    let before = entity.prefix.strip_suffix(':').unwrap_or(&entity.prefix);
    key.as_bytes().starts_with(format!("{before}#").as_bytes())
}

/// Returns the process that has drawn a token.
fn process(token: Token) -> String {
    let drawer = token.0.first_chunk();
    format!(
        "{:?}",
        ProcessId(*drawer.expect("a token is sixteen bytes"))
    )
}

/// Returns a payload as people can read it.
pub(super) fn readable(codec: u8, payload: &[u8]) -> Json {
    let decoded = match Codec::from_number(codec) {
        Some(codec) if !codec.is_positional() => codec.decode::<Readable>(payload).ok(),
        _ => None,
    };
    match decoded {
        Some(Readable(row)) => row,
        None => json!({ "codec": codec, "bytes": hex(payload) }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Any value, with bytes as text and what JSON lacks as text.
struct Readable(Json);

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Json, E> {
        Ok(Json::from(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Json, E> {
        Ok(Json::from(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or_else(|| Json::from(value.to_string()), Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Json, E> {
        Ok(Json::from(format!("0x{}", hex(value))))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_none<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Json, D::Error> {
        value.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<Json, D::Error> {
        value.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(Readable(value)) = parts.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut parts: A) -> Result<Json, A::Error> {
        let mut values = Map::new();
        while let Some((Readable(name), Readable(value))) = parts.next_entry()? {
            let name = match name {
                Json::String(name) => name,
                other => other.to_string(),
            };
            values.insert(name, value);
        }
        Ok(Json::Object(values))
    }
}

/// Escapes a text that others may have written.
pub(super) fn printed(bytes: &[u8]) -> String {
    Printed::new(bytes).to_string()
}
