//! A write that announces itself at the clock of a second entity, beside the key of its own row: that is what `queries`,
//! `on_delete` and `same_table` do.
//!
//! The key, the clock and the judgement of an entry are the real ones.
//!
//! 1. A write announces itself at the key of its row and at the clock, in any order. Then it commits, which changes both entities
//!    at once. Then it ends at both, in any order, and returns.
//! 2. Its process may die at any time. A commit that was sent may still come, until its announcements are forgotten.
//! 3. Any of these four commands may fail: it does not arrive, or its answer does not. If the write is `available`, it goes on, and
//!    its process records a repair for what it could not end. If it is `consistent`, it is refused unless both announcements
//!    were acknowledged.
//! 4. Readers of the row ask, load and fill. Readers of the second entity ask for the entry and for the clock, and load and fill
//!    under a stamp, at any later time.
//! 5. The clock may be lost at any time. The next load or command begins another one.
//!
//! The claims: a read of either entity that begins after the write has returned is not older than the write. If the clock is not
//! lost, and no write is executed without its announcements, a read is also not older than a read before it, of whichever
//! entity. If it is, this holds for the reads of the process that wrote, and every old entry has a repair.
//!
//! Not here: other tags of the second entity, and its entries that are stamped anew (`tags`).

use std::fmt;

use larder::{
    state::{self, Lookup, Meta, State},
    tags::{Changed, OpenWrite, Reading, Stamp, Tag, TagClock, Verdict, judge, judge_marks},
    token::Token,
};
use stateright::{Model, Property};

use crate::{
    check::{Claim, breaks, holds, wide},
    store::{Key, LONG_MS, SHORT_MS, apply, entry, identity, is_writing, lease, served},
};

const FRESH: Claim = "a read of either entity is not older than it must be";
const OWED: Claim = "an old entry of either entity always has a repair";

const BOTH: Claim = "what the write has changed is served from the cache";
const OPEN: Claim = "an entry of the second entity is not served because the write is open";
const UNFILLED: Claim = "an entry of the second entity is not filled because the write was open";
const LATE: Claim =
    "a load of the second entity from before the announcement is filled after the commit";
const OUTDATED: Claim = "an entry of the second entity is outdated by the write";
const HALF: Claim = "the write is announced at one of both, and its process dies";
const COMMITTED_DEAD: Claim = "the commit of a dead process comes";
const REFUSED: Claim = "a write is refused because of its second announcement";
const REPAIRED: Claim = "a repair of the clock is delivered";
const LOST: Claim = "the clock is lost while the write is open";

/// The tag of the entry of the second entity.
const OWN: Tag = Tag(1);
const WRITE: Token = Token([100; 16]);

/// The mechanism that a mutant leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The write is not announced at the clock, and ends there.
    Announcement,
    /// It is announced at the clock after its commit.
    LateAnnouncement,
    /// It is announced at the clock, and does not end there.
    End,
    /// Its end at the clock marks nothing.
    Mark,
    /// An entry of the second entity is filled although the write was open when its load began.
    FillOpen,
    /// A write whose outcome is unknown ends at the clock at once.
    Unknown,
    /// Only the key is repaired, whatever could not be ended.
    Repair,
    /// The process serves entries of the second entity although it owes a repair of their clock.
    Bypass,
    /// A `consistent` write is executed if it is announced at its key.
    Refusal,
}

#[derive(Clone, Debug)]
struct Beside {
    /// Reads of the row.
    rounds: u8,
    /// Reads of the second entity, by reader.
    rounds_of_second: &'static [u8],
    /// Whether the process of the write may die.
    dies: bool,
    /// How many commands may fail.
    failures: u8,
    /// Whether commands at the key may be among them.
    fails_at_key: bool,
    /// The write is refused if it is not announced everywhere.
    is_consistent: bool,
    losses: u8,
    broken: Option<Broken>,
}

/// Where a write is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Key,
    Clock,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Done,
    /// It does not arrive.
    Lost,
    /// It arrives, and its answer does not.
    Unheard,
}

