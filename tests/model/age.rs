//! The time to live, and the deadline of an intent, with a clock that each process reads at its own time.
//!
//! In the other models leases and intents may end at any time, which includes every clock. This model counts time, for
//! claims about time. No row is served for longer than its time to live after it was read or committed, although loads and
//! writes take time. And a writer that counts its deadline from before it sent its intent never commits after the server has
//! dropped the intent.

use std::fmt;

use larder::{
    state::{self, Lookup, Slot, State},
    token::{ProcessId, Token},
};
use stateright::{Model, Property};

use crate::{
    check::{Claim, breaks, holds, wide},
    store::{Key, apply, entry, identity, intents, is_leased, lease, served},
};

const LEASE_TTL: u64 = 2;
const INTENT_TTL: u64 = 2;
const TTL: u64 = 3;
/// Greater ages all count as this one.
const OLD: u64 = TTL + LEASE_TTL;

const YOUNG: Claim = "a served row was read or committed less than a time to live ago";
const STRICT: Claim = "a served row is the committed one";
const HIT: Claim = "a written row is hit";
const OLDEST: Claim = "a row is hit at the end of its time";
const LATE: Claim = "a load under its lease has taken time";
const AWAITED: Claim = "a reader waits for a lease";
const EXPIRED: Claim = "an intent expires before its commit";

/// The mutants: what each leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The time to live of a loaded row counts from the fill, and not from the lease.
    CountedFromLease,
    /// The time to live of a cache update counts from the end of the write, and not from the intent.
    CountedFromIntent,
    /// Jitter lengthens the time to live, and does not shorten it.
    JitterTakenOff,
    /// A writer counts its deadline from the reply, and not from before the request.
    DeadlineBeforeRequest,
    /// A writer has no deadline.
    Deadline,
}

#[derive(Clone, Debug)]
struct Ages {
    readers: usize,
    rounds: u8,
    writers: usize,
    broken: Option<Broken>,
}

/// A version of the row, and how long ago it was read or committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Aged {
    version: u8,
    age: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    row: u8,
    key: Key<Aged>,
    readers: Vec<Reader>,
    writers: Vec<Writer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle(u8),
    Leased(u8),
    Loaded(u8, Aged),
}

/// The state of a writer. The number is the age of its intent by the writer's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    /// The intent was sent, and has not arrived.
    Sent(u64),
    /// The intent has arrived, and the reply has not.
    Answered(u64),
    Announced(u64),
    Committed(u64, Aged),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    Ask(usize),
    Wait(usize),
    Load(usize),
    Fill(usize),
    Send(usize),
    Begin(usize),
    Hear(usize),
    Commit(usize),
    End(usize),
}

impl Ages {
    fn new(broken: Option<Broken>) -> Self {
        Self {
            readers: 2,
            rounds: if wide() { 2 } else { 1 },
            writers: if wide() { 2 } else { 1 },
            broken,
        }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    fn fill(&self, moment: &mut Moment, reader: usize, left: u8, row: Aged) {
        let name = lease_name(reader, left);
        // The server measures the age of the lease that the state machine subtracts.
        let ttl = match self.broken {
            Some(Broken::CountedFromLease) => TTL + lease_age(&moment.key),
            Some(Broken::JitterTakenOff) => TTL + 1,
            _ => TTL,
        };
        apply(&mut moment.key, |key| {
            state::fill(key.as_ref(), name, entry(Some(row), 0), ttl, LEASE_TTL)
        });
        moment.readers[reader] = Reader::Idle(left - 1);
    }

    fn end(&self, moment: &mut Moment, writer: usize, sent: u64, row: Aged) {
        let elapsed = if self.is(Broken::CountedFromIntent) {
            0
        } else {
            sent
        };
        let ttl = TTL.saturating_sub(elapsed);
        let update = (ttl > 0).then(|| entry(Some(row), 0));
        apply(&mut moment.key, |key| {
            state::end(key.as_ref(), intent(writer), update, ttl)
        });
        moment.writers[writer] = Writer::Gone;
    }
}

impl Model for Ages {
    type State = Moment;
    type Action = Action;

    fn init_states(&self) -> Vec<Moment> {
        vec![Moment {
            row: 0,
            key: None,
            readers: vec![Reader::Idle(self.rounds); self.readers],
            writers: vec![Writer::Idle; self.writers],
        }]
    }

