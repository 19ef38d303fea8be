//! Histories of real runs, and the judgement over them: is every read linearizable with the writes?
//! Code that looks right, and tests that stop it at chosen points, miss the interleaving nobody thought of.
//! 1. Worker processes log what they do and when ([`history`]). 2. The database tells in which order writes were committed
//!    ([`commits`]), and which rows it deleted with others ([`cascades`]). 3. [`checker`] holds every read against that order.
//!    4. [`timeline`] shows what went wrong.
//!
//! [`queue`] does the same for queued writes: what was acknowledged, and what the database has of it.
//!
//! [`harness`] is what the programs `larder-coherence` and `larder-crash` have in common.
//!
//! Invariant: no judge touches a server or knows how a history came about, so that it can be tested alone; none uses `harness`.
//! Not here: the workers and the faults; they are in the programs.

pub mod cascades;
pub mod checker;
pub mod commits;
pub mod harness;
pub mod history;
pub mod options;
pub mod queue;
pub mod random;
pub mod summary;
pub mod timeline;