/// Something at the key and at the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Pair<T> {
    key: T,
    clock: T,
}

impl<T> Pair<T> {
    fn at(&mut self, place: Place) -> &mut T {
        match place {
            Place::Key => &mut self.key,
            Place::Clock => &mut self.clock,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    /// Announces itself. Says where it has tried, and whether that was acknowledged.
    Announcing(Pair<Option<bool>>),
    /// Ends. Says where it has, and whether it was committed.
    Ending(Pair<bool>, bool),
    /// Dead. Says whether its commit may still come.
    Dead(bool),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// The version of both entities in the database.
    row: u8,
    /// What a read that begins now must return, at least.
    least: u8,
    key: Key,
    clock: Option<TagClock>,
    /// The entry of the second entity.
    second: Key,
    reader: Reader,
    readers_of_second: Vec<SecondReader>,
    writer: Writer,
    /// What the process of the write could not end.
    owes: Pair<bool>,
    failures: u8,
    losses: u8,
    /// A read that returned an older row than it had to.
    is_stale: bool,
    met: Met,
}

/// Situations that have been met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Met {
    /// The entities that were served new rows.
    served: Pair<bool>,
    open: bool,
    unfilled: bool,
    late: bool,
    outdated: bool,
    half: bool,
    committed_dead: bool,
    refused: bool,
    repaired: bool,
    lost: bool,
}

/// A reader of the row, in the process of the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reader {
    left: u8,
    least: u8,
    step: ReaderStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ReaderStep {
    Idle,
    Leased,
    /// Has answered, and fills this row.
    Loaded(u8),
}

/// A reader of the second entity. The first one is in the process of the write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SecondReader {
    left: u8,
    least: u8,
    step: Step,
    unfilled: Option<Unfilled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Unfilled {
    token: Token,
    stamp: Stamp,
    row: u8,
    /// The write was open when the load began.
    is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    /// Has asked for both, and has the answers that have come.
    Asking {
        entry: Option<Option<(Meta, u8)>>,
        clock: Option<Option<Reading>>,
    },
    Comparing(Meta, u8),
    /// Takes the lease, over the entry with this token.
    Missed(Option<Token>),
    Leased(Token),
    /// Has read the clock.
    Stamped(Token, Reading),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Ask,
    Load,
    Fill,
    Call(usize),
    GetEntry(usize),
    GetClock(usize),
    Compare(usize),
    Acquire(usize),
    Stamp(usize),
    LoadSecond(usize),
    FillSecond(usize),
    Announce(Place, Sent),
    Commit,
    Refuse,
    End(Place, Sent),
    Return,
    Die,
    Forget(Place),
    Repair(Place),
    Lose,
}

fn own() -> Changed {
    Changed::Tags(vec![OWN])
}

impl Beside {
    /// A write that is announced at both, and nothing else.
    const WRITE: Self = Self {
        rounds: 1,
        rounds_of_second: &[1, 1],
        dies: false,
        failures: 0,
        fails_at_key: false,
        is_consistent: false,
        losses: 0,
        broken: None,
    };

    /// Commands fail. The write is executed.
    const AVAILABLE: Self = Self {
        failures: 2,
        ..Self::WRITE
    };

    /// A command fails. The write may be refused.
    const CONSISTENT: Self = Self {
        failures: 1,
        is_consistent: true,
        ..Self::AVAILABLE
    };

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Returns whether a write may be executed that the store has not heard of.
    fn is_lenient(&self) -> bool {
        self.failures > 0 && !self.is_consistent
    }

    fn start_clock(world: &mut World) -> &mut TagClock {
        let lost = world.losses;
        world
            .clock
            .get_or_insert_with(|| TagClock::new(lost.into()))
    }

    /// Returns whether a write is open that concerns the second entity.
    fn is_open(reading: Option<&Reading>) -> bool {
        reading.is_some_and(|reading| reading.is_open(Some(&[OWN])))
    }

