//! The Redis server: its scripts, its connections, its errors, and failovers.

pub(crate) mod acl;
pub(crate) mod breaker;
pub(crate) mod clock;
pub(crate) mod damage;
pub(crate) mod deleted_keys;
pub(crate) mod failover;
pub(crate) mod hostile_replies;
pub(crate) mod large;
pub(crate) mod listing;
pub(crate) mod messages;
pub(crate) mod round_trips;
pub(crate) mod scripts;
pub(crate) mod sealed_letters;
pub(crate) mod seals;
pub(crate) mod server_status;
pub(crate) mod tls;
