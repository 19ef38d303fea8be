//! The runtime of larder: everything that runs behind a repository that `#[derive(Cached)]` generates.
//!
//! Depend on the `larder` package; this one is its engine, and its hidden items change without notice.
//!
//! # Concepts
//!
//! - A [`Cache`] is a store (Redis, or the memory of this process) with defaults for the entities that use it.
//! - An entity ([`Entity`]) is a struct whose rows are cached, under a [`policy::Policy`] that its attributes choose.
//! - A [`Repository`] reads and writes the rows of one entity in one database, through one cache.
//! - `state` is the state machine of one key. It is the heart: every store executes it, and nothing else decides.
//!
//! # One read, one write
//!
//! The module docs of `read` and `write` tell them step by step; `flight` tells how callers share a load.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")))]
compile_error!(
    "larder needs at least one database: enable the feature `postgres`, `mysql` or `sqlite`"
);
#[cfg(not(any(feature = "msgpack", feature = "postcard", feature = "json")))]
compile_error!(
    "larder needs at least one codec: enable the feature `msgpack`, `postcard` or `json`"
);

mod announce;
pub mod backend;
#[doc(hidden)]
pub mod behind;
#[doc(hidden)]
pub mod binding;
mod bulk;
mod cache;
mod chunks;
mod clock;
pub mod codec;
#[doc(hidden)]
pub mod column;
mod database;
mod detached;
mod entity;
#[doc(hidden)]
pub mod entry;
mod error;
mod fingerprint;
mod flight;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod key;
mod load;
mod open_transaction;
pub mod policy;
#[cfg(feature = "postgres")]
mod postgres_array;
#[doc(hidden)]
pub mod private;
mod read;
#[cfg(feature = "redis")]
mod recent;
mod repair;
mod repository;
mod round_trip;
pub mod schema;
mod size;
#[doc(hidden)]
pub mod source;
#[cfg(feature = "sqlite")]
mod sqlite_value;
#[doc(hidden)]
pub mod state;
mod statement;
mod stats;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod token;
mod transaction;
mod wake;
mod within;
mod write;

#[doc(hidden)]
pub use sqlx;

pub use crate::{
    backend::Backend,
    behind::{DeadLetters, Flusher, Pending, letters::DeadLetter},
    cache::{Cache, CacheBuilder},
    clock::Clock,
    codec::Codec,
    entity::{Entity, EntitySpec},
    error::{Error, ErrorKind},
    key::AsId,
    repository::{Origin, Outcome, Repository},
    schema::SchemaReport,
    stats::{RepairStats, Stats},
    transaction::Transaction,
    within::Within,
};