    fn announce(&self, world: &mut World, place: Place) {
        match place {
            Place::Key => apply(&mut world.key, |key| {
                state::begin(key.as_ref(), WRITE, SHORT_MS)
            }),
            Place::Clock if self.is(Broken::Announcement) || self.is(Broken::LateAnnouncement) => {}
            Place::Clock => Self::announce_at_clock(world),
        }
    }

    fn announce_at_clock(world: &mut World) {
        let write = OpenWrite {
            token: WRITE,
            until_ms: 0,
            changed: own(),
        };
        Self::start_clock(world).announce(write, 1);
    }

    fn end(&self, world: &mut World, place: Place) {
        match place {
            Place::Key => {
                apply(&mut world.key, |key| {
                    state::end(key.as_ref(), WRITE, None, 0)
                });
            }
            Place::Clock if self.is(Broken::End) => {}
            Place::Clock if self.is(Broken::Mark) => Self::start_clock(world).forget(WRITE),
            Place::Clock => {
                if self.is(Broken::LateAnnouncement) {
                    Self::announce_at_clock(world);
                }
                Self::start_clock(world).end(WRITE, &own(), 1);
            }
        }
    }

    /// Returns what a read must return at least that begins now. `is_own`: in the process of the write.
    fn least(&self, world: &World, is_own: bool) -> u8 {
        match self.is_lenient() && !is_own {
            true => 0,
            false => world.least,
        }
    }

    fn answer(&self, world: &mut World, place: Place, least: u8, row: u8, is_hit: bool) {
        world.is_stale |= row < least;
        *world.met.served.at(place) |= is_hit && row > 0;
        if self.losses == 0 && !self.is_lenient() {
            world.least = world.least.max(row);
        }
    }

    fn ask(&self, world: &mut World) {
        world.reader.least = self.least(world, true);
        let hit = served(&world.key, 0).flatten().filter(|_| !world.owes.key);
        let token = Token::numbered(200 + u64::from(world.reader.left));
        let granted = hit.is_none()
            && !world.owes.key
            && apply(&mut world.key, |key| {
                state::acquire(key.as_ref(), lease(token, 0), SHORT_MS)
            });
        if granted {
            world.reader.step = ReaderStep::Leased;
            return;
        }
        world.reader.left -= 1;
        let (least, row) = (world.reader.least, hit.unwrap_or(world.row));
        self.answer(world, Place::Key, least, row, hit.is_some());
    }

    fn fill(world: &mut World) {
        let ReaderStep::Loaded(row) = world.reader.step else {
            return;
        };
        let token = Token::numbered(200 + u64::from(world.reader.left));
        world.reader.step = ReaderStep::Idle;
        world.reader.left -= 1;
        apply(&mut world.key, |key| match world.owes.key {
            true => state::release(key.as_ref(), token),
            false => {
                let entry = entry(Some(row), 0);
                state::fill(key.as_ref(), token, entry, LONG_MS, SHORT_MS)
            }
        });
    }

    fn answer_second(&self, world: &mut World, number: usize, row: u8, is_hit: bool) {
        let reader = &mut world.readers_of_second[number];
        reader.step = Step::Idle;
        reader.left -= 1;
        let least = reader.least;
        self.answer(world, Place::Clock, least, row, is_hit);
    }

    /// Returns whether a reader must neither serve nor fill the second entity.
    fn is_blocked(&self, world: &World, number: usize) -> bool {
        number == 0 && world.owes.clock && !self.is(Broken::Bypass)
    }

    /// Judges the entry of the second entity when both answers have come.
    fn judge(&self, world: &mut World, number: usize) {
        let Step::Asking {
            entry: Some(entry),
            clock: Some(clock),
        } = world.readers_of_second[number].step.clone()
        else {
            return;
        };
        let Some((meta, row)) = entry else {
            world.readers_of_second[number].step = Step::Missed(None);
            return;
        };
        if Self::is_open(clock.as_ref()) {
            world.met.open = true;
            return self.answer_second(world, number, world.row, false);
        }
        match judge(meta.stamp, clock.as_ref()) {
            Verdict::Current => self.answer_second(world, number, row, true),
            Verdict::Unclear => world.readers_of_second[number].step = Step::Comparing(meta, row),
            Verdict::Outdated => {
                world.readers_of_second[number].step = Step::Missed(Some(meta.lease.token));
            }
        }
    }

