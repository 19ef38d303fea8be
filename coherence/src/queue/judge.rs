//! Holds what the database has of a row against what was acknowledged.
//!
//! The writes of a row are numbered in the order in which its one writer asked for them, each after the answer to the one
//! before, so there is one right order. The database may leave out a write only for a later one, and end only with the last
//! acknowledged one or with a later one whose answer nobody got.
//!
//! 1. The record of the row goes upwards: a number that comes again was applied twice, a lower one too late. Of a deletion the
//!    record does not tell the number; it is taken for the first one that can be meant.
//! 2. The row that is left is that of the last acknowledged write, or of a later one. If not, that write is *lost*.
//! 3. A write that the database refuses, and that no later one has made pointless, is a dead letter. A good write is none.
//! 4. A read finds the last write that was acknowledged before it began, or a later one: if not, that write was *lost* to it.
//!    It does not find less than an earlier read has found: that would be *reordered*.
//! 5. No two raises of a counter are told the same number, and its end lies between the raises that were acknowledged and
//!    those that were asked for.
//!
//! Not here: where the logs and the record come from.

use crate::queue::log::{Account, Class, Deed, Read, Write};

/// A change of a row, as a trigger has recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row has this number since.
    Row(i64),
    /// The row is gone; it had this number.
    Gone(i64),
}

/// What the database has of a row.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Its changes in their order.
    pub changes: Vec<Change>,
    /// The number of the row that is left.
    pub left: Option<i64>,
    /// The numbers of its dead letters; a deletion has none.
    pub dead: Vec<Option<i64>>,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// An acknowledged write is nowhere, or was not seen.
    Lost,
    /// A write was applied more than once.
    Duplicated,
    /// A write was applied, or seen, after a later one.
    Reordered,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The sort.
    pub sort: Sort,
    /// What is wrong, in words.
    pub what: String,
}

/// Judges one row.
#[must_use]
pub fn judge(id: i64, account: &Account, kept: &Kept) -> Vec<Violation> {
    let mut case = Case {
        id,
        account,
        kept,
        found: Vec::new(),
    };
    for (number, why) in &account.denied {
        case.find(Sort::Lost, format!("write {number} was denied: {why}"));
    }
    if Class::of(id) == Class::Counter {
        case.counter();
    } else {
        case.changes();
        case.end();
        case.letters();
    }
    if Class::of(id) != Class::Refusable {
        case.reads();
    }
    case.found
}

struct Case<'a> {
    id: i64,
    account: &'a Account,
    kept: &'a Kept,
    found: Vec<Violation>,
}

