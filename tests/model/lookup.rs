//! Lookups: the key of a value holds the ids of the rows that have it, beside rows that move from value to value.
//!
//! The key of a lookup obeys the rules of any key, which `entry` checks. This model is about what the entries mean together.
//!
//! 1. A reader asks for the ids of a value. After a miss it takes the lease, reads the ids, and fills, at any later time.
//! 2. It reads the rows one by one, and drops those that do not have the value. A unique lookup then starts again.
//! 3. A writer places its intent at the key of the value that its row gets, and not at that of the value that it leaves. Then
//!    it commits, or finds that the value is taken, and ends. It may die.
//!
//! A read of a row returns the committed one, because `entry` shows that. The claims are about what a caller may be told: not a
//! row that never had the value during the call, no absence of a row that had it all the time.

use std::fmt;

use larder::{state, token::Token};
use stateright::{Model, Property};

use crate::{
    check::{Claim, breaks, holds, wide},
    store::{Key, LONG_MS, SHORT_MS, apply, entry, is_writing, lease, served},
};

const ROWS: usize = 2;
/// The values `a` and `b`, and `A`, which a folding collation does not tell from `a`.
const VALUES: usize = 3;
const A: u8 = 0;
const B: u8 = 1;
const CAPITAL_A: u8 = 2;

/// An answer has no row that did not have the value at some moment of the call.
const HAD: Claim = "a row that is returned had the value";
/// An answer misses no row that had the value during the whole call.
const MISSED: Claim = "a row that has the value all the time is returned";
/// A unique lookup answers what was true at one moment of the call.
const MOMENT: Claim = "a unique lookup is right at some moment";

const HIT: Claim = "ids are found in the cache";
const ABSENCE: Claim = "an absence is found in the cache";
const LEFT: Claim = "a row has left the ids that a reader has";
const LATE: Claim = "a fill comes too late";

/// The mechanism that a mutant leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// Rows are not compared with the value.
    Check,
    /// The value that a row gets is not announced.
    NewValue,
    /// It is announced after the commit.
    Late,
    /// The statement compares with a collation that folds, and the keys do not.
    Folding,
}

/// What a writer does to a row: the value that it gets.
#[derive(Clone, Copy, Debug)]
struct Write {
    row: usize,
    value: Option<u8>,
}

