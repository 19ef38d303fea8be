//! The queues of an entity, as the store tells them: how much waits, for how long, and who flushes.
//!
//! What was lost is counted in the database (`database`).
//!
//! Not here: the names of the keys (`protocol::partition_keys`).

use std::collections::HashMap;

use redis::Value;
use serde::Serialize;

use super::Tools;
use crate::{
    error::Error,
    protocol::{listing::ListedEntity, partition_keys::PartitionKeys, queue_position::Incarnation},
};

/// A partition of a queue.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShownPartition {
    /// Its number.
    pub partition: u16,
    /// How many acknowledged writes are in its logs. Those that are committed and not yet trimmed are among them.
    pub depth: u64,
    /// How long the oldest of them has waited, in milliseconds by the server's clock.
    pub oldest_ms: Option<u64>,
    /// The epoch of its incarnation, if there is one.
    pub epoch: Option<u64>,
    /// How many writes it has ever accepted in this incarnation.
    pub accepted: u64,
    /// How many of its logs are in the store.
    pub logs: u64,
    /// The process that flushes it, if one has the claim.
    pub flusher: Option<String>,
}

impl Tools {
    /// Returns the partitions of an entity's queue. Empty if it has none.
    ///
    /// # Errors
    ///
    /// As [`Tools::entities`].
    pub async fn queue(&self, entity: &ListedEntity) -> Result<Vec<ShownPartition>, Error> {
        let Some(queue) = &entity.queue else {
            return Ok(Vec::new());
        };
        let now_ms = self.now_ms().await?;
        let mut partitions = Vec::with_capacity(usize::from(queue.partitions));
        for number in 0..queue.partitions {
            let keys = PartitionKeys::new(&queue.name, number);
            partitions.push(self.partition(&keys, now_ms).await?);
        }
        Ok(partitions)
    }

    async fn partition(&self, keys: &PartitionKeys, now_ms: u64) -> Result<ShownPartition, Error> {
        let mut state = redis::cmd("HGETALL");
        state.arg(keys.state.as_bytes());
        let state: HashMap<String, Vec<u8>> = self.ask_for(&state).await?;
        let mut logs = redis::cmd("SMEMBERS");
        logs.arg(keys.logs.as_bytes());
        let logs: Vec<Vec<u8>> = self.ask_for(&logs).await?;
        let mut flusher = redis::cmd("GET");
        flusher.arg(keys.flusher.as_bytes());
        let flusher = match self.ask(&flusher).await? {
            Value::BulkString(name) => Some(super::content::printed(&name)),
            _ => None,
        };
        let mut shown = ShownPartition {
            partition: keys.number,
            logs: logs.len() as u64,
            flusher,
            ..ShownPartition::default()
        };
        let number = |field: &str| {
            let text = state.get(field)?;
            std::str::from_utf8(text).ok()?.parse::<u64>().ok()
        };
        shown.accepted = number("n").unwrap_or_default();
        let incarnation = |bytes: &[u8]| Some(Incarnation::from_bytes(bytes.try_into().ok()?));
        shown.epoch = state
            .get("i")
            .and_then(|bytes| incarnation(bytes))
            .map(|incarnation| incarnation.epoch);
        for log in logs.iter().filter_map(|bytes| incarnation(bytes)) {
            let log = keys.log(log);
            let mut length = redis::cmd("XLEN");
            length.arg(log.as_bytes());
            shown.depth += self.ask_for::<u64>(&length).await?;
            let mut first = redis::cmd("XRANGE");
            first
                .arg(log.as_bytes())
                .arg("-")
                .arg("+")
                .arg("COUNT")
                .arg(1);
            let first: Vec<LoggedWrite> = self.ask_for(&first).await?;
            let at_ms = first.first().and_then(written_at_ms);
            let waited = at_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
            shown.oldest_ms = shown.oldest_ms.max(waited);
        }
        Ok(shown)
    }
}

/// A write in a log: its id in the stream, and its fields.
type LoggedWrite = (Vec<u8>, Vec<Vec<u8>>);

/// Returns when a write was queued, in milliseconds since 1970 by the server's clock.
fn written_at_ms((_, fields): &LoggedWrite) -> Option<u64> {
    let at = fields.chunks_exact(2).find(|field| field[0] == b"a")?;
    std::str::from_utf8(&at[1]).ok()?.parse().ok()
}