    fn compare(&self, world: &mut World, number: usize) {
        let Step::Comparing(meta, row) = world.readers_of_second[number].step else {
            return;
        };
        let reading = world.clock.as_ref().map(TagClock::reading);
        let marks = world.clock.as_ref().map(|clock| clock.marks(&[OWN]));
        match judge_marks(meta.stamp, reading.as_ref(), &marks.unwrap_or_default()) {
            Verdict::Current => self.answer_second(world, number, row, true),
            Verdict::Unclear | Verdict::Outdated => {
                world.met.outdated = true;
                world.readers_of_second[number].step = Step::Missed(Some(meta.lease.token));
            }
        }
    }

    fn acquire(&self, world: &mut World, number: usize) {
        let Step::Missed(over) = world.readers_of_second[number].step else {
            return;
        };
        let left = world.readers_of_second[number].left;
        let token = Token::numbered(10 * (number as u64 + 1) + u64::from(left));
        let granted = !self.is_blocked(world, number)
            && apply(&mut world.second, |key| {
                state::acquire_over(key.as_ref(), lease(token, 0), SHORT_MS, over)
            });
        match granted {
            true => world.readers_of_second[number].step = Step::Leased(token),
            false => self.answer_second(world, number, world.row, false),
        }
    }

    fn load_second(&self, world: &mut World, number: usize) {
        let Step::Stamped(token, reading) = world.readers_of_second[number].step.clone() else {
            return;
        };
        let row = world.row;
        world.readers_of_second[number].unfilled = Some(Unfilled {
            token,
            stamp: reading.now,
            row,
            is_open: Self::is_open(Some(&reading)),
        });
        self.answer_second(world, number, row, false);
    }

    fn fill_second(&self, world: &mut World, number: usize) {
        let Some(unfilled) = world.readers_of_second[number].unfilled.take() else {
            return;
        };
        let is_open = unfilled.is_open && !self.is(Broken::FillOpen);
        world.met.unfilled |= is_open;
        if is_open || self.is_blocked(world, number) {
            apply(&mut world.second, |key| {
                state::release(key.as_ref(), unfilled.token)
            });
            return;
        }
        world.met.late |= !unfilled.is_open && unfilled.row < world.row;
        let meta = Meta {
            lease: lease(unfilled.token, 0),
            loaded_at_ms: 0,
            stamp: Some(unfilled.stamp),
        };
        let entry = State::Value(meta, unfilled.row);
        apply(&mut world.second, |key| {
            state::fill(key.as_ref(), unfilled.token, entry, LONG_MS, SHORT_MS)
        });
    }

    /// Returns whether the write may commit now.
    fn may_commit(&self, tried: Pair<Option<bool>>) -> bool {
        let clock = tried.clock == Some(true) || self.is(Broken::Refusal);
        match self.is_consistent {
            true => tried.key == Some(true) && clock,
            false => true,
        }
    }

    /// Does what a failed end is followed by.
    fn remember(&self, world: &mut World, place: Place) {
        let place = match self.broken {
            Some(Broken::Repair) => Place::Key,
            _ => place,
        };
        *world.owes.at(place) = true;
    }

