//! What workers did: the form of their logs, and the histories that come of them, one per key of a configuration.
//! A worker that is killed cannot tell any more, so it must have told before.
//! 1. A read is logged when it has returned; a read that did not return proves nothing. 2. A write is logged before it begins and
//!    again when it has an answer. 3. Each line is one `write` to a file opened for appending, so SIGKILL loses no line.
//!
//! Invariant: a write without an answer may or may not have happened, at any time after it began.
//! Not here: which writes did happen; see [`crate::commits`].

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Write as _},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use larder_testing::clock::Moment;

/// What a row held: its value, or nothing where there was no row.
pub type Value = Option<i64>;

/// Where a read got its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the cache.
    Cache,
    /// From the database, by a statement of its own.
    Database,
    /// From the database, by somebody else's statement.
    Shared,
    /// From the database, past the cache, because the worker asked for that.
    Uncached,
    /// It was one of several rows of a batch, a list or a lookup, which do not tell.
    Several,
}

/// What came of a write, as its caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was applied.
    Done,
    /// It was not and will not be applied.
    Refused,
    /// It may have been applied.
    Unknown,
}

/// The kinds of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is named after the method of a repository"
)]
pub enum Verb {
    Insert,
    Update,
    Save,
    Delete,
}

/// One read that returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// When it was called.
    pub start: Moment,
    /// When it returned.
    pub end: Moment,
    /// What it returned.
    pub value: Value,
    /// Where that came from.
    pub origin: Origin,
    /// Which worker called it.
    pub by: Arc<str>,
}

/// One write that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// When it was called.
    pub start: Moment,
    /// When and how it was answered, if it was.
    pub answer: Option<(Moment, Answer)>,
    /// What was asked for.
    pub verb: Verb,
    /// The value, which no other write of the key has; nothing for a delete.
    pub value: Value,
    /// Which worker called it.
    pub by: Arc<str>,
}

impl Write {
    /// When its caller learned that it had been applied. From then on it must be seen.
    #[must_use]
    pub fn returned(&self) -> Option<Moment> {
        match self.answer {
            Some((end, Answer::Done)) => Some(end),
            _ => None,
        }
    }
}

/// How many lists there are.
pub const SHELVES: i64 = 3;

/// The list that a row with this value is in.
#[must_use]
pub const fn shelf(value: i64) -> i64 {
    value % SHELVES
}

/// How many parents have children.
pub const PARENTS: i64 = 4;

/// The parent of the child with this id.
#[must_use]
pub const fn parent(id: i64) -> i64 {
    id % PARENTS
}

/// What a row was looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// By this value.
    Value(i64),
    /// In this list.
    Shelf(i64),
}

impl Sought {
    /// Whether a row that holds this is found.
    #[must_use]
    pub fn finds(self, held: Value) -> bool {
        held.is_some_and(|held| match self {
            Self::Value(value) => held == value,
            Self::Shelf(list) => shelf(held) == list,
        })
    }
}

/// A lookup that returned without this row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// When it was called.
    pub start: Moment,
    /// When it returned.
    pub end: Moment,
    /// What the row was looked for by.
    pub sought: Sought,
    /// Which worker called it.
    pub by: Arc<str>,
}

/// What was done to one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The reads, in no particular order.
    pub reads: Vec<Read>,
    /// The writes, in no particular order.
    pub writes: Vec<Write>,
    /// The lookups that returned without the row, in no particular order.
    pub lacks: Vec<Lack>,
}

/// Names a key of a configuration: the table, which says the strategy, and the id.
pub type Series = (Arc<str>, i64);

/// The log of one worker.
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

    /// Notes a read that returned.
    pub fn read(
        &self,
        (table, id): (&str, i64),
        (start, end): (Moment, Moment),
        value: Value,
        origin: Origin,
    ) {
        let value = Shown(value);
        self.line(format_args!(
            "r {table} {id} {start} {end} {value} {origin}"
        ));
    }

    /// Notes a lookup that returned without a row.
    pub fn lack(&self, (table, id): (&str, i64), (start, end): (Moment, Moment), sought: Sought) {
        let (kind, number) = match sought {
            Sought::Value(value) => ('v', value),
            Sought::Shelf(shelf) => ('s', shelf),
        };
        self.line(format_args!("l {table} {id} {start} {end} {kind} {number}"));
    }

    /// Notes a write that is about to begin, under a number that is this worker's own.
    pub fn write(
        &self,
        (table, id): (&str, i64),
        number: u64,
        start: Moment,
        verb: Verb,
        value: Value,
    ) {
        let value = Shown(value);
        self.line(format_args!(
            "w {table} {id} {number} {start} {verb} {value}"
        ));
    }

    /// Notes the answer to the write of this number.
    pub fn answer(&self, number: u64, end: Moment, answer: Answer) {
        self.line(format_args!("a {number} {end} {answer}"));
    }

    fn line(&self, line: fmt::Arguments<'_>) {
        let line = format!("{line}\n");
        // One call, so that the line is there or is not.
        let written = (&self.0).write(line.as_bytes());
        assert_eq!(
            written.expect("the log can be written"),
            line.len(),
            "the log takes whole lines"
        );
    }
}