    fn actions(&self, moment: &Moment, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        for (number, reader) in moment.readers.iter().enumerate() {
            match reader {
                Reader::Idle(0) => {}
                Reader::Idle(_) => {
                    actions.push(Action::Ask(number));
                    if looks(moment) == Lookup::Loading {
                        actions.push(Action::Wait(number));
                    }
                }
                Reader::Leased(_) => actions.push(Action::Load(number)),
                Reader::Loaded(..) => actions.push(Action::Fill(number)),
            }
        }
        for (number, writer) in moment.writers.iter().enumerate() {
            match writer {
                Writer::Idle => actions.push(Action::Send(number)),
                Writer::Sent(_) => actions.push(Action::Begin(number)),
                Writer::Answered(_) => actions.push(Action::Hear(number)),
                // A late writer would announce again, as in `protocol`. Here it gives up.
                Writer::Announced(sent) if *sent < INTENT_TTL || self.is(Broken::Deadline) => {
                    actions.push(Action::Commit(number));
                }
                Writer::Committed(..) => actions.push(Action::End(number)),
                Writer::Announced(_) | Writer::Gone => {}
            }
        }
    }

    fn next_state(&self, moment: &Moment, action: Action) -> Option<Moment> {
        let mut moment = moment.clone();
        match action {
            Action::Tick => moment.tick(),
            Action::Ask(number) => {
                let Reader::Idle(left) = moment.readers[number] else {
                    return None;
                };
                let granted = apply(&mut moment.key, |key| {
                    state::acquire(key.as_ref(), lease(lease_name(number, left), 0), LEASE_TTL)
                });
                moment.readers[number] = if granted {
                    Reader::Leased(left)
                } else {
                    Reader::Idle(left - 1)
                };
            }
            Action::Wait(number) => {
                let process = ProcessId([u8::try_from(number).ok()?; 8]);
                apply(&mut moment.key, |key| {
                    state::wait(key.as_ref(), identity(0), process)
                });
            }
            Action::Load(number) => {
                let Reader::Leased(left) = moment.readers[number] else {
                    return None;
                };
                moment.readers[number] = Reader::Loaded(left, fresh(moment.row));
            }
            Action::Fill(number) => {
                let Reader::Loaded(left, row) = moment.readers[number] else {
                    return None;
                };
                self.fill(&mut moment, number, left, row);
            }
            Action::Send(number) => moment.writers[number] = Writer::Sent(0),
            Action::Begin(number) => {
                let Writer::Sent(sent) = moment.writers[number] else {
                    return None;
                };
                apply(&mut moment.key, |key| {
                    state::begin(key.as_ref(), intent(number), INTENT_TTL)
                });
                moment.writers[number] = Writer::Answered(sent);
            }
            Action::Hear(number) => {
                let Writer::Answered(sent) = moment.writers[number] else {
                    return None;
                };
                moment.writers[number] =
                    Writer::Announced(if self.is(Broken::DeadlineBeforeRequest) {
                        0
                    } else {
                        sent
                    });
            }
            Action::Commit(number) => {
                let Writer::Announced(sent) = moment.writers[number] else {
                    return None;
                };
                moment.row = u8::try_from(number).ok()? + 1;
                moment.writers[number] = Writer::Committed(sent, fresh(moment.row));
            }
            Action::End(number) => {
                let Writer::Committed(sent, row) = moment.writers[number] else {
                    return None;
                };
                self.end(&mut moment, number, sent, row);
            }
        }
        Some(moment)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(YOUNG, |_, moment: &Moment| {
                row(moment).is_none_or(|row| row.age < TTL)
            }),
            Property::always(STRICT, |_, moment: &Moment| {
                row(moment).is_none_or(|row| row.version == moment.row)
            }),
            Property::sometimes(HIT, |_, moment: &Moment| {
                row(moment).is_some_and(|row| row.version > 0)
            }),
            Property::sometimes(OLDEST, |_, moment: &Moment| {
                row(moment).is_some_and(|row| row.age == TTL - 1)
            }),
            Property::sometimes(LATE, |_, moment: &Moment| {
                moment.readers.iter().enumerate().any(|(number, reader)| {
                    matches!(reader, Reader::Loaded(left, row)
                        if row.age > 0 && is_leased(&moment.key, lease_name(number, *left)))
                })
            }),
            Property::sometimes(AWAITED, |_, moment: &Moment| {
                matches!(&moment.key, Some(Slot { state: State::Loading(_, waiters), .. })
                    if !waiters.is_empty())
            }),
            Property::sometimes(EXPIRED, |_, moment: &Moment| {
                matches!(moment.writers[0], Writer::Announced(_)) && intents(&moment.key).is_empty()
            }),
        ]
    }
}

