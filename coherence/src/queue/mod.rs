//! Queued writes that survive crashes: what workers were told, what the database got, and the judgement over both.
//! A queue that loses, repeats or turns round one write in a million passes every test of a single crash.
//! 1. Workers log what they asked for and what was acknowledged ([`log`]). 2. Triggers record every change of a row in its order.
//!    3. [`judge`] holds the rows, the record and the dead letters against the logs. 4. [`summary`] counts.
//!
//! Invariant: nothing here touches a server.
//! Not here: the workers, the servers and the faults; they are in the program `larder-crash`.

pub mod judge;
pub mod log;
pub mod options;
pub mod summary;