impl Case<'_> {
    fn find(&mut self, sort: Sort, mut what: String) {
        what.insert_str(0, &format!("row {}: ", self.id));
        self.found.push(Violation { sort, what });
    }

    fn deletion_after(&self, number: i64) -> Option<&Write> {
        let later = self.account.writes.iter();
        let mut later = later.filter(|write| write.number > number);
        later.find(|write| write.deed == Deed::Deletion)
    }

    /// The record goes upwards.
    fn changes(&mut self) {
        let mut highest = 0;
        let mut applied = 0;
        for change in &self.kept.changes {
            match *change {
                Change::Row(number) if number > highest => (highest, applied) = (number, number),
                Change::Row(number) if number == highest && number == applied => {
                    self.find(
                        Sort::Duplicated,
                        format!("write {number} was applied again"),
                    );
                }
                Change::Row(number) => {
                    let what = format!("write {number} was applied after write {highest}");
                    self.find(Sort::Reordered, what);
                    applied = number;
                }
                Change::Gone(_) => match self.deletion_after(highest) {
                    Some(deletion) => highest = deletion.number,
                    None => {
                        let what = format!("a deletion was applied after write {highest}");
                        self.find(Sort::Reordered, what);
                    }
                },
            }
        }
    }

    /// What is left is the last acknowledged write, or a later one.
    fn end(&mut self) {
        let good = |write: &&Write| matches!(write.deed, Deed::Row | Deed::Deletion);
        let mut right = Vec::new();
        let mut last = None;
        for write in self.account.writes.iter().filter(good).rev() {
            right.push((write.deed == Deed::Row).then_some(write.number));
            if write.acknowledged.is_some() {
                last = Some(write.number);
                break;
            }
        }
        let left = self.kept.left;
        if last.is_none() && left.is_none() {
            return;
        }
        if !right.contains(&left) {
            let left = left.map_or("nothing".to_owned(), |left| format!("write {left}"));
            let last = last.map_or("nothing".to_owned(), |last| format!("write {last}"));
            self.find(
                Sort::Lost,
                format!("{left} is left, and {last} was acknowledged last"),
            );
        }
    }

    /// Writes that are refused are dead letters, good ones are none.
    fn letters(&mut self) {
        let writes = &self.account.writes;
        let mut known: Vec<i64> = Vec::new();
        for letter in &self.kept.dead {
            let number = letter.filter(|number| {
                let mut poison = writes.iter().filter(|write| write.deed == Deed::Poison);
                poison.any(|write| write.number == *number)
            });
            match number {
                Some(number) if known.contains(&number) => {
                    let what = format!("write {number} is two dead letters");
                    self.find(Sort::Duplicated, what);
                }
                Some(number) => known.push(number),
                None => {
                    let what = format!("a good write is a dead letter ({letter:?})");
                    self.find(Sort::Lost, what);
                }
            }
        }
        for write in writes.iter().rev() {
            if write.deed != Deed::Poison {
                // Any of those before may have been overwritten by this one while they were queued.
                break;
            }
            if write.acknowledged.is_some() && !known.contains(&write.number) {
                let what = format!("write {} was refused and is no dead letter", write.number);
                self.find(Sort::Lost, what);
            }
        }
    }

    /// A counter was raised once for each that was told so.
    fn counter(&mut self) {
        let acknowledged = self.account.writes.iter();
        let acknowledged = acknowledged.filter(|write| write.acknowledged.is_some());
        let mut told: Vec<i64> = acknowledged.map(|write| write.number).collect();
        told.sort_unstable();
        for pair in told.windows(2) {
            if pair[0] == pair[1] {
                let what = format!("two raises were told the number {}", pair[0]);
                self.find(Sort::Lost, what);
            }
        }
        // It begins at zero, which is recorded too.
        let mut highest = -1;
        for change in &self.kept.changes {
            match *change {
                Change::Row(number) if number > highest => highest = number,
                Change::Row(number) if number == highest => {
                    self.find(
                        Sort::Duplicated,
                        format!("number {number} was applied again"),
                    );
                }
                Change::Row(number) | Change::Gone(number) => {
                    let what = format!("number {number} was applied or gone after {highest}");
                    self.find(Sort::Reordered, what);
                }
            }
        }
        let least = told.last().copied().unwrap_or(0);
        let least = least.max(i64::try_from(told.len()).unwrap_or(i64::MAX));
        let most = i64::try_from(self.account.writes.len()).unwrap_or(i64::MAX);
        let left = self.kept.left.unwrap_or(-1);
        if left < least {
            let what = format!("it ends at {left}, and {least} was acknowledged");
            self.find(Sort::Lost, what);
        } else if left > most {
            let what = format!("it ends at {left}, and was raised {most} times at most");
            self.find(Sort::Duplicated, what);
        }
        if !self.kept.dead.is_empty() {
            self.find(Sort::Lost, "a raise is a dead letter".to_owned());
        }
    }

    /// Reads find what was acknowledged before them, and what was read before them.
    fn reads(&mut self) {
        let acknowledged = self.account.writes.iter();
        let acknowledged =
            acknowledged.filter_map(|write| Some((write.acknowledged?, write.number)));
        let acknowledged = Highest::new(acknowledged.collect());
        let seen = self.account.reads.iter();
        let seen = seen.filter_map(|read| Some((read.end, read.number?)));
        let seen = Highest::new(seen.collect());
        for read in &self.account.reads {
            if let Some(floor) = acknowledged.before(read.start)
                && !self.finds(read, floor)
            {
                let what = format!(
                    "a read at {} found {:?}, and write {floor} was acknowledged before",
                    read.start, read.number
                );
                self.find(Sort::Lost, what);
            } else if let Some(floor) = seen.before(read.start)
                && !self.finds(read, floor)
            {
                let what = format!(
                    "a read at {} found {:?}, and an earlier one had found write {floor}",
                    read.start, read.number
                );
                self.find(Sort::Reordered, what);
            }
        }
    }

    /// Whether a read found a write or a later one.
    fn finds(&self, read: &Read, floor: i64) -> bool {
        match read.number {
            Some(number) => number >= floor,
            None => self.account.writes.iter().any(|write| {
                write.number >= floor && write.deed == Deed::Deletion && write.asked < read.end
            }),
        }
    }
}

/// The highest number up to each moment.
struct Highest(Vec<(u64, i64)>);

impl Highest {
    fn new(mut moments: Vec<(u64, i64)>) -> Self {
        moments.sort_unstable();
        let mut highest = i64::MIN;
        for (_, number) in &mut moments {
            highest = highest.max(*number);
            *number = highest;
        }
        Self(moments)
    }

    /// The highest number of those before a moment.
    fn before(&self, moment: u64) -> Option<i64> {
        let count = self.0.partition_point(|(at, _)| *at < moment);
        Some(self.0.get(count.checked_sub(1)?)?.1)
    }
}
