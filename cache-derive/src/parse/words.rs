//! What other tools call a key or a value of larder, and what they have that larder has not.
//!
//! The nearest spelling is a poor guess for a word that somebody knows from elsewhere: `read_through` looks like
//! `write_through` and means `aside`. Such a word is looked up here first.

use crate::grammar::Place;

/// The name of the key at this place that other tools call `name`.
pub(super) fn key(place: Place, name: &str) -> Option<&'static str> {
    let name = plain(name);
    let (_, key, _) = KEYS
        .iter()
        .find(|(at, _, names)| *at == place && names.contains(&name.as_str()))?;
    Some(key)
}

/// The value of `key` that other tools call `value`.
pub(super) fn value(key: &str, value: &str) -> Option<&'static str> {
    let value = plain(value);
    let (_, word, _) = VALUES
        .iter()
        .find(|(of, _, names)| *of == key && names.contains(&value.as_str()))?;
    Some(word)
}

/// What to do instead of naming a key that larder does not have.
pub(super) fn absent(name: &str) -> Option<&'static str> {
    let name = plain(name);
    let (_, instead) = ABSENT
        .iter()
        .find(|(names, _)| names.contains(&name.as_str()))?;
    Some(instead)
}

/// The word without what tells `writeBack`, `write-back` and `write_back` apart.
fn plain(word: &str) -> String {
    let letters = word.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
    letters.flat_map(char::to_lowercase).collect()
}

const UNIQUE: &[&str] = &[
    "uniquekey",
    "uniqueindex",
    "alternatekey",
    "naturalid",
    "findby",
];
const INDEX: &[&str] = &["indexed", "lookup", "secondary", "findall", "list"];
const FOLD: &[&str] = &["case", "collate", "lower", "ignorecase"];

/// For each key the names that other tools have for it, as [`plain`] writes them.
const KEYS: &[(Place, &str, &[&str])] = &[
    (Place::Struct, "table", &["tablename", "relation", "from"]),
    (Place::Struct, "name", &["entity", "entityname", "typename"]),
    (Place::Struct, "unique", UNIQUE),
    (Place::Field, "unique", UNIQUE),
    (Place::Struct, "index", INDEX),
    (Place::Field, "index", INDEX),
    (
        Place::Index,
        "order_by",
        &["order", "sort", "orderby", "sortby"],
    ),
    (Place::Index, "max", &["limit", "maxids"]),
    (Place::Unique, "fold", FOLD),
    (Place::Index, "fold", FOLD),
    (
        Place::Struct,
        "repository",
        &["repo", "repositoryname", "dao"],
    ),
    (
        Place::Struct,
        "strategy",
        &["policy", "writepolicy", "mode"],
    ),
    (Place::Struct, "ttl", EXPIRY),
    (
        Place::Struct,
        "ttl_from",
        &[
            "expiresat",
            "expireat",
            "expiresfrom",
            "validuntil",
            "ttlfield",
            "ttlcolumn",
        ],
    ),
    (Place::Lease, "ttl", EXPIRY),
    (Place::Intent, "ttl", EXPIRY),
    (Place::Lease, "wait", &["waittimeout"]),
    (
        Place::Struct,
        "negative_ttl",
        &["missttl", "nullttl", "absentttl"],
    ),
    (
        Place::Struct,
        "namespace",
        &["prefix", "keyprefix", "cachename"],
    ),
    (
        Place::Struct,
        "codec",
        &["format", "serializer", "encoding"],
    ),
    (
        Place::Struct,
        "max_row",
        &["maxsize", "maxbytes", "maxrowsize"],
    ),
    (Place::Struct, "partitions", &["shards", "queues"]),
    (Place::Struct, "max_pending", &["queuesize", "maxqueue"]),
    (Place::Struct, "batch", &["batchsize", "maxbatch"]),
    (Place::Struct, "linger", &["delay", "flushinterval"]),
    (Place::Field, "id", &["primarykey", "pk", "primary", "key"]),
    (
        Place::Field,
        "generated",
        &["auto", "autoincrement", "serial", "identity", "computed"],
    ),
    (Place::Field, "skip", &["ignore", "exclude", "transient"]),
    (
        Place::Field,
        "version",
        &["lock", "optimisticlock", "revision", "etag"],
    ),
];

