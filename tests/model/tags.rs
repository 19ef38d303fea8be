//! Tags: an entry that an invalidation covers is not served, although nothing touches it.
//!
//! The clock is the real one, and so are the judgement of an entry and the steps at its key.
//!
//! 1. Others change the row without the repository, and then invalidate its tag. They also invalidate another tag, so that the
//!    clock moves, and marks are dropped: the clock keeps one.
//! 2. A reader asks for the entry and for the clock, in any order. It serves the entry, or compares its tag, or takes the lease over
//!    it. Then it reads the clock, the row, and fills, at any later time. What it compared it stamps anew, at any later time.
//! 3. The clock may be lost at any time. The next load begins another one.
//! 4. Writers of many rows announce themselves at the tag, commit, and end. They may die, and are forgotten then.
//!
//! The claims: a read that begins after an invalidation or a write has returned does not return an older row. If there are only
//! writes, and the clock is not lost, it also returns nothing older than a read before it.

use std::fmt;

use larder::{
    state::{self, Lookup, Meta, State},
    tags::{Changed, OpenWrite, Reading, Stamp, Tag, TagClock, Verdict, judge, judge_marks},
    token::Token,
};
use stateright::{Model, Property};

use crate::{
    check::{Claim, breaks, holds, wide},
    store::{Key, LONG_MS, SHORT_MS, apply, identity, lease},
};

const FRESH: Claim = "a read returns no row from before an invalidation";

const EQUAL: Claim = "an entry is served because the clock stands";
const COMPARED: Claim = "an entry is served because its tag was compared";
const OUTDATED: Claim = "an entry is outdated because of its tag";
const BELOW: Claim = "an entry is outdated because of the floor";
const LOST: Claim = "an entry is outdated because its clock was lost";
const LATE: Claim = "a fill comes after an invalidation";
const RESTAMPED: Claim = "an entry gets a new stamp";
const OPEN: Claim = "an entry is not served because a write of many rows is open";
const UNFILLED: Claim = "a row is not filled because a write of many rows was open";

/// The tag of the row, and another one.
const OWN: Tag = Tag(1);
const OTHER: Tag = Tag(2);

/// The mechanism that a mutant leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// A load reads the clock after the row.
    LateStamp,
    /// An entry gets the time at which it is stamped anew, and not that of the comparison.
    Restamp,
    /// A lost clock is begun again with the same incarnation.
    Incarnation,
    /// An entry from before the floor is compared like any other.
    Floor,
    /// An entry is served without a look at the clock.
    Clock,
    /// A writer of many rows does not announce itself.
    Announcement,
    /// It announces itself after its commit.
    LateAnnouncement,
    /// A row is filled although such a write was open when its load began.
    FillOpen,
    /// The end of such a write invalidates nothing.
    End,
}

#[derive(Clone, Debug)]
struct Tags {
    readers: usize,
    rounds: u8,
    changes: u8,
    /// How often another tag is invalidated.
    others: u8,
    losses: u8,
    writers: usize,
    broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Announced,
    Committed,
    /// Dead, and still open. Its commit may still come, or has come.
    Dead {
        committed: bool,
    },
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// The version of the row.
    row: u8,
    /// What a read that begins now must return, at least.
    least: u8,
    clock: Option<TagClock>,
    key: Key,
    readers: Vec<Reader>,
    writers: Vec<Writer>,
    changes: u8,
    others: u8,
    losses: u8,
    /// A read that returned an older row than it had to.
    is_stale: bool,
    /// What has happened, for the claims that it does.
    met: Met,
}

/// Situations that have been met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Met {
    equal: bool,
    compared: bool,
    outdated: bool,
    below: bool,
    lost: bool,
    late: bool,
    restamped: bool,
    open: bool,
    unfilled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reader {
    left: u8,
    step: Step,
    /// What the call must return, at least.
    least: u8,
    /// A load that is not filled yet.
    unfilled: Option<Unfilled>,
    /// An entry that gets a new stamp.
    restamp: Option<(Token, Stamp)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Unfilled {
    token: Token,
    stamp: Option<Stamp>,
    row: u8,
    least: u8,
    /// A write of many rows was open when the load began.
    is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    /// Has asked for both, and has the answers that have come.
    Asking {
        entry: Option<Found>,
        clock: Option<Option<Reading>>,
    },
    Comparing(Meta, u8),
    /// Takes the lease, over the entry with this token.
    Missed(Option<Token>),
    Leased(Token),
    /// Has read the clock.
    Stamped(Token, Reading),
}

/// What a reader finds at the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Found {
    Row(Meta, u8),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Call(usize),
    Entry(usize),
    Clock(usize),
    Compare(usize),
    Acquire(usize),
    Stamp(usize),
    Load(usize),
    Fill(usize),
    Restamp(usize),
    Change,
    Invalidate,
    InvalidateAll,
    InvalidateOther,
    Lose,
    Announce(usize),
    Commit(usize),
    End(usize),
    Die(usize),
    Forget(usize),
}

