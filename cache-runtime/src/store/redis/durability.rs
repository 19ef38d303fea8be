//! Checks that a Redis server keeps the acknowledged writes of a queue. The check reads its configuration when a queue
//! is first used on a connection.
//!
//! Not here: what each level promises (`docs/write-behind.md`).

use std::collections::HashMap;

use crate::{
    policy::{Durability, QueuePolicy},
    store::queue::Acknowledged,
};

/// Why a server cannot keep a queue if its restarts cannot be detected.
pub(super) const NAMELESS: &str = "Redis rejects `INFO`, so larder could not detect a restart that loses queued writes; \
                                     allow `INFO`";

/// Checks the reply of `CONFIG GET`. The error says why the server cannot keep the queue, and what to change.
pub(super) fn check_reply(
    info: &HashMap<String, String>,
    policy: &QueuePolicy,
) -> Result<Acknowledged, String> {
    let is = |name: &str, value: &str| info.get(name).is_some_and(|info| info == value);
    let eviction = info.get("maxmemory-policy").map_or("", String::as_str);
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
            "Redis has no append-only file, so a crash loses acknowledged writes; set `appendonly yes` and `appendfsync \
             always`, or accept the loss with `durability = \"memory\"`"
                .to_owned(),
        );
    }
    match info.get("appendfsync").map_or("", String::as_str) {
        "always" => Ok(Acknowledged::AtOnce),
        "everysec" => Ok(Acknowledged::AfterSync),
        sync => Err(format!(
            "Redis lets the operating system decide when to sync writes to disk: its `appendfsync` is `{sync}`; set it to \
             `always`, or to `everysec` on Redis 7.2 or newer, or accept the loss of the last writes with `durability = \
             \"memory\"`"
        )),
    }
}

/// Returns why a server with `appendfsync everysec` and without `WAITAOF` cannot keep a queue.
pub(super) fn cannot_wait(refusal: &str) -> String {
    format!(
        "Redis acknowledges writes before they are on disk: its `appendfsync` is `everysec`, and `WAITAOF` fails ({refusal}); \
         set `appendfsync` to `always`, use Redis 7.2 or newer and allow `WAITAOF`, or accept the loss of the last seconds with \
         `durability = \"memory\"`"
    )
}

/// Checks a server that rejects `CONFIG GET`.
pub(super) fn unknown(refusal: &str, policy: &QueuePolicy) -> Result<Acknowledged, String> {
    if policy.durability == Some(Durability::Memory) {
        tracing::warn!(
            refusal,
            "Redis rejects `CONFIG GET`, so it is unknown whether it may evict queued writes; check that `maxmemory-policy` is \
             not `allkeys-*`"
        );
        return Ok(Acknowledged::AtOnce);
    }
    Err(format!(
        "Redis rejects `CONFIG GET` ({refusal}), so it is unknown whether acknowledged writes are on disk; allow `CONFIG GET`, \
         or accept a loss with `durability = \"memory\"`"
    ))
}
