//! A counterexample as a timeline: who did what to the row, when, and which faults were going on.
//! "Read 1293 is not linearizable" finds no bug; the few lines around it do.
//! 1. A sentence says what is wrong. 2. The reads and writes it is about, and those in between, are put in the order of the
//!    clock, counted in milliseconds from the first of them. 3. A version is the place of a write in the order of commits.
//!
//! Invariant: what is shown is enough to see the contradiction; operations that have no part in it are left out.

use std::fmt::Write as _;

use larder_testing::clock::Moment;

use crate::{
    checker::Violation,
    commits::Fault,
    history::{Answer, Read, Write},
};

/// The most writes between the two that matter that are shown.
const MAX_BETWEEN: usize = 6;

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// When it began.
    pub start: Moment,
    /// When it was over.
    pub end: Moment,
    /// What it was.
    pub what: String,
}

/// Tells of a violation in the history of a row, whose writes are in the order of their commits.
#[must_use]
pub fn tell(row: &str, violation: &Violation, writes: &[Write], faults: &[Injected]) -> String {
    let mut scene = Scene::default();
    let headline = match violation {
        Violation::Write(Fault::Lost(write)) => {
            scene.write(None, write);
            "a write was acknowledged and never committed".to_owned()
        }
        Violation::Write(Fault::Ghost(write)) => {
            scene.write(None, write);
            "a write was refused and committed all the same".to_owned()
        }
        Violation::Write(Fault::Unasked(commit)) => {
            let what = commit
                .value
                .map_or("a delete".to_owned(), |value| format!("a write of {value}"));
            format!(
                "the database recorded {what} by {} that nobody asked for, or once more than it was asked for",
                commit.by
            )
        }
        Violation::WriteOrder { first, second } => {
            scene.writes(writes, *first, *second);
            format!(
                "version {second} had returned before version {first} began, and was committed after it"
            )
        }
        Violation::Future { read, saw, missing } => {
            scene.read(Some(*saw), read);
            scene.writes(writes, *missing, *saw);
            format!("a read returned version {saw} before version {missing} had begun")
        }
        Violation::Stale { read, saw, missed } => {
            scene.read(Some(*saw), read);
            scene.writes(writes, *saw, *missed);
            let returned = writes[*missed - 1].returned().unwrap_or(0);
            format!(
                "stale: a read that began {:.3} ms after version {missed} had returned saw version {saw}",
                millis(read.start.saturating_sub(returned))
            )
        }
        Violation::Backwards {
            read,
            saw,
            earlier,
            earlier_saw,
        } => {
            scene.read(Some(*saw), read);
            scene.read(Some(*earlier_saw), earlier);
            scene.writes(writes, *saw, *earlier_saw);
            format!(
                "backwards: a read that began {:.3} ms after another had seen version {earlier_saw} saw version {saw}",
                millis(read.start.saturating_sub(earlier.end))
            )
        }
        Violation::Missed { lack, there } => {
            scene.write(Some(*there), &writes[*there - 1]);
            format!(
                "a lookup by {:?} of {} returned without the row, which had it from before {} until after {}",
                lack.sought, lack.by, lack.start, lack.end
            )
        }
        Violation::Invented { read } => {
            scene.read(None, read);
            "a read returned what no committed write stored".to_owned()
        }
    };
    format!("{row}: {headline}\n{}", scene.shown(faults))
}

/// What is shown, not yet in order.
#[derive(Default)]
struct Scene(Vec<(Moment, String, String)>);

impl Scene {
    /// The writes from one place to another, in whichever order these are, without most of those in between.
    fn writes(&mut self, writes: &[Write], one: usize, other: usize) {
        let (from, to) = (one.min(other), one.max(other));
        for place in from.max(1)..=to {
            if place - from <= MAX_BETWEEN || place == to {
                self.write(Some(place), &writes[place - 1]);
            }
        }
        if from == 0 {
            let first = self.0.iter().map(|(at, ..)| *at).min().unwrap_or(0);
            let what = "version 0 is the absence of the row before its first write";
            self.0.push((first, String::new(), what.to_owned()));
        }
    }