#[derive(Clone, Debug)]
struct Lookups {
    is_unique: bool,
    /// The value that each reader asks for.
    readers: &'static [u8],
    rounds: u8,
    writes: &'static [Write],
    crashes: bool,
    drops: bool,
    broken: Option<Broken>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// The value of each row, or `None` if it does not exist.
    rows: [Option<u8>; ROWS],
    /// The keys of the values. Ids are a set of bits.
    keys: [Key; VALUES],
    readers: Vec<Reader>,
    writers: Vec<Writer>,
    /// An answer that was given and contradicts a claim.
    had: bool,
    missed: bool,
    moment: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reader {
    /// How many calls are left, this one included.
    left: u8,
    step: Step,
    /// The ids of a load that are not filled yet.
    unfilled: Option<u8>,
    /// The rows that had the value at some moment of the call, and those that had it all the time.
    some: u8,
    all: u8,
    /// Which sets of rows had the value at some moment: a bit for each set.
    moments: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    Asking,
    Leased,
    /// Has ids, has read the rows below `next`, and found these.
    Reading {
        ids: u8,
        next: usize,
        found: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Announced,
    /// Committed, or refused.
    Decided,
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Call(usize),
    Ask(usize),
    Load(usize),
    Fill(usize),
    Row(usize),
    Begin(usize),
    Commit(usize),
    End(usize),
    Crash(usize),
    Drop(usize),
    Expire(usize),
}

impl Lookups {
    const UNIQUE: Self = Self {
        is_unique: true,
        readers: &[A, A],
        rounds: 2,
        // The second takes the value that the first leaves.
        writes: &[
            Write {
                row: 0,
                value: Some(B),
            },
            Write {
                row: 1,
                value: Some(A),
            },
        ],
        crashes: true,
        drops: true,
        broken: None,
    };

    const LIST: Self = Self {
        is_unique: false,
        ..Self::UNIQUE
    };

    /// Returns the rows that a statement finds for a value.
    fn select(&self, world: &World, value: u8) -> u8 {
        let folds = self.broken == Some(Broken::Folding);
        let finds = |own: u8| own == value || folds && own == A && value == CAPITAL_A;
        let rows = world.rows.iter().enumerate();
        let found = rows.filter(|(_, own)| own.is_some_and(finds));
        found.map(|(row, _)| 1 << row).sum()
    }

    fn token(reader: usize, left: u8) -> Token {
        Token::numbered(10 * (reader as u64 + 1) + u64::from(left))
    }

    fn intent(writer: usize) -> Token {
        Token::numbered(100 + writer as u64)
    }

    /// Records what is true now for all calls under way.
    fn observe(&self, world: &mut World) {
        for number in 0..world.readers.len() {
            if world.readers[number].step == Step::Idle {
                continue;
            }
            let now = self.select(world, self.readers[number]);
            let reader = &mut world.readers[number];
            reader.some |= now;
            reader.all &= now;
            reader.moments |= 1 << now;
        }
    }

    fn answer(&self, world: &mut World, number: usize, found: u8) {
        let reader = &mut world.readers[number];
        let (had, missed) = (found & !reader.some == 0, reader.all & !found != 0);
        let moment = reader.moments & (1 << found) != 0;
        reader.step = Step::Idle;
        reader.left -= 1;
        (reader.some, reader.all, reader.moments) = (0, 0, 0);
        world.had &= had;
        world.missed |= missed;
        world.moment &= moment || !self.is_unique;
    }

    fn read_row(&self, world: &mut World, number: usize) {
        let Step::Reading { ids, next, found } = world.readers[number].step else {
            return;
        };
        let row = (next..ROWS).find(|row| ids & (1 << row) != 0);
        let Some(row) = row else {
            return self.answer(world, number, found);
        };
        let value = self.readers[number];
        let has_value = self.select(world, value) & (1 << row) != 0;
        let exists = world.rows[row].is_some();
        let is_taken = has_value || exists && self.broken == Some(Broken::Check);
        if !is_taken && self.is_unique {
            // The ids are dropped and loaded again.
            let key = &mut world.keys[usize::from(value)];
            apply(key, |key| state::invalidate(key.as_ref()));
            world.readers[number].step = Step::Asking;
            return;
        }
        let found = if is_taken { found | 1 << row } else { found };
        world.readers[number].step = Step::Reading {
            ids,
            next: row + 1,
            found,
        };
    }

    fn ask(&self, world: &mut World, number: usize) {
        let value = self.readers[number];
        let wanted = lease(Self::token(number, world.readers[number].left), 0);
        let key = &mut world.keys[usize::from(value)];
        let hit = served(key, 0);
        let granted = apply(key, |key| state::acquire(key.as_ref(), wanted, SHORT_MS));
        world.readers[number].step = match hit {
            _ if granted => Step::Leased,
            Some(ids) => reading(ids.unwrap_or(0)),
            // A read that bypasses the cache.
            None => reading(self.select(world, value)),
        };
    }

    fn announce(&self, world: &mut World, writer: usize) {
        let Write { value, .. } = self.writes[writer];
        if let Some(value) = value.filter(|_| self.broken != Some(Broken::NewValue)) {
            let key = &mut world.keys[usize::from(value)];
            apply(key, |key| {
                state::begin(key.as_ref(), Self::intent(writer), SHORT_MS)
            });
        }
    }

    fn commit(&self, world: &mut World, writer: usize) {
        let Write { row, value } = self.writes[writer];
        let mut others = world.rows.iter().enumerate();
        let is_taken = others.any(|(other, own)| other != row && value.is_some() && *own == value);
        if !(self.is_unique && is_taken) {
            world.rows[row] = value;
        }
        world.writers[writer] = Writer::Decided;
        self.observe(world);
    }

    fn end(&self, world: &mut World, writer: usize) {
        world.writers[writer] = Writer::Gone;
        let Some(value) = self.writes[writer].value else {
            return;
        };
        if self.broken == Some(Broken::NewValue) {
            return;
        }
        let key = &mut world.keys[usize::from(value)];
        apply(key, |key| {
            state::end(key.as_ref(), Self::intent(writer), None, LONG_MS)
        });
    }
}

fn reading(ids: u8) -> Step {
    Step::Reading {
        ids,
        next: 0,
        found: 0,
    }
}

impl Model for Lookups {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let reader = Reader {
            left: self.rounds,
            step: Step::Idle,
            unfilled: None,
            some: 0,
            all: 0,
            moments: 0,
        };
        vec![World {
            rows: [Some(A), None],
            keys: Default::default(),
            readers: vec![reader; self.readers.len()],
            writers: vec![Writer::Idle; self.writes.len()],
            had: true,
            missed: false,
            moment: true,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (number, reader) in world.readers.iter().enumerate() {
            match reader.step {
                Step::Idle if reader.left > 0 && reader.unfilled.is_none() => {
                    actions.push(Action::Call(number));
                }
                Step::Idle => {}
                // The token of an earlier load must not be used twice.
                Step::Asking if reader.unfilled.is_none() => actions.push(Action::Ask(number)),
                Step::Asking => {}
                Step::Leased => actions.push(Action::Load(number)),
                Step::Reading { .. } => actions.push(Action::Row(number)),
            }
            if reader.unfilled.is_some() {
                actions.push(Action::Fill(number));
            }
        }
        for (number, writer) in world.writers.iter().enumerate() {
            match writer {
                Writer::Idle => actions.push(Action::Begin(number)),
                Writer::Announced => actions.push(Action::Commit(number)),
                Writer::Decided => actions.push(Action::End(number)),
                Writer::Gone => {}
            }
            if self.crashes && matches!(writer, Writer::Announced | Writer::Decided) {
                actions.push(Action::Crash(number));
            }
        }
        let is_busy = |writer: &Writer| matches!(writer, Writer::Announced | Writer::Decided);
        for (number, key) in world.keys.iter().enumerate() {
            if self.drops && key.is_some() && !is_writing(key) {
                actions.push(Action::Drop(number));
            }
            // A living writer renews its intent.
            if is_writing(key) && !world.writers.iter().any(is_busy) {
                actions.push(Action::Expire(number));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Call(number) => {
                let now = self.select(&world, self.readers[number]);
                let reader = &mut world.readers[number];
                (reader.some, reader.all, reader.moments) = (now, now, 1 << now);
                reader.step = Step::Asking;
            }
            Action::Ask(number) => self.ask(&mut world, number),
            Action::Load(number) => {
                let ids = self.select(&world, self.readers[number]);
                world.readers[number].unfilled = Some(ids);
                world.readers[number].step = reading(ids);
            }
            Action::Fill(number) => {
                let reader = &mut world.readers[number];
                let ids = reader.unfilled.take()?;
                // The call may have ended since.
                let left = reader.left + u8::from(reader.step == Step::Idle);
                let key = &mut world.keys[usize::from(self.readers[number])];
                let entry = entry((ids != 0).then_some(ids), 0);
                apply(key, |key| {
                    state::fill(
                        key.as_ref(),
                        Self::token(number, left),
                        entry,
                        LONG_MS,
                        SHORT_MS,
                    )
                });
            }
            Action::Row(number) => self.read_row(&mut world, number),
            Action::Begin(writer) => {
                if self.broken != Some(Broken::Late) {
                    self.announce(&mut world, writer);
                }
                world.writers[writer] = Writer::Announced;
            }
            Action::Commit(writer) => self.commit(&mut world, writer),
            Action::End(writer) => {
                if self.broken == Some(Broken::Late) {
                    self.announce(&mut world, writer);
                }
                self.end(&mut world, writer);
            }
            Action::Crash(writer) => world.writers[writer] = Writer::Gone,
            Action::Drop(key) | Action::Expire(key) => world.keys[key] = None,
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(HAD, |_, world: &World| world.had),
            Property::always(MISSED, |_, world: &World| !world.missed),
            Property::always(MOMENT, |_, world: &World| world.moment),
            Property::sometimes(HIT, |model: &Self, world: &World| {
                model.is_served(world, |ids| ids.is_some())
            }),
            Property::sometimes(ABSENCE, |model: &Self, world: &World| {
                model.is_served(world, |ids| ids.is_none())
            }),
            Property::sometimes(LEFT, |model: &Self, world: &World| {
                world.readers.iter().zip(model.readers).any(|(reader, value)| {
                    matches!(reader.step, Step::Reading { ids, .. } if ids & !model.select(world, *value) != 0)
                })
            }),
            Property::sometimes(LATE, |model: &Self, world: &World| {
                world
                    .readers
                    .iter()
                    .zip(model.readers)
                    .any(|(reader, value)| {
                        reader.unfilled.is_some() && is_writing(&world.keys[usize::from(*value)])
                    })
            }),
        ]
    }
}

impl Lookups {
    /// Returns whether a reader that asks next is served such ids.
    fn is_served(&self, world: &World, wanted: fn(Option<u8>) -> bool) -> bool {
        let mut readers = world.readers.iter().zip(self.readers);
        readers.any(|(reader, value)| {
            let key = &world.keys[usize::from(*value)];
            reader.step == Step::Asking && served(key, 0).is_some_and(wanted)
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(reader) => write!(f, "R{reader} calls"),
            Self::Ask(reader) => write!(f, "R{reader} asks the store for ids"),
            Self::Load(reader) => write!(f, "R{reader} reads the ids"),
            Self::Fill(reader) => write!(f, "R{reader} fills"),
            Self::Row(reader) => write!(f, "R{reader} reads the next row"),
            Self::Begin(writer) => write!(f, "W{writer} begins"),
            Self::Commit(writer) => write!(f, "W{writer} commits"),
            Self::End(writer) => write!(f, "W{writer} ends"),
            Self::Crash(writer) => write!(f, "W{writer} dies"),
            Self::Drop(key) => write!(f, "the entry of value {key} expires"),
            Self::Expire(key) => write!(f, "the intents at value {key} expire"),
        }
    }
}

#[test]
fn unique_lookups_find_what_has_the_value_and_hide_nothing() {
    let model = Lookups {
        rounds: if wide() { 3 } else { 2 },
        ..Lookups::UNIQUE
    };
    holds("unique lookups", model, 50_000);
}

#[test]
fn a_value_moves_from_a_deleted_row_to_another() {
    const WRITES: &[Write] = &[
        Write {
            row: 0,
            value: None,
        },
        Write {
            row: 1,
            value: Some(A),
        },
    ];
    let model = Lookups {
        writes: WRITES,
        ..Lookups::UNIQUE
    };
    holds("unique lookups, a delete and an insert", model, 50_000);
}

#[test]
fn lists_miss_no_row_and_have_none_that_has_left() {
    let model = Lookups {
        rounds: if wide() { 3 } else { 2 },
        ..Lookups::LIST
    };
    holds("lists", model, 50_000);
}

/// Returns the models without one mechanism.
fn without(broken: Broken) -> [Lookups; 2] {
    [Lookups::UNIQUE, Lookups::LIST].map(|model| Lookups {
        broken: Some(broken),
        ..model
    })
}

#[test]
fn rows_that_are_not_compared_are_returned_without_the_value() {
    for model in without(Broken::Check) {
        breaks("rows are not compared", &model, HAD);
    }
}

#[test]
fn values_that_are_not_announced_hide_their_rows() {
    for model in without(Broken::NewValue) {
        breaks("the new value is not announced", &model, MISSED);
    }
    breaks(
        "the new value is not announced",
        &without(Broken::NewValue)[0],
        MOMENT,
    );
}

#[test]
fn values_that_are_announced_after_the_commit_hide_their_rows() {
    for model in without(Broken::Late) {
        breaks("the new value is announced late", &model, MISSED);
    }
}

#[test]
fn absences_under_a_folding_collation_hide_their_rows() {
    for model in without(Broken::Folding) {
        let model = Lookups {
            readers: &[CAPITAL_A, A],
            ..model
        };
        breaks("the collation folds", &model, MISSED);
    }
}
