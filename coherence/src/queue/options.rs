//! What a crash test is asked to do: how many rounds, on what, and with which mechanism switched off.
//!
//! Invariant: a word that means nothing is refused with those that do; nothing is guessed.

use std::{ffi::OsString, str::FromStr};

use crate::options::{Database, databases, named};

/// How the command is used.
pub const HELP: &str = "\
usage: cargo xtask crash [options]

  --rounds N            how many rounds are played on each database (default 30)
  --seed S              the seed of workload and faults (default: drawn, and printed)
  --database D[,..]     postgres, mariadb, sqlite or all (default all)
  --attack              encrypt and compress what is in Redis, and let somebody without the keys write into it
  --break MECHANISM     switch one mechanism off, to see that the judge notices:
                        offset-cas, pending-index, order, round-trip, or with an attacker: seal
  --keep FOLDER         keep the logs of the workers
";

named! {
    /// A mechanism of the queue that can be switched off.
    Broken, "mechanism" {
        /// The comparison of the position when a flush moves it.
        OffsetCas = "offset-cas",
        /// The index of pending rows.
        PendingIndex = "pending-index",
        /// The rule that the last write of a row wins.
        Order = "order",
        /// The comparison of a row with what the codec gives back.
        RoundTrip = "round-trip",
        /// The comparison of the seal of an entry. Nothing is encrypted then, so that what the attacker writes can be read.
        Seal = "seal",
    }
}

/// What a run is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many rounds are played on each database.
    pub rounds: u64,
    /// The seed, if one was given.
    pub seed: Option<u64>,
    /// The databases.
    pub databases: Vec<Database>,
    /// Whether somebody writes into Redis.
    pub attack: bool,
    /// The mechanism that is switched off.
    pub broken: Option<Broken>,
    /// Where to keep the logs.
    pub keep: Option<std::path::PathBuf>,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To be told how to use it.
    Help,
    /// A run.
    Run(Options),
}

impl Request {
    /// Reads a command line without the name of the program.
    ///
    /// # Errors
    ///
    /// Says what cannot be understood.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, lexopt::Error> {
        use lexopt::ValueExt as _;
        let mut options = Options {
            rounds: 30,
            seed: None,
            databases: Database::ALL.to_vec(),
            attack: false,
            broken: None,
            keep: None,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("rounds") => {
                    options.rounds = parser.value()?.parse()?;
                    if options.rounds == 0 {
                        return Err("`--rounds` must be at least 1".into());
                    }
                }
                lexopt::Arg::Long("seed") => options.seed = Some(parser.value()?.parse()?),
                lexopt::Arg::Long("database") => {
                    options.databases = databases(&parser.value()?.string()?)?;
                }
                lexopt::Arg::Long("attack") => options.attack = true,
                lexopt::Arg::Long("break") => {
                    options.broken = Some(parser.value()?.string()?.parse()?);
                }
                lexopt::Arg::Long("keep") => options.keep = Some(parser.value()?.into()),
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Self::Help),
                other => return Err(other.unexpected()),
            }
        }
        options.attack |= options.broken == Some(Broken::Seal);
        Ok(Self::Run(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, lexopt::Error> {
        Request::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn everything_can_be_chosen() {
        let line = "--rounds 3 --seed 7 --database mariadb,postgres,mysql --attack --break order --keep here";
        let expected = Options {
            rounds: 3,
            seed: Some(7),
            databases: vec![Database::Mysql, Database::Postgres],
            attack: true,
            broken: Some(Broken::Order),
            keep: Some("here".into()),
        };
        assert_eq!(parsed(line).unwrap(), Request::Run(expected));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        for (line, known) in [
            ("--database oracle", "postgres, mariadb, sqlite"),
            ("--break leg", "offset-cas, pending-index, order"),
            ("--rounds 0", "at least 1"),
            ("now", "now"),
        ] {
            let refused = parsed(line).unwrap_err().to_string();
            assert!(refused.contains(known), "{line}: {refused}");
        }
    }
}
