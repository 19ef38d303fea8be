//! The command `larder`: looks into the Redis of a cache, and steers it.
//!
//! 1. `args` says what can be asked. 2. `commands` asks the store and the database through `larder_runtime::tools`. 3. `print` writes
//!    answers, for people or as JSON. 4. `top` is the live view.
//!
//! Invariant: what others have written into Redis is escaped before it reaches a terminal.
//! Not here: what is at a key and how it is changed (`larder_runtime::tools`).

mod args;
mod commands;
mod failure;
mod print;
mod top;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    match commands::run(args).await {
        Ok(done) => done.code(),
        Err(failure) => {
            print::failure(&failure);
            failure.code()
        }
    }
}
