//! Whether a Redis server keeps what a queue has acknowledged: judged by its configuration when a queue is first used on a
//! connection.
//!
//! Not here: what each level promises (`docs/write-behind.md`).

use std::collections::HashMap;

use crate::policy::{Durability, QueuePolicy};

/// Judges what `CONFIG GET` has told: why the server cannot keep the queue, and what to change.
pub(super) fn judge(told: &HashMap<String, String>, policy: &QueuePolicy) -> Result<(), String> {
    let is = |name: &str, value: &str| told.get(name).is_some_and(|told| told == value);
    let eviction = told.get("maxmemory-policy").map_or("", String::as_str);
    if eviction.starts_with("allkeys-") {
        return Err(format!(
            "Redis may evict queued writes: its `maxmemory-policy` is `{eviction}`; set it to `noeviction` or to one of \
             `volatile-*`"
        ));
    }
    if policy.durability == Some(Durability::Memory) {
        return Ok(());
    }
    if !is("appendonly", "yes") {
        return Err(
            "Redis keeps no append-only file, so a crash takes acknowledged writes; set `appendonly yes` and `appendfsync \
             always`, or accept the loss with `durability = \"memory\"`"
                .to_owned(),
        );
    }
    if !is("appendfsync", "always") {
        let sync = told.get("appendfsync").map_or("", String::as_str);
        return Err(format!(
            "Redis acknowledges writes before they are on disk: its `appendfsync` is `{sync}`; set it to `always`, or accept \
             the loss of the last seconds with `durability = \"memory\"`"
        ));
    }
    Ok(())
}

/// Judges a server that does not tell.
pub(super) fn unknown(refusal: &str, policy: &QueuePolicy) -> Result<(), String> {
    if policy.durability == Some(Durability::Memory) {
        tracing::warn!(
            refusal,
            "Redis does not tell its configuration; whether it may evict queued writes is not known"
        );
        return Ok(());
    }
    Err(format!(
        "Redis does not tell whether acknowledged writes are on disk ({refusal}); allow `CONFIG GET`, or accept a loss with \
         `durability = \"memory\"`"
    ))
}
