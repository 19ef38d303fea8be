//! Queued writes: puts, flushes, dead letters, lost writes, and claims.

pub(crate) mod apply;
pub(crate) mod dead_letters;
pub(crate) mod desk;
pub(crate) mod divided;
pub(crate) mod draining;
pub(crate) mod durability;
pub(crate) mod flush_transaction;
pub(crate) mod flushed_rows;
pub(crate) mod flushers;
pub(crate) mod forged;
pub(crate) mod incarnations;
pub(crate) mod journal_queue;
pub(crate) mod offsets;
pub(crate) mod put;
pub(crate) mod refusals;
