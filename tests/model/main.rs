//! The protocol, checked state by state: every order of the steps of a few readers and writers of one key, with faults
//! between any two steps.
//!
//! The transitions are those of `cache-runtime/src/protocol/state.rs`, called and not copied. The models add who calls them
//! when. A claim that holds was checked in every reachable state. For each mechanism there is a mutant without it, and the
//! search must find the shortest path to a stale read. A model that cannot fail proves nothing.
//!
//! 1. `entry`: one server, with crashes, expiry and eviction. `rollback`: the server comes back with old data.
//!    `write_through`: cache updates. All three use `protocol`, `world`, the mutants of `broken`, and `claims`.
//! 2. `age`: the time to live, with a clock.
//! 3. `split_brain`: two servers that both act as the primary.
//! 4. `outage`: writes that could not be announced.
//! 5. `lookup`: rows that move between the values that they are found by.
//! 6. `tags`: rows that are invalidated together, and the clock of their tags.
//! 7. `beside`: writes of one entity that are announced at the clock of another one too.
//! 8. `behind`: queued writes, flushers, the position in the database, and the incarnations of a queue. The server keeps its
//!    queue (`behind::queue`), loses it (`behind::history`), or is replaced (`behind::promotion`).
//!
//! Small bounds run with all other tests. `cargo xtask model --wide` runs the same tests with larger bounds.
//!
//! Not here: several keys, because no step touches two, except for the values of `lookup`, the second entity of `beside` and the
//! keys of one batch in `behind`; waiting and waking, which only cost time; callers of one process that share a load (`tests/suite/stampede.rs`).

mod age;
mod behind;
mod beside;
mod broken;
mod check;
mod claims;
mod entry;
mod lookup;
mod outage;
mod protocol;
mod rollback;
mod split_brain;
mod store;
mod tags;
mod world;
mod write_through;