    fn write(&mut self, place: Option<usize>, write: &Write) {
        let value = write
            .value
            .map_or(String::new(), |value| format!(" of {value}"));
        let version = place.map_or(String::new(), |place| format!(" (version {place})"));
        let what = format!("{}{value}{version}", write.verb);
        self.push(write.start, &write.by, format!("{what} begins"));
        let (end, came) = match write.answer {
            Some((end, Answer::Done)) => (end, "returns"),
            Some((end, Answer::Refused)) => (end, "is refused"),
            Some((end, Answer::Unknown)) => (end, "ends, its outcome unknown"),
            None => (write.start, "is never answered"),
        };
        self.push(end, &write.by, format!("{what} {came}"));
    }

    fn read(&mut self, place: Option<usize>, read: &Read) {
        self.push(read.start, &read.by, "read begins".to_owned());
        let value = read
            .value
            .map_or("no row".to_owned(), |value| value.to_string());
        let version = place.map_or(String::new(), |place| format!(" (version {place})"));
        let what = format!("read returns {value}{version}, from: {}", read.origin);
        self.push(read.end, &read.by, what);
    }

    fn push(&mut self, at: Moment, by: &str, what: String) {
        self.0.push((at, by.to_owned(), what));
    }

    fn shown(mut self, faults: &[Injected]) -> String {
        let from = self.0.iter().map(|(at, ..)| *at).min().unwrap_or(0);
        let to = self.0.iter().map(|(at, ..)| *at).max().unwrap_or(0);
        for fault in faults {
            if fault.start <= to && fault.end >= from {
                self.push(fault.start, "fault", format!("{} begins", fault.what));
                self.push(fault.end, "fault", format!("{} is over", fault.what));
            }
        }
        self.0.sort_by_key(|(at, ..)| *at);
        let mut text = format!("{:>12}  {:<10} what\n", "ms", "who");
        for (at, by, what) in self.0 {
            let sign = if at < from { "-" } else { "" };
            let time = format!("{sign}{:.3}", millis(at.abs_diff(from)));
            writeln!(text, "{time:>12}  {by:<10} {what}").expect("a string takes all");
        }
        text
    }
}

/// Nanoseconds as milliseconds.
fn millis(nanoseconds: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "for people, who read three digits"
    )]
    let millis = nanoseconds as f64 / 1e6;
    millis
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::check,
        history::{Origin, Verb},
    };

    #[test]
    fn stale_read_is_told_with_its_writes_and_faults_in_the_order_of_the_clock() {
        let write = |start, end, value| Write {
            start,
            answer: Some((end, Answer::Done)),
            verb: Verb::Update,
            value: Some(value),
            by: "w1".into(),
        };
        let writes = [
            write(1_000_000, 2_000_000, 7),
            write(3_000_000, 5_500_000, 8),
        ];
        let read = Read {
            start: 6_000_000,
            end: 6_250_000,
            value: Some(7),
            origin: Origin::Cache,
            by: "w2".into(),
        };
        let faults = [
            Injected {
                start: 500_000,
                end: 4_000_000,
                what: "pause of w1".to_owned(),
            },
            Injected {
                start: 7_000_000,
                end: 8_000_000,
                what: "later".to_owned(),
            },
        ];
        let verdict = check(&[read], &writes, &[]);
        let told = tell("row 3", &verdict.violations[0], &writes, &faults);
        let expected = "\
row 3: stale: a read that began 0.500 ms after version 2 had returned saw version 1
          ms  who        what
      -0.500  fault      pause of w1 begins
       0.000  w1         update of 7 (version 1) begins
       1.000  w1         update of 7 (version 1) returns
       2.000  w1         update of 8 (version 2) begins
       3.000  fault      pause of w1 is over
       4.500  w1         update of 8 (version 2) returns
       5.000  w2         read begins
       5.250  w2         read returns 7 (version 1), from: cache
";
        assert_eq!(told, expected);
    }
}
