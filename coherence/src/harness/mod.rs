//! What both programs of this package stand on: the database of a run, its workers as processes, and what they do alike.
//!
//! 1. [`site`] is a database with a record of its commits, [`dialects`] what differs between the three kinds. 2. [`process`] is a
//!    worker as its parent sees it. 3. Inside a worker, [`points`] stop or kill it at named points, and [`leaving`] makes callers
//!    leave. 4. [`attacker`] writes into Redis. 5. [`program`] starts, and tells what came of it.
//!
//! Not here: what is played, which each program has for itself.

pub mod attacker;
pub mod dialects;
pub mod leaving;
pub mod points;
pub mod process;
pub mod program;
pub mod site;
