//! Holds every read of a key against the order of its writes: is there one order of all reads and writes that explains what
//! was read and contradicts no clock? That is what *linearizable* means.
//!
//! With the order of the writes given, four rules are necessary, and together they are enough:
//!
//! 1. A read returns nothing from the future: when it returned, its write and all writes before that had begun.
//! 2. Nothing stale: when it began, no write after its own had returned.
//! 3. Nothing backwards: no read that had returned before it began saw a later write.
//! 4. Nothing that was never there: a value that no write stored.
//!
//! And of the writes themselves: none that was committed later had returned before an earlier one began.
//!
//! Why they are enough: put the reads of each write behind it, by their beginning. Whatever two operations follow each other by
//! the clock, one of the rules says that they do in this order too. (Rules 1 and 2 speak of *all* writes before and after, not
//! of the next one only: three writes that overlap can otherwise hide a contradiction.)
//!
//! Absence has no value that names its write, and may be read between several pairs of writes; each such read is given the
//! earliest place that the rules leave. As all rules but the third bound a read by itself, and the third only ever pushes later reads
//! further on, the earliest place is the best one, and one pass in the order of beginnings suffices.
//!
//! Invariant: [`check`] accepts exactly the histories that an exhaustive search accepts (see the tests).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use larder_testing::clock::Moment;

use crate::{
    commits::Fault,
    history::{Lack, Read, Value, Write},
};

/// Never: a write that was not answered.
const NEVER: Moment = Moment::MAX;

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// About writes alone: what callers were told and what the database recorded.
    Write(Fault),
    /// A write returned before another one began, and yet was committed after it.
    WriteOrder {
        /// The place of the one that was committed first.
        first: usize,
        /// The place of the other one.
        second: usize,
    },
    /// A read returned a value before its write, or one before that, had begun.
    Future {
        /// The read.
        read: Read,
        /// The place of the write that it saw.
        saw: usize,
        /// The place of the write that had not begun.
        missing: usize,
    },
    /// A read returned what a write that had returned had replaced.
    Stale {
        /// The read.
        read: Read,
        /// The place of the write that it saw.
        saw: usize,
        /// The place of the write that it should have seen.
        missed: usize,
    },
    /// A read returned something older than a read before it.
    Backwards {
        /// The read.
        read: Read,
        /// The place of the write that it saw.
        saw: usize,
        /// The earlier read.
        earlier: Read,
        /// The place of the write that the earlier read saw.
        earlier_saw: usize,
    },
    /// A lookup returned without a row that was in the database, with what it was looked for by, during the whole call.
    Missed {
        /// The lookup.
        lack: Lack,
        /// The place of the write after which the row was there.
        there: usize,
    },
    /// A read returned what no committed write stored.
    Invented {
        /// The read.
        read: Read,
    },
}

/// A stretch of time in which the store may have lost the announcements of writes under way. Between the commit of such a
/// write and its return, reads may still see what it replaces: that is what the documentation promises of these faults, and
/// no more is excused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When it began.
    pub start: Moment,
    /// When it was over.
    pub end: Moment,
}

/// The judgement over one history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// Reads that went backwards while a write whose announcement may have been lost had not returned.
    pub excused: usize,
}

/// Judges the reads of a key by its writes in the order of their commits. Before the first write there is no row.
///
/// Places count from 1; place 0 is the absence before the first write.
#[must_use]
pub fn check(reads: &[Read], writes: &[Write], losses: &[Loss]) -> Verdict {
    let order = Order::new(writes);
    let mut verdict = Verdict::default();
    order.check_writes(&mut verdict);
    let mut reads: Vec<&Read> = reads.iter().collect();
    reads.sort_by_key(|read| (read.start, read.end));
    // Reads that were placed and have not yet ended before the next one begins, the earliest end first.
    let mut running: BinaryHeap<Reverse<(Moment, usize)>> = BinaryHeap::new();
    let mut placed: Vec<(&Read, usize)> = Vec::new();
    let mut latest: Option<usize> = None;
    for read in reads {
        while let Some(Reverse((end, at))) = running.peek().copied()
            && end < read.start
        {
            running.pop();
            if latest.is_none_or(|latest| placed[latest].1 < placed[at].1) {
                latest = Some(at);
            }
        }
        let floor = latest.map_or(0, |latest| placed[latest].1);
        let place = match order.place(read, floor) {
            Ok(place) => place,
            Err(Misplaced::Before { saw }) => {
                let (earlier, earlier_saw) = placed[latest.expect("something set the floor")];
                if order.may_be_lost(saw, earlier_saw, losses) {
                    verdict.excused += 1;
                } else {
                    verdict.violations.push(Violation::Backwards {
                        read: read.clone(),
                        saw,
                        earlier: earlier.clone(),
                        earlier_saw,
                    });
                }
                continue;
            }
            Err(Misplaced::Never(violation)) => {
                verdict.violations.push(*violation);
                continue;
            }
        };
        running.push(Reverse((read.end, placed.len())));
        placed.push((read, place));
    }
    verdict
}

