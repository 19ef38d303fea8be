//! `cargo xtask`: the commands of this repository, for people and for CI alike.
//! They live in Rust rather than in scripts so that servers are stopped whatever happens.
//! 1. `test` starts its own servers and runs every test against them. 2. `servers` starts the same
//!    servers for manual use. 3. `lint` and `tidy` check style. 4. `ci` is lint, then test.
//!    5. `bench` runs the benchmarks against fresh servers. 6. `model` checks the protocol state by state.
//!    7. `coherence` checks histories of real runs. 8. `crash` kills processes and servers while writes are queued.
//!    9. `fresh` tries larder in new crates.
//!
//! Invariant: a command that ends, however it ends, leaves neither processes nor folders behind.
//! Not here: what the commands do. Each has a file of its own; this one reads arguments.

mod bench;
mod cargo;
mod coherence;
mod failure;
mod fresh;
mod interrupt;
mod layers;
mod lint;
mod model;
mod mutants;
mod package;
mod servers;
mod test;
mod tidy;

use std::ffi::OsString;
use std::process::ExitCode;

use coherence::Program;
use failure::{Failure, Outcome};
use interrupt::Interrupt;
use servers::Kind;

const HELP: &str = "\
usage: cargo xtask <command>

  test [--no-install] [-- filter..]
      start Redis, PostgreSQL and MariaDB in temporary folders and run every test against them;
      missing servers are installed with apt-get when that is allowed
  servers [--only redis,postgres,mysql] [--no-install] [-- command ..]
      start the same servers and print their addresses; stop at Ctrl-C or at the end of the input,
      or run the given command with the addresses in its environment
  lint
      formatting, clippy, documentation and tidy
  tidy
      rules that no other tool checks
  ci
      lint, then test
  fresh
      build a new crate for each database alone and run a copy of each example, outside this repository
  bench [--no-install] [names ..]
      start the servers and run the benchmarks
  model [--wide] [filter ..]
      check the protocol state by state; the small bounds, which are tests as well, or the wide ones
  mutants [--sample N] [--seed S] [--suite] [--no-install] [files ..]
      change the runtime in one place at a time, and list the changes that no test notices
  coherence [--no-install] [options ..]
      start the servers, let workers read and write while things go wrong, and check every read
  crash [--no-install] [options ..]
      start the servers, kill writers, flushers and servers while writes are queued, and count what became of each
      (both: `--help` lists the options)
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Test {
        install: bool,
        filter: Vec<OsString>,
    },
    Servers {
        only: Vec<Kind>,
        install: bool,
        command: Vec<OsString>,
    },
    Lint,
    Tidy,
    Ci,
    Fresh,
    Bench {
        install: bool,
        names: Vec<OsString>,
    },
    Model {
        wide: bool,
        filter: Vec<OsString>,
    },
    Mutants(mutants::Options),
    Coherence {
        program: Program,
        install: bool,
        options: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let outcome = parse(std::env::args_os().skip(1)).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Told { .. }) {
                eprintln!("xtask: {failure}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Outcome {
    let interrupt = Interrupt::listen()?;
    match command {
        Command::Help => {
            print!("{HELP}");
            Ok(())
        }
        Command::Test { install, filter } => test::run(&interrupt, install, &filter),
        Command::Servers {
            only,
            install,
            command,
        } => servers::manual(&interrupt, &only, install, &command),
        Command::Lint => lint::run(&interrupt),
        Command::Tidy => tidy::run(),
        Command::Ci => lint::run(&interrupt).and_then(|()| test::run(&interrupt, true, &[])),
        Command::Fresh => fresh::run(&interrupt),
        Command::Bench { install, names } => bench::run(&interrupt, install, &names),
        Command::Model { wide, filter } => model::run(&interrupt, wide, &filter),
        Command::Mutants(options) => mutants::run(&interrupt, &options),
        Command::Coherence {
            program,
            install,
            options,
        } => coherence::run(&interrupt, program, install, &options),
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Outcome<Command> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if let Some((name, options)) = arguments.split_first() {
        let programs = [("coherence", Program::Coherence), ("crash", Program::Crash)];
        if let Some((_, program)) = programs.into_iter().find(|(known, _)| name == known) {
            return Ok(parse_coherence(program, options));
        }
    }
    // lexopt mixes what stands before and after `--`; these commands give it a meaning.
    let rest = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => {
            let rest = arguments.split_off(at + 1);
            arguments.pop();
            rest
        }
        None => Vec::new(),
    };
    let takes_rest = !rest.is_empty();
    let mut install = true;
    let mut wide = false;
    let mut mutants = mutants::Options::default();
    let mut only = Kind::ALL.to_vec();
    let mut values = Vec::new();
    let mut seen = Vec::new();
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Value(value) => values.push(value),
            lexopt::Arg::Long("no-install") => {
                install = false;
                seen.push("--no-install");
            }
            lexopt::Arg::Long("wide") => {
                wide = true;
                seen.push("--wide");
            }
            lexopt::Arg::Long("sample") => {
                mutants.sample = Some(number(&parser.value()?)?);
                seen.push("--sample");
            }
            lexopt::Arg::Long("seed") => {
                mutants.seed = number(&parser.value()?)?;
                seen.push("--seed");
            }
            lexopt::Arg::Long("suite") => {
                mutants.suite = true;
                seen.push("--suite");
            }
            lexopt::Arg::Long("only") => {
                only = Kind::parse_list(&parser.value()?.to_string_lossy())?;
                seen.push("--only");
            }
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    if values.is_empty() {
        return Ok(Command::Help);
    }
    let name = values.remove(0);
    let name = name.to_string_lossy();
    let (command, options): (Command, &[&str]) = match &*name {
        "help" => (Command::Help, &[]),
        "test" => (
            Command::Test {
                install,
                filter: rest,
            },
            &["--no-install"],
        ),
        "servers" => (
            Command::Servers {
                only,
                install,
                command: rest,
            },
            &["--no-install", "--only"],
        ),
        "lint" => (Command::Lint, &[]),
        "tidy" => (Command::Tidy, &[]),
        "ci" => (Command::Ci, &[]),
        "fresh" => (Command::Fresh, &[]),
        "bench" => {
            let names = values.drain(..).chain(rest).collect();
            (Command::Bench { install, names }, &["--no-install"])
        }
        "model" => {
            let filter = values.drain(..).chain(rest).collect();
            (Command::Model { wide, filter }, &["--wide"])
        }
        "mutants" => {
            mutants.install = install;
            mutants.files = std::mem::take(&mut values);
            let options = &["--sample", "--seed", "--suite", "--no-install"];
            (Command::Mutants(mutants), options)
        }
        unknown => return Err(Failure::usage(format!("unknown command `{unknown}`"))),
    };
    if let Some(option) = seen.iter().find(|option| !options.contains(option)) {
        return Err(Failure::usage(format!("`{name}` does not take `{option}`")));
    }
    if let Some(value) = values.first() {
        let value = value.to_string_lossy();
        return Err(Failure::usage(format!("`{name}` does not take `{value}`")));
    }
    if takes_rest && !matches!(&*name, "test" | "servers" | "bench" | "model") {
        return Err(Failure::usage(format!("`{name}` takes nothing after `--`")));
    }
    Ok(command)
}

/// A number of the command line.
fn number<T: std::str::FromStr>(value: &std::ffi::OsStr) -> Outcome<T> {
    let text = value.to_string_lossy();
    let wrong = || Failure::usage(format!("`{text}` is no number"));
    text.parse().map_err(|_| wrong())
}

/// Takes out what is meant for this command; the rest is for the program it runs.
fn parse_coherence(program: Program, arguments: &[OsString]) -> Command {
    let is_ours = |argument: &&OsString| *argument == "--no-install";
    Command::Coherence {
        program,
        install: !arguments.iter().any(|argument| is_ours(&argument)),
        options: arguments
            .iter()
            .filter(|argument| !is_ours(argument))
            .cloned()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Outcome<Command> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn refused(line: &str) -> String {
        parsed(line).expect_err(line).to_string()
    }

    #[test]
    fn filter_after_the_dashes_reaches_the_tests() {
        let expected = Command::Test {
            install: false,
            filter: vec!["lease".into(), "--x".into()],
        };
        assert_eq!(parsed("test --no-install -- lease --x").unwrap(), expected);
    }

    #[test]
    fn mutants_takes_a_sample_and_files() {
        let expected = Command::Mutants(mutants::Options {
            install: true,
            sample: Some(5),
            seed: 9,
            suite: false,
            files: vec!["a.rs".into()],
        });
        assert_eq!(
            parsed("mutants --sample 5 --seed 9 a.rs").unwrap(),
            expected
        );
        assert!(refused("mutants --sample few").contains("`few` is no number"));
        assert!(refused("lint --seed 3").contains("does not take `--seed`"));
    }

    #[test]
    fn servers_can_be_chosen() {
        let expected = Command::Servers {
            only: vec![Kind::Redis, Kind::Mysql],
            install: true,
            command: Vec::new(),
        };
        assert_eq!(parsed("servers --only redis,mysql").unwrap(), expected);
    }

    #[test]
    fn bench_takes_names_with_and_without_dashes() {
        let expected = Command::Bench {
            install: true,
            names: vec!["a".into(), "b".into()],
        };
        assert_eq!(parsed("bench a -- b").unwrap(), expected);
    }

    #[test]
    fn models_are_small_unless_asked_for_wide_ones() {
        let model = |wide, filter| Command::Model { wide, filter };
        assert_eq!(parsed("model").unwrap(), model(false, Vec::new()));
        assert_eq!(parsed("model --wide").unwrap(), model(true, Vec::new()));
        assert_eq!(
            parsed("model entry -- age").unwrap(),
            model(false, vec!["entry".into(), "age".into()])
        );
    }

    #[test]
    fn coherence_passes_its_options_on() {
        let expected = Command::Coherence {
            program: Program::Coherence,
            install: false,
            options: vec![
                "--seconds".into(),
                "5".into(),
                "--break".into(),
                "end".into(),
            ],
        };
        let line = "coherence --seconds 5 --no-install --break end";
        assert_eq!(parsed(line).unwrap(), expected);
        let expected = |program| Command::Coherence {
            program,
            install: true,
            options: Vec::new(),
        };
        assert_eq!(parsed("coherence").unwrap(), expected(Program::Coherence));
        assert_eq!(parsed("crash").unwrap(), expected(Program::Crash));
    }

    #[test]
    fn misplaced_words_are_refused() {
        assert!(refused("test --wide").contains("does not take `--wide`"));
        assert!(refused("model --no-install").contains("does not take `--no-install`"));
        assert!(refused("lint --only redis").contains("does not take `--only`"));
        assert!(refused("tidy now").contains("does not take `now`"));
        assert!(refused("lint -- now").contains("nothing after `--`"));
        assert!(refused("tset").contains("unknown command `tset`"));
        assert!(refused("servers --only redis,oracle").contains("oracle"));
    }
}
