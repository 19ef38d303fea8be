//! What a run is asked to do: how long, on what, with which faults, and with which mechanism switched off.
//!
//! Invariant: a word that means nothing is refused with those that do; nothing is guessed.

use std::{ffi::OsString, str::FromStr, time::Duration};

/// How the command is used.
pub const HELP: &str = "\
usage: cargo xtask coherence [options]

  --seconds N           how long the workers run (default 60)
  --seed S              the seed of workload and faults (default: drawn, and printed)
  --database D[,..]     postgres, mariadb, sqlite or all (default all)
  --strategy S          aside, write_through or all (default all)
  --faults F[,..]       all (default), none, or some by name; `list` prints the names
  --tags                give the rows tags, and change and invalidate them by these as well; and delete rows with their
                        parents
  --attack              encrypt and compress what is in Redis, and let somebody without the keys write into it
  --break MECHANISM     switch one mechanism off, to see that the checker notices:
                        fill-compare, intent, accepted-fill, history, contended, end,
                        dropped-begin, round-trip, lookup-check, pointer-intent, list-intent,
                        group-intent,
                        or with tags: tag-clock, tag-floor, tag-intent, cascade,
                        or with an attacker: seal
  --keep FOLDER         keep the logs of the workers and the record of the database
";

/// Makes an enum whose variants have names on the command line.
macro_rules! named {
    ($(#[$meta:meta])* $type:ident, $what:literal { $($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$doc])* $variant),* }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                let known = Self::ALL.iter().find(|known| known.name() == name);
                known.copied().ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|known| known.name()).collect();
                    format!("unknown {} `{name}`; there are {}", $what, names.join(", "))
                })
            }
        }
    };
}

pub(crate) use named;

named! {
    /// A database to run on.
    Database, "database" {
        /// PostgreSQL.
        Postgres = "postgres",
        /// MariaDB.
        Mysql = "mariadb",
        /// SQLite, in one process.
        Sqlite = "sqlite",
    }
}

named! {
    /// A caching pattern.
    Strategy, "strategy" {
        /// Writes drop the entry.
        Aside = "aside",
        /// Writes store the row.
        WriteThrough = "write_through",
    }
}

named! {
    /// Which of the tables of a strategy it is.
    Kin, "kin" {
        /// Rows that are deleted alone.
        None = "none",
        /// Rows that the database deletes with their parents, and only so.
        Child = "child",
        /// Rows with which their children are deleted.
        Parent = "parent",
    }
}

/// The tables of a strategy. Transactions write in this order: children before their parents.
const TABLES: [(Strategy, Kin, &str); 6] = [
    (Strategy::Aside, Kin::None, "aside"),
    (Strategy::Aside, Kin::Child, "aside_child"),
    (Strategy::Aside, Kin::Parent, "aside_parent"),
    (Strategy::WriteThrough, Kin::None, "write_through"),
    (Strategy::WriteThrough, Kin::Child, "write_through_child"),
    (Strategy::WriteThrough, Kin::Parent, "write_through_parent"),
];

/// The table of a strategy that holds the rows of a kin.
///
/// # Panics
///
/// Never: each strategy has a table for each kin.
#[must_use]
pub fn table(strategy: Strategy, kin: Kin) -> &'static str {
    let found = TABLES
        .iter()
        .find(|known| (known.0, known.1) == (strategy, kin));
    found.expect("each strategy has a table for each kin").2
}

/// The strategy and the kin of the rows of a table.
#[must_use]
pub fn of_table(name: &str) -> Option<(Strategy, Kin)> {
    let found = TABLES.iter().find(|known| known.2 == name)?;
    Some((found.0, found.1))
}

/// Which rows of each strategy a run has.
#[must_use]
pub fn kins(tags: bool) -> &'static [Kin] {
    if tags { Kin::ALL } else { &[Kin::None] }
}

