//! Write-behind: acknowledged in the store, applied to the database later, whoever stops when and whatever the server
//! forgets.
//!
//! 1. `world` is one moment, `database` and `server` are what the two do in one step, `read`, `write` and `flush` who asks
//!    them for it when. The transitions of a key are the real ones.
//! 2. `protocol` puts them together with the faults, `claims` says what holds, `broken` what can be left out.
//! 3. Whatever can go wrong without anybody noticing is noticed beside the world: `world::Written` says what has become of
//!    each write, `world::Wrong` what should not have happened.
//! 4. The tests: `queue` with one server that forgets rows but not its queue, `history` with one that restarts, is rolled
//!    back or emptied, `promotion` with a second one.
//!
//! What the searches have decided, beyond what any of the steps says of itself:
//! - A row is kept in the store only while no earlier incarnation can be flushed any more. A flusher may hold writes that
//!   its server has forgotten since, and its commit would make the row stale for good.
//! - An incarnation is closed only by a flusher whose server writes to a *later* one. A cut-off server writes to an earlier
//!   one, and an emptied one to none, while others may be about to write to this very incarnation.
//! - An incarnation is begun only in the history in which it was asked for; later it may be closed already.
//! - A cut-off server does not begin anew because its incarnation was closed elsewhere: it would overtake the new one.
//! - What was acknowledged is remembered until its incarnation is closed: that a server has it now does not mean that it
//!   will have it when it is flushed.
//!
//! Not here: a full queue, which waits; a link that does not notice that its server has changed; how a batch is bounded.

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