impl Moment {
    fn tick(&mut self) {
        if let Some(slot) = &mut self.key {
            slot.remaining_ms -= 1;
            if let State::Value(_, row) = &mut slot.state {
                row.grow();
            }
            if slot.remaining_ms == 0 {
                self.key = None;
            }
        }
        for reader in &mut self.readers {
            if let Reader::Loaded(_, row) = reader {
                row.grow();
            }
        }
        for writer in &mut self.writers {
            match writer {
                Writer::Sent(sent) | Writer::Answered(sent) | Writer::Announced(sent) => {
                    *sent = OLD.min(*sent + 1);
                }
                Writer::Committed(sent, row) => {
                    *sent = OLD.min(*sent + 1);
                    row.grow();
                }
                Writer::Idle | Writer::Gone => {}
            }
        }
    }
}

impl Aged {
    fn grow(&mut self) {
        self.age = OLD.min(self.age + 1);
    }
}

fn fresh(version: u8) -> Aged {
    Aged { version, age: 0 }
}

fn row(moment: &Moment) -> Option<Aged> {
    served(&moment.key, 0).flatten()
}

fn looks(moment: &Moment) -> Lookup<&Aged> {
    state::lookup(moment.key.as_ref().map(|slot| &slot.state), identity(0))
}

fn lease_age(key: &Key<Aged>) -> u64 {
    key.as_ref()
        .map_or(0, |slot| LEASE_TTL.saturating_sub(slot.remaining_ms))
}

fn lease_name(reader: usize, left: u8) -> Token {
    Token::numbered(10 * (reader as u64 + 1) + u64::from(left))
}

fn intent(writer: usize) -> Token {
    Token::numbered(100 + writer as u64)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tick => f.write_str("time passes"),
            Self::Ask(reader) => write!(f, "R{reader} asks the store"),
            Self::Wait(reader) => write!(f, "R{reader} waits"),
            Self::Load(reader) => write!(f, "R{reader} reads the row"),
            Self::Fill(reader) => write!(f, "R{reader} fills"),
            Self::Send(writer) => write!(f, "W{writer} sends its intent"),
            Self::Begin(writer) => write!(f, "W{writer} begins"),
            Self::Hear(writer) => write!(f, "W{writer} hears that it has begun"),
            Self::Commit(writer) => write!(f, "W{writer} commits"),
            Self::End(writer) => write!(f, "W{writer} ends"),
        }
    }
}

#[test]
fn served_rows_are_younger_than_their_time_to_live() {
    holds("time to live and deadlines", Ages::new(None), 2_000);
}

#[test]
fn time_to_live_counted_from_the_fill_is_exceeded() {
    let model = Ages::new(Some(Broken::CountedFromLease));
    breaks("time to live counted from the fill", &model, YOUNG);
}

#[test]
fn time_to_live_counted_from_the_end_of_the_write_is_exceeded() {
    let model = Ages::new(Some(Broken::CountedFromIntent));
    breaks(
        "time to live counted from the end of the write",
        &model,
        YOUNG,
    );
}

#[test]
fn jitter_that_is_added_exceeds_the_time_to_live() {
    let model = Ages::new(Some(Broken::JitterTakenOff));
    breaks("jitter added", &model, YOUNG);
}

#[test]
fn deadline_counted_from_the_reply_goes_stale() {
    let model = Ages::new(Some(Broken::DeadlineBeforeRequest));
    breaks("deadline counted from the reply", &model, STRICT);
}

#[test]
fn commit_after_its_intent_expired_goes_stale() {
    let model = Ages::new(Some(Broken::Deadline));
    breaks("no deadline", &model, STRICT);
}
