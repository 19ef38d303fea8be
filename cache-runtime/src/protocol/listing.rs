//! What processes say of themselves and of their entities in the store, for tools that are not compiled with the entities.
//!
//! 1. `namespace:@entities` is a hash with a field for each entity: how it is cached, and what its keys look like. It lives for a
//!    week after the last process has listed the entity.
//! 2. `namespace:@processes` is a hash with a field for each process: when it was last seen, and what it has counted.
//! 3. `namespace:@switches` is a hash with a field for each entity that is paused from outside, or `*` for all.
//!
//! 4. In the same hash, a field `audit:Entity` asks one process to compare cached rows of the entity with the database, and a field
//!    `replay:queue` to replay a dead letter. Whoever sets the key `namespace:@request:id` first does it, and leaves the result at
//!    `namespace:@request:id:result`.
//!
//! The namespace is that of the cache. All values are JSON, so that a version can add fields.
//!
//! Invariant: nothing here decides what is served. A listing that is lost, forged or old misleads a person, and no read.
//! Invariant: the switches can only send reads to the database, or keep rows from being stored.
//! Not here: who lists (`cache::listing`), and the commands (`store::redis::listing`).

use serde::{Deserialize, Serialize};

use crate::policy::Codec;

/// The name of the switch of all entities.
pub const ALL: &str = "*";

/// How an entity is cached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedEntity {
    /// Its name in keys.
    pub entity: String,
    /// The namespace of its keys.
    pub namespace: String,
    /// Its table, with its schema if one was given, or the query that stands for it.
    pub table: String,
    /// The database system, as OpenTelemetry names it.
    pub database: String,
    /// `aside`, `write_through` or `write_behind`.
    pub strategy: String,
    /// `intent`, `lease` or `ttl`.
    pub coherence: String,
    /// The number of its codec.
    pub codec: u8,
    /// The fingerprint of its rows.
    pub layout: u32,
    /// What the keys of its rows begin with. A partition's number is `00` in it.
    pub prefix: String,
    /// The columns of its id.
    pub id: Vec<String>,
    /// All its columns, each with the type of the database.
    pub columns: Vec<(String, String)>,
    /// Its lookups.
    pub lookups: Vec<ListedLookup>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its queue, if it has one.
    pub queue: Option<ListedQueue>,
    /// How long a row lives, in milliseconds.
    pub ttl_ms: u64,
    /// How long an absence lives, in milliseconds, if absences are cached.
    pub negative_ttl_ms: Option<u64>,
    /// How long an intent lives, in milliseconds.
    pub intent_ttl_ms: u64,
    /// Whether it is only read.
    pub read_only: bool,
    /// What a write does that cannot be announced: `available` or `consistent`.
    pub on_outage: String,
    /// The version of larder.
    pub larder: String,
}

/// A lookup of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedLookup {
    /// Its name in keys.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether it finds one row at most.
    pub unique: bool,
    /// The fingerprint of its entries.
    pub layout: u32,
}

/// The queue of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedQueue {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u16,
    /// What an acknowledged write survives, or empty if the store's default was chosen.
    pub durability: String,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedProcess {
    /// The host it runs on, as far as it knows.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// The version of larder.
    pub larder: String,
    /// When it was last seen, in milliseconds since 1970 by the server's clock.
    pub seen_ms: u64,
    /// How long its cache has existed, in milliseconds.
    pub up_ms: u64,
    /// What is wrong with its cache, or `ok`.
    pub health: String,
    /// Its repositories.
    pub entities: Vec<ListedCounts>,
    /// Why some of them cannot use their namespace.
    pub refused: Vec<String>,
}