    fn write(&self, world: &mut World, action: Action) {
        match (action, world.writer) {
            (Action::Announce(place, sent), Writer::Announcing(mut tried)) => {
                if sent != Sent::Lost {
                    self.announce(world, place);
                }
                *tried.at(place) = Some(sent == Sent::Done);
                world.writer = Writer::Announcing(tried);
                world.failures += u8::from(sent != Sent::Done);
            }
            (Action::Commit, Writer::Announcing(_)) => {
                world.row += 1;
                world.writer = Writer::Ending(Pair::default(), true);
            }
            (Action::Commit, Writer::Dead(_)) => {
                world.row += 1;
                world.met.committed_dead = true;
                world.writer = Writer::Dead(false);
            }
            (Action::Refuse, Writer::Announcing(tried)) => {
                world.met.refused |= tried.key == Some(true);
                world.writer = Writer::Ending(Pair::default(), false);
            }
            (Action::End(place, sent), Writer::Ending(mut ended, committed)) => {
                if sent != Sent::Lost {
                    self.end(world, place);
                }
                if sent != Sent::Done {
                    self.remember(world, place);
                    world.failures += 1;
                }
                *ended.at(place) = true;
                world.writer = Writer::Ending(ended, committed);
            }
            (Action::Return, Writer::Ending(_, committed)) => {
                if committed {
                    world.least = world.row;
                }
                world.writer = Writer::Gone;
            }
            (Action::Die, Writer::Announcing(tried)) => {
                let both = tried.key.is_some() && tried.clock.is_some();
                world.met.half |= !both && (tried.key.is_some() || tried.clock.is_some());
                // A commit is sent only after both were tried.
                world.writer = Writer::Dead(both && self.may_commit(tried));
                if self.is(Broken::Unknown) && both {
                    self.end(world, Place::Clock);
                }
            }
            (Action::Die, Writer::Ending(..)) => world.writer = Writer::Dead(false),
            _ => {}
        }
    }

    fn actions_of_write(&self, world: &World, actions: &mut Vec<Action>) {
        let send = |actions: &mut Vec<Action>, command: fn(Place, Sent) -> Action, place| {
            actions.push(command(place, Sent::Done));
            if world.failures < self.failures && (place == Place::Clock || self.fails_at_key) {
                actions.push(command(place, Sent::Lost));
                actions.push(command(place, Sent::Unheard));
            }
        };
        match world.writer {
            Writer::Announcing(tried) => {
                if tried.key.is_none() {
                    send(actions, Action::Announce, Place::Key);
                }
                if tried.clock.is_none() {
                    send(actions, Action::Announce, Place::Clock);
                }
                if tried.key.is_some() && tried.clock.is_some() {
                    actions.push(match self.may_commit(tried) {
                        true => Action::Commit,
                        false => Action::Refuse,
                    });
                }
            }
            Writer::Ending(ended, _) => {
                if !ended.key {
                    send(actions, Action::End, Place::Key);
                }
                if !ended.clock {
                    send(actions, Action::End, Place::Clock);
                }
                if ended.key && ended.clock {
                    actions.push(Action::Return);
                }
            }
            Writer::Dead(true) => actions.push(Action::Commit),
            Writer::Dead(false) | Writer::Gone => {}
        }
        let is_alive = matches!(world.writer, Writer::Announcing(_) | Writer::Ending(..));
        if is_alive && self.dies {
            actions.push(Action::Die);
        }
        if !is_alive {
            if is_writing(&world.key) {
                actions.push(Action::Forget(Place::Key));
            }
            let open = world.clock.as_ref().map(TagClock::reading);
            if Self::is_open(open.as_ref()) {
                actions.push(Action::Forget(Place::Clock));
            }
        }
        // The dead repair nothing.
        if !matches!(world.writer, Writer::Dead(_)) {
            for (place, owes) in [
                (Place::Key, world.owes.key),
                (Place::Clock, world.owes.clock),
            ] {
                if owes {
                    actions.push(Action::Repair(place));
                }
            }
        }
    }

    /// Returns whether an old row would be served at a place.
    fn is_old(world: &World, place: Place) -> bool {
        match place {
            Place::Key => served(&world.key, 0)
                .flatten()
                .is_some_and(|row| row < world.row),
            Place::Clock => {
                let state = world.second.as_ref().map(|slot| &slot.state);
                let Lookup::Value(meta, row) = state::lookup(state, identity(0)) else {
                    return false;
                };
                let reading = world.clock.as_ref().map(TagClock::reading);
                let marks = world.clock.as_ref().map(|clock| clock.marks(&[OWN]));
                let verdict = judge_marks(meta.stamp, reading.as_ref(), &marks.unwrap_or_default());
                *row < world.row && !Self::is_open(reading.as_ref()) && verdict == Verdict::Current
            }
        }
    }