impl Tags {
    const ALL: Self = Self {
        readers: 2,
        rounds: 2,
        changes: 1,
        others: 1,
        losses: 1,
        writers: 0,
        broken: None,
    };

    /// A write of many rows, and nothing else.
    const WRITES: Self = Self {
        changes: 0,
        others: 0,
        losses: 0,
        writers: 1,
        ..Self::ALL
    };

    fn reading(&self, world: &World) -> Option<Reading> {
        let mut reading = world.clock.as_ref()?.reading();
        if self.broken == Some(Broken::Floor) {
            reading.floor = 0;
        }
        Some(reading)
    }

    fn write(writer: usize) -> Token {
        Token::numbered(100 + writer as u64)
    }

    fn own() -> Changed {
        Changed::Tags(vec![OWN])
    }

    fn announce(&self, world: &mut World, writer: usize) {
        if self.broken == Some(Broken::Announcement) {
            return;
        }
        self.start_clock(world);
        let write = OpenWrite {
            token: Self::write(writer),
            until_ms: 0,
            changed: Self::own(),
        };
        let clock = world.clock.as_mut().expect("it runs");
        clock.announce(write, 1);
    }

    fn end(&self, world: &mut World, writer: usize) {
        if self.broken == Some(Broken::LateAnnouncement) {
            self.announce(world, writer);
        }
        self.start_clock(world);
        let clock = world.clock.as_mut().expect("it runs");
        let changed = match self.broken {
            Some(Broken::End) => Changed::Tags(Vec::new()),
            _ => Self::own(),
        };
        clock.end(Self::write(writer), &changed, 1);
        world.writers[writer] = Writer::Gone;
        world.least = world.row;
    }

    /// Returns whether a write of many rows concerns the row.
    fn is_open(reading: Option<&Reading>) -> bool {
        reading.is_some_and(|reading| reading.is_open(Some(&[OWN])))
    }

    fn start_clock(&self, world: &mut World) -> Stamp {
        let lost = match self.broken {
            Some(Broken::Incarnation) => 0,
            _ => world.losses,
        };
        let clock = world
            .clock
            .get_or_insert_with(|| TagClock::new(lost.into()));
        clock.reading().now
    }

    fn advance(&self, world: &mut World, tag: Option<Tag>) {
        self.start_clock(world);
        let clock = world.clock.as_mut().expect("it runs");
        match tag {
            Some(tag) => clock.invalidate(&Changed::Tags(vec![tag]), 1),
            None => clock.invalidate(&Changed::All, 1),
        }
    }

    fn answer(&self, world: &mut World, number: usize, row: u8) {
        if self.changes == 0 && self.losses == 0 {
            world.least = world.least.max(row);
        }
        let reader = &mut world.readers[number];
        world.is_stale |= row < reader.least;
        reader.step = Step::Idle;
        reader.left -= 1;
    }

    /// Judges the entry when both answers have come.
    fn judge(&self, world: &mut World, number: usize) {
        let Step::Asking {
            entry: Some(entry),
            clock: Some(clock),
        } = world.readers[number].step.clone()
        else {
            return;
        };
        let Found::Row(meta, row) = entry else {
            world.readers[number].step = Step::Missed(None);
            return;
        };
        if self.broken == Some(Broken::Clock) {
            return self.answer(world, number, row);
        }
        if Self::is_open(clock.as_ref()) {
            world.met.open = true;
            return self.answer(world, number, world.row);
        }
        match judge(meta.stamp, clock.as_ref()) {
            Verdict::Current => {
                world.met.equal = true;
                self.answer(world, number, row);
            }
            Verdict::Unclear => world.readers[number].step = Step::Comparing(meta, row),
            Verdict::Outdated => {
                let has_clock = clock.as_ref().is_some_and(|clock| {
                    meta.stamp
                        .is_some_and(|stamp| stamp.incarnation == clock.now.incarnation)
                });
                world.met.below |= has_clock;
                world.met.lost |= !has_clock;
                world.readers[number].step = Step::Missed(Some(meta.lease.token));
            }
        }
    }

