//! The attacks of the test suite in a build with optimizations, where a stack, a loop and an arithmetic overflow behave differently.
//! Run it with `cargo xtask servers -- cargo test --release -p larder-shipped --features attacks --test attacks`. A debug build has nothing here:
//! the suite has the same tests.
//!
//! Not here: the attacks themselves (`tests/suite`).

#![cfg(not(debug_assertions))]
#![expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "these modules of the suite have more than their own tests need here"
)]
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../../tests/suite/entities.rs"]
mod entities;
#[path = "../../tests/suite/world.rs"]
mod world;

#[path = "../../tests/suite/redis/damage.rs"]
mod damage;
#[path = "../../tests/suite/behind/forged.rs"]
mod forged;
#[path = "../../tests/suite/hostile_bytes.rs"]
mod hostile_bytes;
