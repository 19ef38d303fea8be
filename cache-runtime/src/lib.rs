//! The runtime of larder: the implementation of the repositories that `#[derive(Cached)]` generates.
//!
//! Depend on the `larder` package. This package is its engine, and its hidden items change without notice.
//!
//! # Concepts
//!
//! - A [`Cache`] is a store (Redis, or the memory of this process) with defaults for the entities that use it.
//! - An entity ([`Entity`]) is a struct whose rows are cached. Its attributes choose its [`policy::Policy`].
//! - A [`Repository`] reads and writes the rows of one entity in one database, through one cache.
//! - `state` is the state machine of one key. Every store executes it, and no other code decides what happens to a key.
//!
//! # One read, one write
//!
//! The module docs of `read` and `write` describe them step by step. `flight` describes how callers share a load.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")))]
compile_error!(
    "larder needs at least one database: enable the feature `postgres`, `mysql` or `sqlite`, for example with \
     `larder = { version = \"0.1\", features = [\"postgres\"] }`"
);
#[cfg(not(any(feature = "msgpack", feature = "postcard", feature = "json")))]
compile_error!(
    "larder needs at least one codec: leave the default features on, or enable the feature `msgpack`, `postcard` or `json`"
);

#[doc(hidden)]
pub mod behind;
#[doc(hidden)]
pub mod binding;
mod cache;
mod clock;
mod context;
#[doc(hidden)]
pub mod database;
mod detached;
mod error;
mod gathering;
mod health;
#[doc(hidden)]
pub mod journal;
mod observe;
mod pause;
pub mod policy;
mod printed;
#[doc(hidden)]
pub mod private;
#[doc(hidden)]
pub mod protocol;
mod read;
mod repair;
mod repository;
mod stats;
#[doc(hidden)]
pub mod store;
#[cfg(feature = "tools")]
#[doc(hidden)]
pub mod tools;
mod units;
mod write;

#[doc(hidden)]
pub use sqlx;

#[cfg(feature = "redis")]
pub use crate::protocol::seal::{InvalidKey, PlainEntries, SecretKey};

/// How the rows of an entity are written, as types. An operation that the entity does not have fails to compile, with a message that
/// names the one to use.
///
/// The derive chooses [`Entity::Writes`] and [`Entity::Deletes`]. Code that is generic over the entity names what it needs:
/// `E: Entity<Writes = ToQueue>`.
pub mod writes {
    pub use crate::{
        database::writes::{
            ById, ByVersion, DeletesById, DirectWrites, Nowhere, QueuedWrites, ToDatabase, ToQueue,
        },
        repository::row_writes::RowWrites,
    };
}

pub use crate::{
    behind::{DeadLetters, Flusher, Pending, letters::DeadLetter},
    cache::{Cache, CacheBuilder},
    clock::Clock,
    database::{
        backend::{self, Backend},
        entity::{Entity, EntitySpec, OmitsColumns},
        schema::{self, SchemaReport},
    },
    error::{Error, ErrorKind},
    health::{Health, Problem, ProblemKind, StoreStatus},
    observe::audit::{Audit, AuditOptions, Difference, StaleEntry},
    policy::Codec,
    protocol::{codec, key::AsId},
    read::{
        list::{FindAll, Page},
        outcome::{Origin, Outcome, ReadResult},
        query::Answers,
    },
    repository::{
        Repository,
        find::{Find, FindUncached, FindWith},
        queries::{DependsOn, FetchFuture, Queries, Query},
        within::Within,
        within_lookups::FindAllWithin,
    },
    stats::{RepairStats, Stats},
    write::{
        adopted::{AdoptedTransaction, Announced},
        modify::{ChangeResult, Modified},
        transaction::Transaction,
    },
};
