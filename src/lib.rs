#![doc = include_str!("../README.md")]
//!
//! # Map of this documentation
//!
//! - [`Cached`], the derive: every attribute with its forms, defaults and interactions. [`Columns`] is for nested
//!   structs.
//! - [`Cache`] and [`CacheBuilder`]: where entries live.
//! - [`Repository`]: every operation with its errors, and what happens when its future is dropped. The derive wraps it
//!   in a type of the entity's own.
//! - [`policy`]: the options that the attributes set. [`writes`]: what follows from them for the operations of an entity.
//! - [`SchemaReport`], [`Stats`], [`Health`], [`Error`]: for checks and monitoring in production.

#[doc(inline)]
pub use larder_derive::{Cached, Columns};
#[doc(hidden)]
pub use larder_runtime::private as __private;
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use larder_runtime::protocol::seal;
pub use larder_runtime::{
    AdoptedTransaction, Announced, Answers, AsId, Audit, AuditOptions, Backend, Cache,
    CacheBuilder, ChangeResult, Clock, Codec, DeadLetter, DeadLetters, DependsOn, Difference,
    Entity, EntitySpec, Error, ErrorKind, FetchFuture, Find, FindAll, FindAllWithin, FindUncached,
    FindWith, Flusher, Health, Modified, OmitsColumns, Origin, Outcome, Page, Pending, Problem,
    ProblemKind, Queries, Query, ReadResult, RepairStats, Repository, SchemaReport, StaleEntry,
    Stats, StoreStatus, Transaction, Within, policy, schema, writes,
};
#[cfg(feature = "redis")]
pub use larder_runtime::{InvalidKey, PlainEntries, SecretKey};
// The state machine, the binary format and the stores: for tests, models and tools, without a promise of stability.
#[doc(hidden)]
pub use larder_runtime::{
    behind,
    database::tables,
    journal,
    protocol::{
        claim, entry, family, key, listing, partition_keys, queue_position, state, tags, token,
    },
    store,
};

// The code in the documents compiles: the doctest runner takes each of them for the documentation of an item.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../cache-derive/docs/attributes.md")]
    struct Attributes;
    #[doc = include_str!("../cache-derive/docs/columns.md")]
    struct NestedColumns;
    #[doc = include_str!("../docs/coherence.md")]
    struct Coherence;
    #[doc = include_str!("../docs/namespaces.md")]
    struct Namespaces;
    #[doc = include_str!("../docs/operations.md")]
    struct Operations;
    #[doc = include_str!("../docs/write-behind.md")]
    struct WriteBehind;
    #[doc = include_str!("../docs/metrics.md")]
    struct Metrics;
    #[doc = include_str!("../docs/command.md")]
    struct TheCommand;
    #[doc = include_str!("../docs/invalidation.md")]
    struct Invalidation;
    #[doc = include_str!("../docs/format.md")]
    struct Format;
    #[doc = include_str!("../ARCHITECTURE.md")]
    struct Architecture;
    #[doc = include_str!("../CONTRIBUTING.md")]
    struct Contributing;
}