    fn compare(&self, world: &mut World, number: usize) {
        let Step::Comparing(meta, row) = world.readers[number].step else {
            return;
        };
        let reading = self.reading(world);
        let marks = world.clock.as_ref().map(|clock| clock.marks(&[OWN]));
        let marks = marks.unwrap_or_default();
        match judge_marks(meta.stamp, reading.as_ref(), &marks) {
            Verdict::Current => {
                world.met.compared = true;
                let now = reading.expect("an entry is current by a clock").now;
                world.readers[number].restamp = Some((meta.lease.token, now));
                self.answer(world, number, row);
            }
            Verdict::Unclear | Verdict::Outdated => {
                world.met.outdated = true;
                world.readers[number].step = Step::Missed(Some(meta.lease.token));
            }
        }
    }

    fn acquire(&self, world: &mut World, number: usize) {
        let Step::Missed(over) = world.readers[number].step else {
            return;
        };
        let left = world.readers[number].left;
        let token = Token::numbered(10 * (number as u64 + 1) + u64::from(left));
        let granted = apply(&mut world.key, |key| {
            state::acquire_over(key.as_ref(), lease(token, 0), SHORT_MS, over)
        });
        if granted {
            world.readers[number].step = Step::Leased(token);
        } else {
            // The cache is bypassed.
            self.answer(world, number, world.row);
        }
    }

    fn load(&self, world: &mut World, number: usize) {
        let (token, reading) = match world.readers[number].step.clone() {
            Step::Stamped(token, reading) => (token, Some(reading)),
            Step::Leased(token) => (token, None),
            _ => return,
        };
        let row = world.row;
        world.readers[number].unfilled = Some(Unfilled {
            token,
            stamp: reading.as_ref().map(|reading| reading.now),
            row,
            least: world.least,
            is_open: Self::is_open(reading.as_ref()),
        });
        self.answer(world, number, row);
    }

    fn fill(&self, world: &mut World, number: usize) {
        let Some(unfilled) = world.readers[number].unfilled.take() else {
            return;
        };
        if unfilled.is_open && self.broken != Some(Broken::FillOpen) {
            world.met.unfilled = true;
            apply(&mut world.key, |key| {
                state::release(key.as_ref(), unfilled.token)
            });
            return;
        }
        let stamp = match unfilled.stamp {
            Some(stamp) => stamp,
            None => self.start_clock(world),
        };
        world.met.late |= world.least > unfilled.least;
        let meta = Meta {
            lease: lease(unfilled.token, 0),
            loaded_at_ms: 0,
            stamp: Some(stamp),
        };
        let entry = State::Value(meta, unfilled.row);
        apply(&mut world.key, |key| {
            state::fill(key.as_ref(), unfilled.token, entry, LONG_MS, SHORT_MS)
        });
    }

    fn restamp(&self, world: &mut World, number: usize) {
        let Some((token, compared_at)) = world.readers[number].restamp.take() else {
            return;
        };
        let stamp = match (self.broken, &world.clock) {
            (Some(Broken::Restamp), Some(clock)) => clock.reading().now,
            _ => compared_at,
        };
        let done = apply(&mut world.key, |key| {
            state::restamp(key.as_ref(), token, stamp)
        });
        world.met.restamped |= done;
    }
}

