//! Whether a Redis server keeps what a queue has acknowledged: judged by its configuration when a queue is first used on a
//! connection.
//!
//! Not here: what each level promises (`docs/write-behind.md`).

use std::collections::HashMap;

use crate::{
    policy::{Durability, QueuePolicy},
    store::queue::Acknowledged,
};

/// Why a server keeps no queue whose restarts cannot be noticed.
pub(super) const NAMELESS: &str = "Redis does not tell its run (`INFO` is refused), so a restart that loses queued writes \
                                     would not be noticed; allow `INFO`";

/// Judges what `CONFIG GET` has told: why the server cannot keep the queue, and what to change.
pub(super) fn judge(
    told: &HashMap<String, String>,
    policy: &QueuePolicy,
) -> Result<Acknowledged, String> {
    let is = |name: &str, value: &str| told.get(name).is_some_and(|told| told == value);
    let eviction = told.get("maxmemory-policy").map_or("", String::as_str);
    if eviction.starts_with("allkeys-") {
        return Err(format!(
            "Redis may evict queued writes: its `maxmemory-policy` is `{eviction}`; set it to `noeviction` or to one of \
             `volatile-*`"
        ));
    }
    if policy.durability == Some(Durability::Memory) {
        return Ok(Acknowledged::AtOnce);
    }
    if !is("appendonly", "yes") {
        return Err(
            "Redis keeps no append-only file, so a crash takes acknowledged writes; set `appendonly yes` and `appendfsync \
             always`, or accept the loss with `durability = \"memory\"`"
                .to_owned(),
        );
    }
    match told.get("appendfsync").map_or("", String::as_str) {
        "always" => Ok(Acknowledged::AtOnce),
        "everysec" => Ok(Acknowledged::AfterSync),
        sync => Err(format!(
            "Redis leaves it to the system when writes are on disk: its `appendfsync` is `{sync}`; set it to `always`, or to \
             `everysec` where Redis is 7.2 or newer, or accept the loss of the last writes with `durability = \"memory\"`"
        )),
    }
}

/// Why a server cannot keep a queue that flushes its file once a second and cannot be asked when.
pub(super) fn cannot_wait(refusal: &str) -> String {
    format!(
        "Redis acknowledges writes before they are on disk: its `appendfsync` is `everysec`, and it cannot be asked to wait \
         ({refusal}); set it to `always`, use Redis 7.2 or newer and allow `WAITAOF`, or accept the loss of the last seconds \
         with `durability = \"memory\"`"
    )
}

/// Judges a server that does not tell.
pub(super) fn unknown(refusal: &str, policy: &QueuePolicy) -> Result<Acknowledged, String> {
    if policy.durability == Some(Durability::Memory) {
        tracing::warn!(
            refusal,
            "Redis does not tell its configuration; whether it may evict queued writes is not known"
        );
        return Ok(Acknowledged::AtOnce);
    }
    Err(format!(
        "Redis does not tell whether acknowledged writes are on disk ({refusal}); allow `CONFIG GET`, or accept a loss with \
         `durability = \"memory\"`"
    ))
}
