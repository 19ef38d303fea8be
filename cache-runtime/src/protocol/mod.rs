//! The bytes and rules of one key and of one queue: pure functions and plain data, without I/O and without `async`.
//!
//! `state` is the state machine of one key. Every store executes it, the models check it, and no other module decides what
//! an operation does to a key. `entry` is the binary form of a state, `codec` encodes the payload in it, `seal`
//! protects it, `key` names a key, and `token` names loads and writes. `claim` and `family` are what a store records of repositories. `queue_position` is the
//! position of a write in a queue, and `partition_keys` names the keys of a queue. `tags` is the clock that many entries are
//! invalidated by.
//!
//! Not here: the stores that execute the rules (`store`), and the operations that use them (`read`, `write`, `behind`).

pub mod claim;
pub mod codec;
pub mod entry;
pub mod family;
pub(crate) mod fingerprint;
pub mod key;
pub mod listing;
pub mod partition_keys;
pub mod queue_position;
pub mod row_change;
#[cfg(feature = "redis")]
pub mod seal;
pub(crate) mod size;
pub mod state;
pub mod tags;
pub mod token;