/// Judges the lookups that returned without a row by the writes of the row in the order of their commits: at some moment of
/// the call, the row did not have what it was looked for by.
#[must_use]
pub fn check_lacks(lacks: &[Lack], writes: &[Write]) -> Vec<Violation> {
    let order = Order::new(writes);
    let missed = lacks.iter().filter_map(|lack| {
        let (lowest, above) = order.window(lack.start, lack.end);
        let is_there = (lowest..above).all(|place| lack.sought.finds(state_at(writes, place)));
        (lowest < above && is_there).then(|| Violation::Missed {
            lack: lack.clone(),
            there: lowest,
        })
    });
    missed.collect()
}

/// Why a read has no place.
enum Misplaced {
    /// Its only place lies before that of a read that had returned.
    Before { saw: usize },
    /// It would have none even if it were the only read.
    Never(Box<Violation>),
}

impl Misplaced {
    fn never(violation: Violation) -> Self {
        Self::Never(Box::new(violation))
    }
}

/// The writes of a key, by place, and what the clock says of them.
struct Order<'a> {
    writes: &'a [Write],
    places: HashMap<i64, usize>,
    absences: Vec<usize>,
    /// By place: the latest beginning of a write up to there, and its place.
    begun: Vec<(Moment, usize)>,
    /// By place: the earliest return of a write from there on, and its place.
    returned: Vec<(Moment, usize)>,
}

impl<'a> Order<'a> {
    fn new(writes: &'a [Write]) -> Self {
        let mut places = HashMap::new();
        let mut absences = vec![0];
        let mut begun = vec![(0, 0)];
        let mut returned = vec![(NEVER, 0); writes.len() + 2];
        for (index, write) in writes.iter().enumerate() {
            let place = index + 1;
            match write.value {
                Some(value) => {
                    places.insert(value, place);
                }
                None => absences.push(place),
            }
            begun.push((write.start, place).max(begun[index]));
        }
        for (index, write) in writes.iter().enumerate().rev() {
            let end = write.returned().unwrap_or(NEVER);
            returned[index + 1] = (end, index + 1).min(returned[index + 2]);
        }
        Self {
            writes,
            places,
            absences,
            begun,
            returned,
        }
    }

    fn check_writes(&self, verdict: &mut Verdict) {
        for (index, write) in self.writes.iter().enumerate() {
            let (end, second) = self.returned[index + 2];
            if end < write.start {
                verdict.violations.push(Violation::WriteOrder {
                    first: index + 1,
                    second,
                });
            }
        }
    }

    /// The places that rules 1 and 2 leave an operation, from the first to before the last: from the first after which no write
    /// had returned, up to the last whose writes had all begun. Both bounds grow with the place.
    fn window(&self, start: Moment, end: Moment) -> (usize, usize) {
        let above = self.begun.partition_point(|(begun, _)| *begun <= end);
        let lowest = self.returned[1..].partition_point(|(returned, _)| *returned < start);
        (lowest, above)
    }

    /// The earliest place of a read that is not before the floor.
    fn place(&self, read: &Read, floor: usize) -> Result<usize, Misplaced> {
        let (lowest, above) = self.window(read.start, read.end);
        match read.value {
            Some(value) => {
                let Some(&place) = self.places.get(&value) else {
                    return Err(Misplaced::never(Violation::Invented { read: read.clone() }));
                };
                self.judge(read, place, above, lowest)?;
                if place < floor {
                    return Err(Misplaced::Before { saw: place });
                }
                Ok(place)
            }
            None => {
                let first = |from: usize| {
                    let at = self.absences.partition_point(|place| *place < from);
                    self.absences.get(at).copied()
                };
                if let Some(place) = first(lowest.max(floor)).filter(|place| *place < above) {
                    return Ok(place);
                }
                match first(lowest).filter(|place| *place < above) {
                    Some(saw) => Err(Misplaced::Before { saw }),
                    None => {
                        let at = self.absences.partition_point(|place| *place < above);
                        self.judge(read, self.absences[at - 1], above, lowest)?;
                        unreachable!("a place that rules 1 and 2 leave was found before")
                    }
                }
            }
        }
    }

    /// Rules 1 and 2 for a read of this place.
    fn judge(
        &self,
        read: &Read,
        place: usize,
        above: usize,
        lowest: usize,
    ) -> Result<(), Misplaced> {
        if place >= above {
            return Err(Misplaced::never(Violation::Future {
                read: read.clone(),
                saw: place,
                missing: self.begun[place].1,
            }));
        }
        if place < lowest {
            return Err(Misplaced::never(Violation::Stale {
                read: read.clone(),
                saw: place,
                missed: self.returned[place + 1].1,
            }));
        }
        Ok(())
    }

    /// Whether a write after one place, up to another, may have lost its announcement.
    fn may_be_lost(&self, after: usize, up_to: usize, losses: &[Loss]) -> bool {
        self.writes[after..up_to].iter().any(|write| {
            let end = write.returned().unwrap_or(NEVER);
            losses
                .iter()
                .any(|loss| write.start <= loss.end && end >= loss.start)
        })
    }
}

/// What a read of this value saw, for people.
#[must_use]
pub fn state_at(writes: &[Write], place: usize) -> Value {
    place
        .checked_sub(1)
        .and_then(|index| writes.get(index))
        .and_then(|write| write.value)
}