/// What a process has counted of one entity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedCounts {
    /// The entity.
    pub entity: String,
    /// Reads of all kinds.
    pub reads: u64,
    /// Reads that the cache answered.
    pub served: u64,
    /// Rows that were looked for in the database.
    pub loads: u64,
    /// Rows that were written.
    pub writes: u64,
    /// Failures of loads, writes and the store.
    pub errors: u64,
    /// Queued writes that were lost.
    pub lost: u64,
    /// How long most reads took, in microseconds: half of them, and 99 of 100. Missing without the feature `metrics`.
    pub read_us: Option<(u64, u64)>,
}

/// What is paused from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switches {
    /// Whether rows come from the database.
    pub reads: bool,
    /// Whether nothing new is stored.
    pub fills: bool,
}

/// What the fields begin with that ask for an audit.
pub const AUDIT: &str = "audit:";

/// The request of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditRequest {
    /// A name that no other request has.
    pub id: String,
    /// How many rows are compared at most.
    pub rows: u64,
    /// How many rows are compared in a second at most; with 0, any number.
    pub per_second: u32,
}

/// The result of an audit that was requested.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedAudit {
    /// The entity.
    pub entity: String,
    /// The process that has made it.
    pub process: String,
    /// Why it was not made, if it was not.
    pub error: Option<String>,
    /// How many entries were compared: rows, and lists of ids that lookups have found.
    pub checked: u64,
    /// How many of them were lists of ids.
    pub lists: u64,
    /// How many of the checked entries were stale.
    pub stale: u64,
    /// How many were written at the same time, or had a queued write.
    pub changing: u64,
    /// How many cannot be compared.
    pub not_comparable: u64,
    /// Whether all keys of the entity were looked at.
    pub is_complete: bool,
    /// The first of the stale entries.
    pub examples: Vec<ListedStaleEntry>,
}

/// An entry that was stale.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedStaleEntry {
    /// Its key.
    pub key: String,
    /// How long ago it was loaded or written, in milliseconds.
    pub age_ms: u64,
    /// The token of the load or the write that has left it. It begins with the id of its process.
    pub token: String,
    /// How it differs from the database, in words.
    pub difference: String,
}

/// What the fields begin with that ask for the replay of a dead letter.
pub const REPLAY: &str = "replay:";

/// The request to replay a dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayRequest {
    /// A name that no other request has.
    pub id: String,
    /// The partition of the letter.
    pub partition: u16,
    /// The epoch of its incarnation.
    pub epoch: u64,
    /// The number of its write.
    pub number: u64,
}

/// The result of a replay that was requested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListedReplay {
    /// The process that has tried it.
    pub process: String,
    /// Why the letter was not replayed, if it was not.
    pub error: Option<String>,
}

impl Switches {
    /// Returns what is paused if either says so.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            reads: self.reads || other.reads,
            fills: self.fills || other.fills,
        }
    }
}

/// Returns the key of the hash of the entities.
#[must_use]
pub fn entities_key(namespace: &str) -> String {
    format!("{namespace}:@entities")
}

/// Returns the key of the hash of the processes.
#[must_use]
pub fn processes_key(namespace: &str) -> String {
    format!("{namespace}:@processes")
}

/// Returns the key of the hash of the switches.
#[must_use]
pub fn switches_key(namespace: &str) -> String {
    format!("{namespace}:@switches")
}

/// Returns the key that the process sets which does what a request asks for.
#[must_use]
pub fn request_key(namespace: &str, id: &str) -> String {
    format!("{namespace}:@request:{id}")
}

/// Returns the key of the result of a request.
#[must_use]
pub fn result_key(namespace: &str, id: &str) -> String {
    format!("{namespace}:@request:{id}:result")
}

/// Returns the field of an entity of this namespace in the hash of the entities.
#[must_use]
pub fn entity_field(cache: &str, namespace: &str, entity: &str) -> String {
    match cache == namespace {
        true => entity.to_owned(),
        false => format!("{namespace}:{entity}"),
    }
}

impl ListedEntity {
    /// Returns the codec of its rows, if this program was built with it.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_number(self.codec)
    }
}