    /// Returns whether an old row that would be served will be repaired.
    fn is_owed(world: &World) -> bool {
        let is_ending = |ended: fn(Pair<bool>) -> bool| match world.writer {
            Writer::Ending(pair, _) => !ended(pair),
            _ => false,
        };
        let key = world.owes.key || is_ending(|ended| ended.key);
        let clock = world.owes.clock || is_ending(|ended| ended.clock);
        (key || !Self::is_old(world, Place::Key)) && (clock || !Self::is_old(world, Place::Clock))
    }
}

impl Model for Beside {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let rounds = self.rounds_of_second.iter();
        vec![World {
            row: 0,
            least: 0,
            key: None,
            clock: None,
            second: None,
            reader: Reader {
                left: self.rounds,
                least: 0,
                step: ReaderStep::Idle,
            },
            readers_of_second: rounds
                .map(|&left| SecondReader {
                    left,
                    least: 0,
                    step: Step::Idle,
                    unfilled: None,
                })
                .collect(),
            writer: Writer::Announcing(Pair::default()),
            owes: Pair::default(),
            failures: 0,
            losses: 0,
            is_stale: false,
            met: Met::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        match world.reader.step {
            ReaderStep::Idle if world.reader.left > 0 => actions.push(Action::Ask),
            ReaderStep::Idle => {}
            ReaderStep::Leased => actions.push(Action::Load),
            ReaderStep::Loaded(_) => actions.push(Action::Fill),
        }
        for (number, reader) in world.readers_of_second.iter().enumerate() {
            match &reader.step {
                // The token of an earlier load must not be used twice.
                Step::Idle if reader.left > 0 && reader.unfilled.is_none() => {
                    actions.push(Action::Call(number));
                }
                Step::Idle => {}
                Step::Asking { entry, clock } => {
                    if entry.is_none() {
                        actions.push(Action::GetEntry(number));
                    }
                    if clock.is_none() {
                        actions.push(Action::GetClock(number));
                    }
                }
                Step::Comparing(..) => actions.push(Action::Compare(number)),
                Step::Missed(_) => actions.push(Action::Acquire(number)),
                Step::Leased(_) => actions.push(Action::Stamp(number)),
                Step::Stamped(..) => actions.push(Action::LoadSecond(number)),
            }
            if reader.unfilled.is_some() {
                actions.push(Action::FillSecond(number));
            }
        }
        self.actions_of_write(world, actions);
        if world.losses < self.losses && world.clock.is_some() {
            actions.push(Action::Lose);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Ask => self.ask(&mut world),
            Action::Load => {
                let (least, row) = (world.reader.least, world.row);
                world.reader.step = ReaderStep::Loaded(row);
                self.answer(&mut world, Place::Key, least, row, false);
            }
            Action::Fill => Self::fill(&mut world),
            Action::Call(number) => {
                let least = self.least(&world, number == 0);
                world.readers_of_second[number].least = least;
                world.readers_of_second[number].step = match self.is_blocked(&world, number) {
                    true => Step::Missed(None),
                    false => Step::Asking {
                        entry: None,
                        clock: None,
                    },
                };
            }
            Action::GetEntry(number) => {
                let state = world.second.as_ref().map(|slot| &slot.state);
                let found = match state::lookup(state, identity(0)) {
                    Lookup::Value(meta, row) => Some((meta, *row)),
                    _ => None,
                };
                if let Step::Asking { entry, .. } = &mut world.readers_of_second[number].step {
                    *entry = Some(found);
                }
                self.judge(&mut world, number);
            }
            Action::GetClock(number) => {
                let reading = world.clock.as_ref().map(TagClock::reading);
                if let Step::Asking { clock, .. } = &mut world.readers_of_second[number].step {
                    *clock = Some(reading);
                }
                self.judge(&mut world, number);
            }
            Action::Compare(number) => self.compare(&mut world, number),
            Action::Acquire(number) => self.acquire(&mut world, number),
            Action::Stamp(number) => {
                let reading = Self::start_clock(&mut world).reading();
                if let Step::Leased(token) = world.readers_of_second[number].step {
                    world.readers_of_second[number].step = Step::Stamped(token, reading);
                }
            }
            Action::LoadSecond(number) => self.load_second(&mut world, number),
            Action::FillSecond(number) => self.fill_second(&mut world, number),
            Action::Announce(..)
            | Action::Commit
            | Action::Refuse
            | Action::End(..)
            | Action::Return
            | Action::Die => self.write(&mut world, action),
            Action::Forget(place) => {
                // A commit that has not come by now does not come any more.
                if matches!(world.writer, Writer::Dead(_)) {
                    world.writer = Writer::Dead(false);
                }
                match (place, &mut world.clock) {
                    (Place::Key, _) => world.key = None,
                    (Place::Clock, Some(clock)) => clock.forget(WRITE),
                    (Place::Clock, None) => {}
                }
            }
            Action::Repair(place) => {
                *world.owes.at(place) = false;
                match place {
                    Place::Key => apply(&mut world.key, |key| state::invalidate(key.as_ref())),
                    Place::Clock => {
                        world.met.repaired = true;
                        Self::start_clock(&mut world).invalidate(&Changed::All, 1);
                    }
                }
            }
            Action::Lose => {
                let open = world.clock.as_ref().map(TagClock::reading);
                world.met.lost |= Self::is_open(open.as_ref());
                world.losses += 1;
                world.clock = None;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let met = |claim, is_met: fn(&Self, &World) -> bool| Property::sometimes(claim, is_met);
        let mut all = vec![
            Property::always(FRESH, |_, world: &World| !world.is_stale),
            met(BOTH, |model, world| {
                world.met.served.clock && (world.met.served.key || model.rounds == 1)
            }),
            met(OPEN, |_, world| world.met.open),
            met(UNFILLED, |_, world| world.met.unfilled),
            met(LATE, |_, world| world.met.late),
            met(OUTDATED, |_, world| world.met.outdated),
        ];
        if self.dies {
            all.extend([
                met(HALF, |_, world| world.met.half),
                met(COMMITTED_DEAD, |_, world| world.met.committed_dead),
            ]);
        } else if self.losses == 0 {
            all.push(Property::always(OWED, |_, world: &World| {
                Self::is_owed(world)
            }));
        }
        if self.failures > 0 {
            all.push(met(REPAIRED, |_, world| world.met.repaired));
        }
        if self.failures > 0 && self.is_consistent {
            all.push(met(REFUSED, |_, world| world.met.refused));
        }
        if self.losses > 0 {
            all.push(met(LOST, |_, world| world.met.lost));
        }
        all
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "the key",
            Self::Clock => "the clock",
        })
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "",
            Self::Lost => ", which does not arrive",
            Self::Unheard => ", whose answer does not arrive",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask => f.write_str("R asks the store"),
            Self::Load => f.write_str("R reads the row"),
            Self::Fill => f.write_str("R fills"),
            Self::Call(reader) => write!(f, "S{reader} calls"),
            Self::GetEntry(reader) => write!(f, "S{reader} gets the entry"),
            Self::GetClock(reader) => write!(f, "S{reader} gets the clock"),
            Self::Compare(reader) => write!(f, "S{reader} compares the tag"),
            Self::Acquire(reader) => write!(f, "S{reader} asks for the lease"),
            Self::Stamp(reader) => write!(f, "S{reader} takes its stamp"),
            Self::LoadSecond(reader) => write!(f, "S{reader} reads the database"),
            Self::FillSecond(reader) => write!(f, "S{reader} fills"),
            Self::Announce(place, sent) => write!(f, "W announces itself at {place}{sent}"),
            Self::Commit => f.write_str("W commits"),
            Self::Refuse => f.write_str("W is refused"),
            Self::End(place, sent) => write!(f, "W ends at {place}{sent}"),
            Self::Return => f.write_str("W returns"),
            Self::Die => f.write_str("the process of W dies"),
            Self::Forget(place) => write!(f, "W is forgotten at {place}"),
            Self::Repair(place) => write!(f, "{place} is repaired"),
            Self::Lose => f.write_str("the clock is lost"),
        }
    }
}

/// With larger bounds, there are more reads, and commands at the key fail too.
fn bounds(model: Beside) -> Beside {
    match wide() {
        true => Beside {
            rounds: 2,
            rounds_of_second: &[2, 1],
            fails_at_key: true,
            ..model
        },
        false => model,
    }
}

#[test]
fn reads_of_both_entities_are_linearizable_with_a_write_of_one() {
    holds("beside", bounds(Beside::WRITE), 10_000);
}

#[test]
fn a_process_that_dies_leaves_nothing_old_at_either_entity() {
    let model = Beside {
        dies: true,
        ..Beside::WRITE
    };
    holds("beside, the writer dies", bounds(model), 20_000);
}

#[test]
fn a_lost_clock_hides_no_write_of_the_other_entity() {
    let model = Beside {
        losses: 1,
        ..Beside::WRITE
    };
    holds("beside, the clock is lost", bounds(model), 20_000);
}

#[test]
fn a_process_that_could_not_announce_beside_reads_nothing_older_than_its_write() {
    holds("beside, available", bounds(Beside::AVAILABLE), 20_000);
}

#[test]
fn a_write_that_is_refused_unless_both_have_heard_of_it_is_linearizable() {
    holds("beside, consistent", bounds(Beside::CONSISTENT), 20_000);
}

fn without(broken: Broken, model: &Beside) -> Beside {
    Beside {
        broken: Some(broken),
        ..model.clone()
    }
}

#[test]
fn a_write_that_is_not_announced_beside_is_seen_in_one_entity_only() {
    let model = without(Broken::Announcement, &Beside::WRITE);
    breaks("beside, not announced", &model, FRESH);
}

#[test]
fn a_write_that_is_announced_beside_after_its_commit_is_seen_in_one_entity_only() {
    let model = without(Broken::LateAnnouncement, &Beside::WRITE);
    breaks("beside, announced late", &model, FRESH);
}

#[test]
fn a_write_that_does_not_end_beside_is_missed_when_the_clock_was_lost() {
    for (broken, name) in [
        (Broken::End, "beside, not ended"),
        (Broken::Mark, "beside, ended without a mark"),
    ] {
        let model = Beside {
            losses: 1,
            ..without(broken, &Beside::WRITE)
        };
        breaks(name, &model, FRESH);
    }
}

#[test]
fn a_row_that_is_filled_beside_an_open_write_goes_stale() {
    // Its end would invalidate the entry.
    let model = Beside {
        dies: true,
        ..without(Broken::FillOpen, &Beside::WRITE)
    };
    breaks("beside, filled while the write is open", &model, FRESH);
}

#[test]
fn an_unknown_outcome_that_ends_beside_at_once_is_missed_there() {
    let model = Beside {
        dies: true,
        ..without(Broken::Unknown, &Beside::WRITE)
    };
    breaks("beside, an unknown outcome is ended", &model, FRESH);
}

#[test]
fn a_repair_of_the_key_alone_does_not_repair_the_clock() {
    let model = without(Broken::Repair, &Beside::AVAILABLE);
    breaks("beside, only the key is repaired", &model, FRESH);
    breaks("beside, only the key is repaired", &model, OWED);
}

#[test]
fn an_entry_served_before_the_repair_of_its_clock_loses_the_own_write() {
    let model = without(Broken::Bypass, &Beside::AVAILABLE);
    breaks("beside, served before the repair", &model, FRESH);
}

#[test]
fn a_consistent_write_that_only_its_key_has_heard_of_is_missed_beside() {
    let model = without(Broken::Refusal, &Beside::CONSISTENT);
    breaks("beside, consistent at the key alone", &model, FRESH);
}
