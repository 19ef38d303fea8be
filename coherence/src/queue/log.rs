//! What workers did with queued rows: the form of their logs, and the account of each row that comes of them.
//! 1. A write is logged before it is asked for, and again when it was acknowledged. 2. A read is logged when it has returned.
//!    3. Each line is one `write` to a file opened for appending, so SIGKILL loses no line.
//!
//! Each row is of one class, which its id tells. The rows of one writer carry the number of the writer's own count, so that
//! the order they must be applied in is known; a writer gives up a row when it does not know what became of a write, since
//! that may take effect at any later time. Counters are changed by all, each time by one.
//!
//! Invariant: a write without an acknowledgement may or may not take effect, at any time after it was asked for.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use larder_testing::clock::Moment;

/// How many ids a round has.
pub const IDS_OF_ROUND: i64 = 10_000_000;
/// How many ids a worker has in a round.
pub const IDS_OF_WORKER: i64 = 100_000;
/// The first of a worker's ids whose rows may be refused by the database.
pub const FIRST_REFUSABLE: i64 = 90_000;
/// The worker that has the counters.
pub const NOBODY: i64 = 0;

/// What is done to a row, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Written by one task, with good rows only.
    Own,
    /// Written by one task, and some of its writes are refused by the database.
    Refusable,
    /// Raised by all.
    Counter,
}

impl Class {
    /// The class of the row with this id.
    #[must_use]
    pub fn of(id: i64) -> Self {
        let within = id % IDS_OF_ROUND;
        if within / IDS_OF_WORKER == NOBODY {
            Self::Counter
        } else if within % IDS_OF_WORKER >= FIRST_REFUSABLE {
            Self::Refusable
        } else {
            Self::Own
        }
    }
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It leaves the row, with its number.
    Row,
    /// It leaves a row that the database refuses.
    Poison,
    /// It leaves no row.
    Deletion,
    /// It raises the number of the row by one; which number that gives, only the acknowledgement tells.
    Raise,
}

/// One write of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its number; zero for a raise that was not acknowledged.
    pub number: i64,
    /// What it does.
    pub deed: Deed,
    /// When it was about to be asked for.
    pub asked: Moment,
    /// When it had been acknowledged.
    pub acknowledged: Option<Moment>,
}

/// One read of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Before it.
    pub start: Moment,
    /// After it.
    pub end: Moment,
    /// The number of the row, if there was one.
    pub number: Option<i64>,
}

/// What was done to one row, as far as those who did it could tell.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The writes, each writer's in its order.
    pub writes: Vec<Write>,
    /// The reads.
    pub reads: Vec<Read>,
    /// The writes that were denied although what is acknowledged allows them: number and reason.
    pub denied: Vec<(i64, String)>,
    /// The errors of the other writes that were not acknowledged.
    pub failed: Vec<String>,
}

/// The log of a worker.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// Opens a log, which may exist, for appending.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::options().append(true).create(true).open(path)?))
    }

    /// Notes a write that is about to be asked for.
    pub fn asked(&self, id: i64, number: i64, deed: Deed, at: Moment) {
        let deed = letter(deed);
        self.line(format_args!("w {id} {number} {deed} {at}"));
    }

    /// Notes an acknowledgement, of the latest write of the row that this worker has asked for. A raise is told its number.
    pub fn acknowledged(&self, id: i64, number: i64, at: Moment) {
        self.line(format_args!("a {id} {number} {at}"));
    }

    /// Notes a denial that no acknowledged write explains.
    pub fn denied(&self, id: i64, number: i64, why: &str) {
        self.line(format_args!("d {id} {number} {why}"));
    }

    /// Notes an error that leaves open what became of a write.
    pub fn failed(&self, id: i64, number: i64, why: &str) {
        self.line(format_args!("f {id} {number} {why}"));
    }

    /// Notes a read.
    pub fn read(&self, id: i64, (start, end): (Moment, Moment), number: Option<i64>) {
        let number = number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        self.line(format_args!("r {id} {start} {end} {number}"));
    }

    fn line(&self, text: fmt::Arguments<'_>) {
        let line = format!("{text}\n");
        (&self.0)
            .write_all(line.as_bytes())
            .expect("the log can be written");
    }
}