const EXPIRY: &[&str] = &[
    "expire",
    "expires",
    "expiry",
    "expiration",
    "expireafter",
    "timetolive",
    "maxage",
];

/// For each value of a key the words that other tools have for it, as [`plain`] writes them.
const VALUES: &[(&str, &str, &[&str])] = &[
    (
        "strategy",
        "aside",
        &[
            "readthrough",
            "readaside",
            "cacheaside",
            "lookaside",
            "lazy",
            "writearound",
            "invalidate",
        ],
    ),
    ("strategy", "write_through", &["through"]),
    (
        "strategy",
        "write_behind",
        &["writeback", "writelater", "behind", "queued", "async"],
    ),
    ("codec", "msgpack", &["messagepack", "rmp"]),
    ("codec", "json", &["serdejson"]),
    ("on_outage", "consistent", &["fail", "refuse", "strict"]),
    ("on_outage", "available", &["ignore", "continue", "degrade"]),
    ("on_full", "refuse", &["reject", "fail", "error"]),
    ("on_full", "flush", &["block", "wait"]),
    ("durability", "fsync", &["disk", "strict", "durable"]),
    ("durability", "memory", &["relaxed", "none", "ram"]),
    ("coherence", "intent", &["strong", "linearizable"]),
    ("coherence", "ttl", &["none", "eventual", "weak"]),
];

/// Names of keys that larder does not have, as [`plain`] writes them, and the end of the message about them.
const ABSENT: &[(&[&str], &str)] = &[
    (
        &["tag", "group", "groups"],
        "rows are invalidated together by their tags\nhelp: the correct form is `#[cached(tags(\"catalog\", \"country:{country}\"))]`",
    ),
    (
        &["rename", "renameall", "column", "columnname"],
        "sqlx has the names of columns\nhelp: write `#[sqlx(rename = \"..\")]` or `#[sqlx(rename_all = \"..\")]`",
    ),
    (
        &["json", "flatten", "tryfrom", "default"],
        "how a column is read is said to sqlx\n\
         help: write `#[sqlx(json)]`, `#[sqlx(flatten)]`, `#[sqlx(try_from = \"..\")]` or `#[sqlx(default)]`",
    ),
    (
        &["schema"],
        "the schema is a part of the name of the table\nhelp: the correct form is `#[cached(table = \"app.flights\")]`",
    ),
    (
        &["database", "db", "pool", "redis", "url", "store", "cache"],
        "the database and the store are chosen where the repository is made\n\
         help: pass a cache and a pool to `repository(&cache, pool)` of the entity",
    ),
    (
        &["capacity", "maxcapacity", "maxentries", "size", "local"],
        "how many rows fit is an option of the in-process store, which all entities share\n\
         help: set `capacity` or `capacity_bytes` of `Cache::builder()`",
    ),
    (
        &[
            "refresh",
            "refreshahead",
            "stalewhilerevalidate",
            "staletime",
        ],
        "larder loads a row when it is read, and not in advance\n\
         help: call `refresh(id)` to load it before it expires",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::{self, Form};

    #[test]
    fn every_word_leads_to_what_exists_and_is_none_itself() {
        for (place, name, names) in KEYS {
            assert!(grammar::find(*place, name).is_some(), "{name}");
            for other in *names {
                assert_eq!(plain(other), *other);
                assert!(grammar::find(*place, other).is_none(), "{other}");
                assert!(absent(other).is_none(), "{other} is explained twice");
            }
        }
        for (name, word, names) in VALUES {
            let key = grammar::find(Place::Struct, name).expect("a key of the struct");
            let Form::Choice(words) = key.form else {
                panic!("{name} has no choice");
            };
            assert!(words.contains(word), "{word}");
            for other in *names {
                assert_eq!(plain(other), *other);
                assert!(!words.contains(other), "{other}");
            }
        }
        for (names, _) in ABSENT {
            for name in *names {
                assert_eq!(plain(name), *name);
                assert!(grammar::KEYS.iter().all(|key| key.name != *name), "{name}");
            }
        }
    }
}