named! {
    /// Something that goes wrong during a run.
    Fault, "fault" {
        /// Redis is killed and restarted with its data.
        RedisRestart = "redis-restart",
        /// Redis is killed and restarted with the data of some time ago.
        RedisOldData = "redis-old-data",
        /// Redis is frozen for a while.
        RedisFreeze = "redis-freeze",
        /// All keys of Redis are deleted while writes wait for a lock.
        RedisFlush = "redis-flush",
        /// Redis is killed, and a replica that lags behind takes its place.
        RedisFailover = "redis-failover",
        /// Connections to Redis break after a request was forwarded.
        RedisCut = "redis-cut",
        /// Redis forgets its scripts.
        ScriptFlush = "script-flush",
        /// A worker is killed at any time.
        Kill = "kill",
        /// A worker is killed at a named point of a write.
        KillAt = "kill-at",
        /// A worker is stopped for a while at any time.
        Pause = "pause",
        /// A worker is stopped for a while at a named point of a write.
        PauseAt = "pause-at",
        /// Fills and ends are held up.
        Stall = "stall",
        /// Another session holds the lock of a row for longer than an announcement lives.
        LockWait = "lock-wait",
        /// The database crashes and recovers: PostgreSQL, one of its processes being killed, on a server that nobody else uses.
        DatabaseCrash = "database-crash",
        /// The database ends the connections of all workers.
        DatabaseTerminate = "database-terminate",
        /// Connections to the database break after a request was forwarded.
        DatabaseCut = "database-cut",
        /// The replies of the database are slow for some workers.
        DatabaseSlow = "database-slow",
    }
}

named! {
    /// A mechanism that can be switched off.
    Broken, "mechanism" {
        /// The comparison of the lease at a fill.
        FillCompare = "fill-compare",
        /// The announcement of a write.
        Intent = "intent",
        /// The rule about sharing a load.
        AcceptedFill = "accepted-fill",
        /// The comparison of the store's history.
        History = "history",
        /// The mark of writers that overlapped.
        Contended = "contended",
        /// The end of a write.
        End = "end",
        /// The task of its own that a transaction begins in.
        DroppedBegin = "dropped-begin",
        /// The comparison of a row with what the codec gives back.
        RoundTrip = "round-trip",
        /// The comparison of a row with the value that it was found by.
        LookupCheck = "lookup-check",
        /// The announcement of a write at the value that its row gets.
        PointerIntent = "pointer-intent",
        /// The announcement of a write at the list that its row gets into.
        ListIntent = "list-intent",
        /// The announcement of each of several writes that are committed together.
        GroupIntent = "group-intent",
        /// The comparison of an entry with the clock of its tags.
        TagClock = "tag-clock",
        /// The floor of a clock that has dropped marks.
        TagFloor = "tag-floor",
        /// The announcement of a change of many rows at their tags.
        TagIntent = "tag-intent",
        /// The announcement of a delete at the rows that the database deletes with its own.
        Cascade = "cascade",
        /// The comparison of the seal of an entry. Nothing is encrypted then, so that what the attacker writes can be read.
        Seal = "seal",
    }
}

impl Broken {
    /// Whether only rows with tags have it.
    #[must_use]
    pub fn is_of_tags(self) -> bool {
        matches!(
            self,
            Self::TagClock | Self::TagFloor | Self::TagIntent | Self::Cascade
        )
    }
}

/// What a run is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long the workers run.
    pub duration: Duration,
    /// The seed, if one was given.
    pub seed: Option<u64>,
    /// The databases.
    pub databases: Vec<Database>,
    /// The strategies.
    pub strategies: Vec<Strategy>,
    /// Whether the rows have tags.
    pub tags: bool,
    /// Whether somebody writes into Redis.
    pub attack: bool,
    /// The faults; nothing if the choice is left to the run.
    pub faults: Option<Vec<Fault>>,
    /// The mechanism that is switched off.
    pub broken: Option<Broken>,
    /// Where to keep what the verdict was made from.
    pub keep: Option<std::path::PathBuf>,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To be told how to use it.
    Help,
    /// The names of the faults.
    ListFaults,
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
            duration: Duration::from_secs(60),
            seed: None,
            databases: Database::ALL.to_vec(),
            strategies: Strategy::ALL.to_vec(),
            tags: false,
            attack: false,
            faults: None,
            broken: None,
            keep: None,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("seconds") => {
                    let seconds: u64 = parser.value()?.parse()?;
                    if seconds == 0 {
                        return Err("`--seconds` must be at least 1".into());
                    }
                    options.duration = Duration::from_secs(seconds);
                }
                lexopt::Arg::Long("seed") => options.seed = Some(parser.value()?.parse()?),
                lexopt::Arg::Long("database") => {
                    options.databases = databases(&parser.value()?.string()?)?;
                }
                lexopt::Arg::Long("strategy") => {
                    options.strategies = list(&parser.value()?.string()?, Strategy::ALL)?;
                }
                lexopt::Arg::Long("tags") => options.tags = true,
                lexopt::Arg::Long("attack") => options.attack = true,
                lexopt::Arg::Long("faults") => match &*parser.value()?.string()? {
                    "list" => return Ok(Self::ListFaults),
                    "none" => options.faults = Some(Vec::new()),
                    "all" => options.faults = Some(Fault::ALL.to_vec()),
                    names => options.faults = Some(list(names, Fault::ALL)?),
                },
                lexopt::Arg::Long("break") => {
                    options.broken = Some(parser.value()?.string()?.parse()?);
                }
                lexopt::Arg::Long("keep") => options.keep = Some(parser.value()?.into()),
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Self::Help),
                other => return Err(other.unexpected()),
            }
        }
        if options.broken == Some(Broken::Contended)
            && !options.strategies.contains(&Strategy::WriteThrough)
        {
            return Err("`contended` is a mechanism of the strategy `write_through`".into());
        }
        options.tags |= options.broken.is_some_and(Broken::is_of_tags);
        options.attack |= options.broken == Some(Broken::Seal);
        Ok(Self::Run(options))
    }
}