/// Adds what the log of one worker tells to the accounts of the rows.
///
/// # Errors
///
/// Fails at a line that no worker writes.
pub fn collect(text: &str, accounts: &mut BTreeMap<i64, Account>) -> Result<(), String> {
    // Of the tasks of a worker only one at a time writes a row but a counter, and for a raise it does not matter whose
    // acknowledgement is whose.
    let mut open: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for line in text.lines() {
        let wrong = || format!("a log says {line:?}");
        let mut words = line.splitn(4, ' ');
        let what = words.next().ok_or_else(wrong)?;
        let id = words.next().and_then(|word| word.parse().ok());
        let id = id.ok_or_else(wrong)?;
        let account: &mut Account = accounts.entry(id).or_default();
        let (first, rest) = (words.next(), words.next());
        let (first, rest) = first.zip(rest).ok_or_else(wrong)?;
        let number = || first.parse::<i64>().map_err(|_| wrong());
        match what {
            "w" => {
                let (deed, at) = rest.split_once(' ').ok_or_else(wrong)?;
                open.entry(id).or_default().push(account.writes.len());
                account.writes.push(Write {
                    number: number()?,
                    deed: deed_of(deed).ok_or_else(wrong)?,
                    asked: at.parse().map_err(|_| wrong())?,
                    acknowledged: None,
                });
            }
            "a" => {
                let at = open.get_mut(&id).and_then(Vec::pop).ok_or_else(wrong)?;
                account.writes[at].number = number()?;
                account.writes[at].acknowledged = Some(rest.parse().map_err(|_| wrong())?);
            }
            "d" => account.denied.push((number()?, rest.to_owned())),
            "f" => account.failed.push(rest.to_owned()),
            "r" => {
                let (end, seen) = rest.split_once(' ').ok_or_else(wrong)?;
                account.reads.push(Read {
                    start: first.parse().map_err(|_| wrong())?,
                    end: end.parse().map_err(|_| wrong())?,
                    number: match seen {
                        "-" => None,
                        seen => Some(seen.parse().map_err(|_| wrong())?),
                    },
                });
            }
            _ => return Err(wrong()),
        }
    }
    Ok(())
}

fn letter(deed: Deed) -> char {
    match deed {
        Deed::Row => 'r',
        Deed::Poison => 'p',
        Deed::Deletion => 'd',
        Deed::Raise => 'c',
    }
}

fn deed_of(letter: &str) -> Option<Deed> {
    Some(match letter {
        "r" => Deed::Row,
        "p" => Deed::Poison,
        "d" => Deed::Deletion,
        "c" => Deed::Raise,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_logs_the_other_reads() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Log::open(file.path()).unwrap();
        log.asked(7, 1, Deed::Row, 10);
        log.acknowledged(7, 1, 11);
        log.asked(7, 2, Deed::Deletion, 12);
        log.read(7, (13, 14), None);
        log.read(7, (15, 16), Some(1));
        log.denied(7, 3, "not found, it says");
        log.failed(7, 2, "the store is away");
        let mut accounts = BTreeMap::new();
        collect(
            &std::fs::read_to_string(file.path()).unwrap(),
            &mut accounts,
        )
        .unwrap();
        let account = &accounts[&7];
        let write = |number, deed, asked, acknowledged| Write {
            number,
            deed,
            asked,
            acknowledged,
        };
        let expected = [
            write(1, Deed::Row, 10, Some(11)),
            write(2, Deed::Deletion, 12, None),
        ];
        assert_eq!(account.writes, expected);
        assert_eq!(account.reads.len(), 2);
        assert_eq!(account.reads[1].number, Some(1));
        assert_eq!(account.denied, [(3, "not found, it says".to_owned())]);
        assert_eq!(account.failed, ["the store is away".to_owned()]);
    }

    #[test]
    fn line_that_no_worker_writes_is_refused() {
        for line in ["w 1 2", "a 1 2 3", "q 1 2 3", "w 1 2 x 3", "r 1 2 3"] {
            assert!(collect(line, &mut BTreeMap::new()).is_err(), "{line}");
        }
    }

    #[test]
    fn class_of_a_row_is_in_its_id() {
        let worker = 3 * IDS_OF_ROUND + 2 * IDS_OF_WORKER;
        assert_eq!(Class::of(3 * IDS_OF_ROUND + 1), Class::Counter);
        assert_eq!(Class::of(worker + 1), Class::Own);
        assert_eq!(Class::of(worker + FIRST_REFUSABLE), Class::Refusable);
    }
}
