//! The benchmarks: larder against hand-written code and its peers, measured in the same run.
//!
//! Absolute figures of one machine compare nothing on another, so each target is a ratio of two variants that take turns
//! while the machine is what it is.
//!
//! 1. `measure` lets the variants of a target run in turn, many short slices each, and compares slice with slice.
//! 2. `targets` has one file per question; each prints what every variant did, and then one line
//!    `ratio NAME=VALUE target=TARGET ok|missed` for each ratio that has a target.
//! 3. At the end there is one table of all ratios. `--check` fails if one of them has crossed its floor (`floors`).
//! 4. `--self-test` runs the same measuring code on variants whose ratio is known, and fails if it is not seen.
//!
//! Invariant: a variant that did not do its work (a failed call, a miss where a hit is measured) ends the run with an
//! error; no figure is printed for it.
//! Not here: starting servers. `cargo xtask bench` does that and passes their addresses in the environment; only a Redis
//! with options of its own is started here (`redis_server`).

mod allocations;
mod entity;
mod floors;
mod measure;
mod redis_server;
mod report;
mod servers;
mod targets;

use std::{error::Error, fmt, process::ExitCode, time::Duration};

use lexopt::{Arg, ValueExt};

use crate::{measure::Effort, targets::TARGETS};

/// Whatever ends a run.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "\
usage: larder-benches [--check] [--self-test] [--rounds N] [--slice MS] [--writes N] [TARGET..]

  --check        fail if a ratio is beyond its floor in `floors.txt`
  --self-test    measure variants whose ratio is known, and fail if it is not seen
  --rounds N     how often each variant has its turn (default 60)
  --slice MS     how long a turn takes (default 50)
  --writes N     how many writes `behind-million` makes (default 1000000)
  --list         name the targets";

struct Arguments {
    effort: Effort,
    check: bool,
    self_test: bool,
    list: bool,
    names: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(targets::stampede::WORKER) {
        return runtime()?.block_on(targets::stampede::work(words));
    }
    let arguments = arguments(lexopt::Parser::from_env())?;
    if arguments.list {
        for target in TARGETS {
            println!("{:<14} {}", target.name, target.question);
        }
        return Ok(());
    }
    for name in &arguments.names {
        if !TARGETS.iter().any(|target| target.name == name) {
            let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            return Err(format!(
                "there is no target `{name}`; there are {}",
                known.join(", ")
            )
            .into());
        }
    }
    let runtime = runtime()?;
    for target in TARGETS {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|name| name == target.name) {
            continue;
        }
        println!("\n{}: {}", target.name, target.question);
        let run = if arguments.self_test {
            target.control
        } else {
            target.run
        };
        runtime.block_on(run(arguments.effort))?;
    }
    if arguments.self_test {
        return floors::control();
    }
    let lines = report::lines();
    report::table(measure::noise());
    if arguments.check {
        floors::check(&lines)?;
    }
    Ok(())
}

/// The runtime that every variant runs on: Tokio's default one.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

fn arguments(mut parser: lexopt::Parser) -> Result<Arguments, Failure> {
    let mut arguments = Arguments {
        effort: Effort::default(),
        check: false,
        self_test: false,
        list: false,
        names: Vec::new(),
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("check") => arguments.check = true,
            Arg::Long("self-test") => arguments.self_test = true,
            Arg::Long("list") => arguments.list = true,
            Arg::Long("rounds") => arguments.effort.rounds = parser.value()?.parse()?,
            Arg::Long("slice") => {
                arguments.effort.slice = Duration::from_millis(parser.value()?.parse()?);
            }
            Arg::Long("writes") => arguments.effort.writes = parser.value()?.parse()?,
            Arg::Value(name) => arguments.names.push(name.string()?),
            other => return Err(format!("{}\n\n{USAGE}", other.unexpected()).into()),
        }
    }
    if arguments.effort.rounds == 0
        || arguments.effort.slice.is_zero()
        || arguments.effort.writes == 0
    {
        return Err("a run needs at least one round, one millisecond and one write".into());
    }
    Ok(arguments)
}

/// An error with all of its causes on one line.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