/// Reads the names of databases. The server that runs, MariaDB, may be called `mysql` as well.
pub(crate) fn databases(text: &str) -> Result<Vec<Database>, String> {
    list(&text.replace("mysql", "mariadb"), Database::ALL)
}

/// Reads names separated by commas; `all` stands for all.
fn list<T: Copy + PartialEq + FromStr<Err = String>>(
    text: &str,
    all: &[T],
) -> Result<Vec<T>, String> {
    if text == "all" {
        return Ok(all.to_vec());
    }
    let mut chosen = Vec::new();
    for name in text.split(',') {
        let one = name.trim().parse()?;
        if !chosen.contains(&one) {
            chosen.push(one);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, lexopt::Error> {
        Request::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn everything_can_be_chosen() {
        let line = "--seconds 5 --seed 7 --database sqlite,mariadb --strategy aside --tags --attack --faults kill,pause --break end";
        let expected = Options {
            duration: Duration::from_secs(5),
            seed: Some(7),
            databases: vec![Database::Sqlite, Database::Mysql],
            strategies: vec![Strategy::Aside],
            tags: true,
            attack: true,
            faults: Some(vec![Fault::Kill, Fault::Pause]),
            broken: Some(Broken::End),
            keep: None,
        };
        assert_eq!(parsed(line).unwrap(), Request::Run(expected));
    }

    #[test]
    fn faults_can_be_all_none_or_listed() {
        let faults = |line| match parsed(line).unwrap() {
            Request::Run(options) => options.faults,
            other => panic!("{other:?}"),
        };
        assert_eq!(faults(""), None);
        assert_eq!(faults("--faults none"), Some(Vec::new()));
        assert_eq!(faults("--faults all"), Some(Fault::ALL.to_vec()));
        assert_eq!(parsed("--faults list").unwrap(), Request::ListFaults);
    }

    #[test]
    fn mechanism_of_tags_is_left_out_of_a_run_with_tags() {
        let tags = |line| match parsed(line).unwrap() {
            Request::Run(options) => options.tags,
            other => panic!("{other:?}"),
        };
        assert!(tags("--break tag-clock") && tags("--break cascade") && tags("--tags"));
        assert!(!tags("--break end") && !tags(""));
    }

    #[test]
    fn seals_are_left_out_of_a_run_with_an_attacker() {
        let attack = |line| match parsed(line).unwrap() {
            Request::Run(options) => options.attack,
            other => panic!("{other:?}"),
        };
        assert!(attack("--break seal") && attack("--attack"));
        assert!(!attack("--break end") && !attack(""));
    }

    #[test]
    fn each_strategy_has_a_table_for_each_kin() {
        for &strategy in Strategy::ALL {
            for &kin in Kin::ALL {
                assert_eq!(of_table(table(strategy, kin)), Some((strategy, kin)));
            }
            assert_eq!(table(strategy, Kin::None), strategy.name());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        for (line, known) in [
            ("--database oracle", "postgres, mariadb, sqlite"),
            ("--strategy behind", "aside, write_through"),
            ("--faults gremlins", "redis-restart"),
            ("--break leg", "fill-compare, intent"),
            ("--seconds 0", "at least 1"),
            ("--break contended --strategy aside", "write_through"),
            ("now", "now"),
        ] {
            let refused = parsed(line).unwrap_err().to_string();
            assert!(refused.contains(known), "{line}: {refused}");
        }
    }
}
