//! The protocol, checked state by state: every order of steps of a few readers and writers of one key, with the faults that
//! may happen between any two of them.
//!
//! The transitions are those of `cache-runtime/src/protocol/state.rs`, called, not copied; what is modelled here is who calls them
//! when. A claim that holds was checked in every reachable state. Each mechanism is also left out, and the search must then
//! find the shortest way to a stale read: a model that cannot fail proves nothing.
//!
//! 1. `entry`: one server; crashes, expiry, eviction. `rollback`: the server comes back with old data. `write_through`: what
//!    a writer publishes. All three run `protocol`, in `world`, with the mutants of `broken` and the
//!    `claims`.
//! 2. `age`: the time to live, with a clock.
//! 3. `split_brain`: two servers that both take themselves for the primary.
//! 4. `outage`: writes that could not be announced.
//! 5. `behind`: writes that are queued, with their flushers, the database's position, and the incarnations of a queue; on a
//!    server that keeps its queue (`behind::queue`), one that loses it (`behind::history`), and two (`behind::promotion`).
//!
//! Small bounds run with all other tests. `cargo xtask model --wide` runs the same tests with more of everything.
//!
//! Not here: several keys, as no step touches two, but for those of one batch in `behind`; waiting and waking, which cost
//! time and never truth; the callers of one process who share a load (`tests/suite/stampede.rs`).

mod age;
mod behind;
mod broken;
mod check;
mod claims;
mod entry;
mod outage;
mod protocol;
mod rollback;
mod split_brain;
mod store;
mod world;
mod write_through;