impl Model for Tags {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let reader = Reader {
            left: self.rounds,
            step: Step::Idle,
            least: 0,
            unfilled: None,
            restamp: None,
        };
        vec![World {
            row: 0,
            least: 0,
            clock: None,
            key: None,
            readers: vec![reader; self.readers],
            writers: vec![Writer::Idle; self.writers],
            changes: 0,
            others: 0,
            losses: 0,
            is_stale: false,
            met: Met::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (number, reader) in world.readers.iter().enumerate() {
            match &reader.step {
                // The token of an earlier load must not be used twice.
                Step::Idle if reader.left > 0 && reader.unfilled.is_none() => {
                    actions.push(Action::Call(number));
                }
                Step::Idle => {}
                Step::Asking { entry, clock } => {
                    if entry.is_none() {
                        actions.push(Action::Entry(number));
                    }
                    if clock.is_none() {
                        actions.push(Action::Clock(number));
                    }
                }
                Step::Comparing(..) => actions.push(Action::Compare(number)),
                Step::Missed(_) => actions.push(Action::Acquire(number)),
                Step::Leased(_) if self.broken == Some(Broken::LateStamp) => {
                    actions.push(Action::Load(number));
                }
                Step::Leased(_) => actions.push(Action::Stamp(number)),
                Step::Stamped(..) => actions.push(Action::Load(number)),
            }
            if reader.unfilled.is_some() {
                actions.push(Action::Fill(number));
            }
            if reader.restamp.is_some() {
                actions.push(Action::Restamp(number));
            }
        }
        for (number, writer) in world.writers.iter().enumerate() {
            match writer {
                Writer::Idle => actions.push(Action::Announce(number)),
                Writer::Announced => actions.extend([Action::Commit(number), Action::Die(number)]),
                Writer::Committed => actions.extend([Action::End(number), Action::Die(number)]),
                Writer::Dead { committed: false } => {
                    actions.extend([Action::Commit(number), Action::Forget(number)]);
                }
                Writer::Dead { committed: true } => actions.push(Action::Forget(number)),
                Writer::Gone => {}
            }
        }
        if world.changes < self.changes {
            actions.push(Action::Change);
        }
        if self.changes > 0 && world.row > world.least {
            actions.extend([Action::Invalidate, Action::InvalidateAll]);
        }
        if world.others < self.others {
            actions.push(Action::InvalidateOther);
        }
        if world.losses < self.losses && world.clock.is_some() {
            actions.push(Action::Lose);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Call(number) => {
                world.readers[number].least = world.least;
                world.readers[number].step = Step::Asking {
                    entry: None,
                    clock: None,
                };
            }
            Action::Entry(number) => {
                let state = world.key.as_ref().map(|slot| &slot.state);
                let found = match state::lookup(state, identity(0)) {
                    Lookup::Value(meta, row) => Found::Row(meta, *row),
                    _ => Found::Nothing,
                };
                if let Step::Asking { entry, .. } = &mut world.readers[number].step {
                    *entry = Some(found);
                }
                self.judge(&mut world, number);
            }
            Action::Clock(number) => {
                let reading = self.reading(&world);
                if let Step::Asking { clock, .. } = &mut world.readers[number].step {
                    *clock = Some(reading);
                }
                self.judge(&mut world, number);
            }
            Action::Compare(number) => self.compare(&mut world, number),
            Action::Acquire(number) => self.acquire(&mut world, number),
            Action::Stamp(number) => {
                self.start_clock(&mut world);
                let reading = self.reading(&world);
                if let (Step::Leased(token), Some(reading)) =
                    (world.readers[number].step.clone(), reading)
                {
                    world.readers[number].step = Step::Stamped(token, reading);
                }
            }
            Action::Load(number) => self.load(&mut world, number),
            Action::Fill(number) => self.fill(&mut world, number),
            Action::Restamp(number) => self.restamp(&mut world, number),
            Action::Change => {
                world.changes += 1;
                world.row += 1;
            }
            Action::Invalidate | Action::InvalidateAll => {
                let tag = (action == Action::Invalidate).then_some(OWN);
                self.advance(&mut world, tag);
                world.least = world.row;
            }
            Action::InvalidateOther => {
                world.others += 1;
                self.advance(&mut world, Some(OTHER));
            }
            Action::Lose => {
                world.losses += 1;
                world.clock = None;
            }
            Action::Announce(writer) => {
                if self.broken != Some(Broken::LateAnnouncement) {
                    self.announce(&mut world, writer);
                }
                world.writers[writer] = Writer::Announced;
            }
            Action::Commit(writer) => {
                world.row += 1;
                world.writers[writer] = match world.writers[writer] {
                    Writer::Dead { .. } => Writer::Dead { committed: true },
                    _ => Writer::Committed,
                };
            }
            Action::End(writer) => self.end(&mut world, writer),
            Action::Die(writer) => {
                let committed = world.writers[writer] == Writer::Committed;
                world.writers[writer] = Writer::Dead { committed };
            }
            Action::Forget(writer) => {
                world.writers[writer] = Writer::Gone;
                if let Some(clock) = &mut world.clock {
                    // Nothing else of it is left.
                    clock.forget(Self::write(writer));
                }
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let met = |claim, is_met: fn(&Self, &World) -> bool| Property::sometimes(claim, is_met);
        let mut all = vec![
            Property::always(FRESH, |_, world: &World| !world.is_stale),
            met(EQUAL, |_, world| world.met.equal),
            met(OUTDATED, |_, world| world.met.outdated),
            met(LATE, |_, world| world.met.late),
        ];
        if self.others > 0 {
            all.extend([
                met(COMPARED, |_, world| world.met.compared),
                met(BELOW, |_, world| world.met.below),
                met(RESTAMPED, |_, world| world.met.restamped),
            ]);
        }
        if self.losses > 0 {
            all.push(met(LOST, |_, world| world.met.lost));
        }
        if self.writers > 0 {
            all.extend([
                met(OPEN, |_, world| world.met.open),
                met(UNFILLED, |_, world| world.met.unfilled),
            ]);
        }
        all
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(reader) => write!(f, "R{reader} calls"),
            Self::Entry(reader) => write!(f, "R{reader} gets the entry"),
            Self::Clock(reader) => write!(f, "R{reader} gets the clock"),
            Self::Compare(reader) => write!(f, "R{reader} compares the tag"),
            Self::Acquire(reader) => write!(f, "R{reader} asks for the lease"),
            Self::Stamp(reader) => write!(f, "R{reader} takes its stamp"),
            Self::Load(reader) => write!(f, "R{reader} reads the row"),
            Self::Fill(reader) => write!(f, "R{reader} fills"),
            Self::Restamp(reader) => write!(f, "R{reader} stamps the entry anew"),
            Self::Change => f.write_str("the row is changed"),
            Self::Invalidate => f.write_str("its tag is invalidated"),
            Self::InvalidateAll => f.write_str("all rows are invalidated"),
            Self::InvalidateOther => f.write_str("another tag is invalidated"),
            Self::Lose => f.write_str("the clock is lost"),
            Self::Announce(writer) => write!(f, "W{writer} announces itself"),
            Self::Commit(writer) => write!(f, "W{writer} commits"),
            Self::End(writer) => write!(f, "W{writer} ends"),
            Self::Die(writer) => write!(f, "W{writer} dies"),
            Self::Forget(writer) => write!(f, "W{writer} is forgotten"),
        }
    }
}

#[test]
fn nothing_from_before_an_invalidation_is_served_after_it() {
    let model = Tags {
        others: if wide() { 2 } else { 1 },
        ..Tags::ALL
    };
    holds("tags", model, 50_000);
}

#[test]
fn what_changes_twice_is_invalidated_twice() {
    let model = Tags {
        changes: 2,
        ..Tags::ALL
    };
    let model = match wide() {
        true => model,
        false => Tags {
            readers: 1,
            rounds: 3,
            ..model
        },
    };
    holds("tags, two changes", model, 10_000);
}

#[test]
fn writes_of_many_rows_are_linearizable_with_reads() {
    let model = Tags {
        writers: if wide() { 2 } else { 1 },
        ..Tags::WRITES
    };
    holds("a write of many rows", model, 2_000);
    let model = Tags {
        readers: 1,
        writers: 2,
        ..Tags::WRITES
    };
    holds("two writes of many rows", model, 500);
}

#[test]
fn a_lost_clock_hides_no_write_of_many_rows() {
    let model = Tags {
        losses: 1,
        ..Tags::WRITES
    };
    holds("a write of many rows, the clock is lost", model, 2_000);
}

fn writes_without(broken: Broken) -> Tags {
    Tags {
        broken: Some(broken),
        ..Tags::WRITES
    }
}

#[test]
fn a_write_of_many_rows_that_is_not_announced_is_not_seen() {
    let model = writes_without(Broken::Announcement);
    breaks("many rows, not announced", &model, FRESH);
}

#[test]
fn a_write_of_many_rows_that_is_announced_late_is_not_seen() {
    let model = writes_without(Broken::LateAnnouncement);
    breaks("many rows, announced late", &model, FRESH);
}

#[test]
fn a_row_that_is_filled_while_a_write_is_open_goes_stale() {
    let model = writes_without(Broken::FillOpen);
    breaks("filled while a write is open", &model, FRESH);
}

#[test]
fn the_end_of_a_write_of_many_rows_is_needed_when_the_clock_was_lost() {
    let model = Tags {
        losses: 1,
        ..writes_without(Broken::End)
    };
    breaks("an end that invalidates nothing", &model, FRESH);
}

fn without(broken: Broken) -> Tags {
    Tags {
        broken: Some(broken),
        ..Tags::ALL
    }
}

#[test]
fn a_clock_that_is_read_after_the_row_lets_it_be_served() {
    breaks(
        "the clock is read after the load",
        &without(Broken::LateStamp),
        FRESH,
    );
}

#[test]
fn a_stamp_of_later_than_the_comparison_lets_an_outdated_row_be_served() {
    breaks(
        "stamped anew without comparing",
        &without(Broken::Restamp),
        FRESH,
    );
}

#[test]
fn a_lost_clock_that_is_believed_lets_an_outdated_row_be_served() {
    breaks("a lost clock goes on", &without(Broken::Incarnation), FRESH);
}

#[test]
fn a_floor_that_is_ignored_lets_an_outdated_row_be_served() {
    breaks("the floor is ignored", &without(Broken::Floor), FRESH);
}

#[test]
fn entries_that_are_not_compared_with_the_clock_are_outdated() {
    breaks("no look at the clock", &without(Broken::Clock), FRESH);
}
