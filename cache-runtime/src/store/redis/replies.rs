//! Reads any reply as each reply that larder waits for. It is for fuzzing: whoever can write to Redis decides what is in them.

use redis::Value;

use super::{connection::info_history, in_force, put, queue, tags};
use crate::protocol::{
    partition_keys::PartitionKeys,
    queue_position::{Incarnation, MAX_NUMBER},
};

/// Reads the bytes of a reply in the protocol of Redis.
///
/// # Panics
///
/// If something is read that a queue, a clock or a binding must not be told.
pub fn read_any(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _history = info_history(text);
    }
    let Ok(reply) = redis::parse_redis_value(bytes) else {
        return;
    };
    if let Some(reading) = tags::reading(&reply) {
        assert!(reading.floor <= reading.now.time && reading.now.time < MAX_NUMBER);
    }
    let _bound = in_force(reply.clone(), 1);
    put::read_any(reply.clone());
    let partition = PartitionKeys::new("shop:Order/4", 0);
    queue::read_any(&reply, &partition, Incarnation { epoch: 1, nonce: 2 });
    if let Value::Array(parts) = reply {
        for part in &parts {
            queue::read_any(part, &partition, Incarnation { epoch: 1, nonce: 2 });
        }
    }
}