/// Adds the log of a worker to the histories of its keys.
///
/// # Errors
///
/// Says which line makes no sense.
pub fn collect(
    text: &str,
    worker: &Arc<str>,
    histories: &mut BTreeMap<Series, History>,
) -> Result<(), String> {
    let mut open: BTreeMap<u64, (Series, Write)> = BTreeMap::new();
    // What follows the last line feed was cut short.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in complete.lines() {
        take(line, worker, histories, &mut open)
            .ok_or_else(|| format!("worker {worker} logged {line:?}"))?;
    }
    for (series, write) in open.into_values() {
        histories.entry(series).or_default().writes.push(write);
    }
    Ok(())
}

fn take(
    line: &str,
    worker: &Arc<str>,
    histories: &mut BTreeMap<Series, History>,
    open: &mut BTreeMap<u64, (Series, Write)>,
) -> Option<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let series = |table: &str, id: &str| Some((Arc::from(table), id.parse().ok()?));
    match words[..] {
        ["r", table, id, start, end, value, origin] => {
            let read = Read {
                start: start.parse().ok()?,
                end: end.parse().ok()?,
                value: parse_value(value)?,
                origin: origin.parse().ok()?,
                by: Arc::clone(worker),
            };
            let history = histories.entry(series(table, id)?).or_default();
            history.reads.push(read);
        }
        ["l", table, id, start, end, kind, number] => {
            let number = number.parse().ok()?;
            let lack = Lack {
                start: start.parse().ok()?,
                end: end.parse().ok()?,
                sought: match kind {
                    "v" => Sought::Value(number),
                    "s" => Sought::Shelf(number),
                    _ => return None,
                },
                by: Arc::clone(worker),
            };
            let history = histories.entry(series(table, id)?).or_default();
            history.lacks.push(lack);
        }
        ["w", table, id, number, start, verb, value] => {
            let write = Write {
                start: start.parse().ok()?,
                answer: None,
                verb: verb.parse().ok()?,
                value: parse_value(value)?,
                by: Arc::clone(worker),
            };
            let before = open.insert(number.parse().ok()?, (series(table, id)?, write));
            before.is_none().then_some(())?;
        }
        ["a", number, end, answer] => {
            let (series, mut write) = open.remove(&number.parse().ok()?)?;
            write.answer = Some((end.parse().ok()?, answer.parse().ok()?));
            histories.entry(series).or_default().writes.push(write);
        }
        _ => return None,
    }
    Some(())
}

/// A value as it is logged and shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub Value);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value}"),
            None => f.write_str("-"),
        }
    }
}

fn parse_value(text: &str) -> Option<Value> {
    match text {
        "-" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

/// Gives an enum a word per variant, for logs.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }

        impl FromStr for $type {
            type Err = ();

            fn from_str(word: &str) -> Result<Self, ()> {
                match word { $($word => Ok(Self::$variant),)* _ => Err(()) }
            }
        }
    };
}

words!(Origin { Cache = "cache", Database = "database", Shared = "shared", Uncached = "uncached", Several = "several" });
words!(Answer { Done = "done", Refused = "refused", Unknown = "unknown" });
words!(Verb { Insert = "insert", Update = "update", Save = "save", Delete = "delete" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_read_again_and_a_cut_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(&path).unwrap();
        log.write(("rows", 7), 1, 10, Verb::Save, Some(42));
        log.read(("rows", 7), (11, 12), None, Origin::Shared);
        log.write(("rows", 7), 2, 13, Verb::Delete, None);
        log.answer(1, 14, Answer::Done);
        log.lack(("rows", 7), (14, 15), Sought::Shelf(2));
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("a 2 15 do");
        let worker: Arc<str> = "w1".into();
        let mut histories = BTreeMap::new();
        collect(&text, &worker, &mut histories).unwrap();
        let history = &histories[&(Arc::from("rows"), 7)];
        assert_eq!(history.reads.len(), 1);
        assert_eq!(history.reads[0].origin, Origin::Shared);
        assert_eq!(history.lacks.len(), 1);
        assert_eq!(history.lacks[0].sought, Sought::Shelf(2));
        assert_eq!(history.writes[0].answer, Some((14, Answer::Done)));
        assert_eq!(history.writes[0].value, Some(42));
        assert_eq!(history.writes[1].answer, None);
        assert_eq!(history.writes[1].verb, Verb::Delete);
    }

    #[test]
    fn line_that_makes_no_sense_is_refused() {
        let worker: Arc<str> = "w1".into();
        for line in ["x 1\n", "a 1 2 done\n", "r rows 7 1 2 - nowhere\n"] {
            assert!(
                collect(line, &worker, &mut BTreeMap::new()).is_err(),
                "{line}"
            );
        }
    }
}
