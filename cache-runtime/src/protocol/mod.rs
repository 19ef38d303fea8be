//! The bytes and rules of one key and of one queue: pure functions and plain data, without I/O and without `async`.
//!
//! `state` is the state machine of one key. It is the heart: every store executes it, the models check it, and nothing else
//! decides. `entry` is the binary form of a state, `codec` the payload inside it, `key` the name of a key, `token` the names
//! of loads and writes. `queue_position` is the place of a write in a queue, `partition_keys` the names of a queue's keys.
//!
//! Not here: who executes the rules (`store`), and when (`read`, `write`, `behind`).

pub mod claim;
pub mod codec;
pub mod entry;
pub(crate) mod fingerprint;
pub mod key;
pub mod partition_keys;
pub mod queue_position;
pub mod row_change;
pub(crate) mod size;
pub mod state;
pub mod token;
