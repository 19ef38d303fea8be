//! Write-behind: writes are acknowledged by the store and applied to the database later, whatever stops or is lost.
//!
//! 1. `world` is one state. `database` and `server` have what the two do in one step, `read`, `write` and `flush` when they
//!    are called. The transitions of a key are the real ones.
//! 2. `protocol` combines them with the faults. `claims` has the claims, and `broken` the mutants.
//! 3. Silent failures are recorded in the state: `world::Written` has the fate of each write, and `world::Wrong` what must
//!    not happen.
//! 4. The tests: `queue` with one server that loses rows but not its queue, `history` with one that restarts, is rolled back
//!    or emptied, `promotion` with a second server.
//!
//! The searches have shown these rules, which are not obvious from any single step:
//!
//! - A row is cached only when no earlier incarnation can be flushed any more. A flusher may hold writes that its server has
//!   lost since, and its commit would make the row stale forever.
//! - An incarnation is closed only by a flusher whose server writes to a *later* one. A cut-off server writes to an earlier
//!   one, and an emptied server to none, while other writers may be about to write to this incarnation.
//! - An incarnation is begun only in the history in which it was requested. In a later one it may be closed already.
//! - A cut-off server does not begin another incarnation because its own was closed elsewhere. It would have a later epoch
//!   than the new server's.
//! - An acknowledgement is recorded until its incarnation is closed. That a server has the write now does not mean that it
//!   still has it at the flush.
//!
//! Not here: a full queue, which waits; a link that does not notice that its server has changed; the limits of a batch.

mod broken;
mod claims;
mod database;
mod flush;
mod history;
mod promotion;
mod protocol;
mod queue;
mod read;
mod server;
mod world;
mod write;
