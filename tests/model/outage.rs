//! Processes that cannot reach the server when they write, and write anyway.
//!
//! Other processes may read old rows in the meantime: that is `on_outage = "available"`. But a process that could not
//! deliver its write records a repair for the key. It reads the key from the database until the repair is delivered. So it
//! never reads an older row than it has written, and every stale entry has a repair in some process.

use std::fmt;

use larder::{state, token::Token};
use stateright::{Model, Property};

use crate::{
    check::{Claim, breaks, holds, wide},
    store::{Key, LONG_MS, SHORT_MS, apply, entry, is_writing, lease, served},
};

const OWN: Claim = "a process reads nothing older than what it has written";
const OWED: Claim = "a stale entry always has a repair";
const STALE: Claim = "a stale entry lies in the store";
const REPAIRED: Claim = "a row is hit by a process that once could not deliver its write";

/// The mutants: what each leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// A process that reaches the server again forgets its repairs.
    Repair,
    /// A process serves a key that has a repair.
    Bypass,
    /// A key gets a repair when its intent could not be placed, but not again after the commit.
    RememberedAfterCommit,
    /// A key whose intent was placed gets no repair when the intent cannot be taken back.
    RememberedAlthoughPlaced,
    /// A process dies with its repairs. No process can prevent that.
    Memory,
}

#[derive(Clone, Debug)]
struct Outage {
    rounds: u8,
    writes: u8,
    broken: Option<Broken>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    /// The number of commits, which is the version of the row.
    row: u8,
    key: Key,
    processes: [Process; 2],
    /// A process was served an older row than it had written.
    own_lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    /// Whether it reaches the server.
    connected: bool,
    /// Whether the server has restarted. The process notices that when it reaches the server again.
    restarted: bool,
    /// Whether it has a repair for the key.
    owes: bool,
    /// The latest version that it wrote and whose write has returned.
    wrote: u8,
    /// Whether the end of one of its writes could not be delivered.
    undelivered: bool,
    reader: Reader,
    writer: Writer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle(u8),
    Leased(u8),
    Loaded(u8, u8),
}

/// The state of a writer: the writes left, whether it takes its intent for placed, and the version that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle(u8),
    Announced(u8, bool),
    Committed(u8, bool, u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Disconnect(usize),
    Reconnect(usize),
    Ask(usize),
    Load(usize),
    Fill(usize),
    Begin(usize),
    Renew(usize),
    Commit(usize),
    End(usize),
    Repair(usize),
    Crash(usize),
    DropEntry,
    ExpireIntents,
    Restart,
}

impl Outage {
    fn new(broken: Option<Broken>) -> Self {
        Self {
            rounds: 2,
            writes: if wide() { 2 } else { 1 },
            broken,
        }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// A writer notices that its intent may be gone.
    fn miss_intent(&self, process: &mut Process) {
        if let Writer::Announced(_, placed @ true) = &mut process.writer {
            *placed = false;
            process.owes |= self.is(Broken::RememberedAfterCommit);
        }
    }

    fn read(&self, moment: &mut Moment, number: usize, action: &Action) -> Option<()> {
        let process = &mut moment.processes[number];
        match (action, process.reader) {
            (Action::Ask(_), Reader::Idle(left)) => {
                if let Some(Some(version)) = served(&moment.key, 0) {
                    moment.own_lost |= version < process.wrote;
                }
                let granted = apply(&mut moment.key, |key| {
                    state::acquire(key.as_ref(), lease(lease_name(number, left), 0), SHORT_MS)
                });
                process.reader = if granted {
                    Reader::Leased(left)
                } else {
                    Reader::Idle(left - 1)
                };
            }
            (Action::Load(_), Reader::Leased(left)) => {
                process.reader = Reader::Loaded(left, moment.row);
            }
            (Action::Fill(_), Reader::Loaded(left, version)) => {
                process.reader = Reader::Idle(left - 1);
                if process.connected {
                    apply(&mut moment.key, |key| {
                        let name = lease_name(number, left);
                        state::fill(
                            key.as_ref(),
                            name,
                            entry(Some(version), 0),
                            LONG_MS,
                            SHORT_MS,
                        )
                    });
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn write(&self, moment: &mut Moment, number: usize, action: &Action) -> Option<()> {
        let process = &mut moment.processes[number];
        let connected = process.connected;
        match (action, process.writer) {
            (Action::Begin(_), Writer::Idle(left))
            | (Action::Renew(_), Writer::Announced(left, _)) => {
                if connected {
                    apply(&mut moment.key, |key| {
                        state::begin(key.as_ref(), intent(number, left), SHORT_MS)
                    });
                } else if self.is(Broken::RememberedAfterCommit) {
                    process.owes = true;
                }
                process.writer = Writer::Announced(left, connected);
            }
            (Action::Commit(_), Writer::Announced(left, placed)) => {
                moment.row += 1;
                process.writer = Writer::Committed(left, placed, moment.row);
            }
            (Action::End(_), Writer::Committed(left, placed, version)) => {
                if connected {
                    apply(&mut moment.key, |key| {
                        state::end(key.as_ref(), intent(number, left), None, 0)
                    });
                } else {
                    // Also if its intent was placed, because the server may have lost it since.
                    process.undelivered = true;
                    process.owes |= match self.broken {
                        Some(Broken::RememberedAfterCommit) => false,
                        Some(Broken::RememberedAlthoughPlaced) => !placed,
                        _ => true,
                    };
                }
                process.wrote = version;
                process.writer = Writer::Idle(left - 1);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Model for Outage {
    type State = Moment;
    type Action = Action;

    fn init_states(&self) -> Vec<Moment> {
        let process = Process {
            connected: true,
            restarted: false,
            owes: false,
            wrote: 0,
            undelivered: false,
            reader: Reader::Idle(self.rounds),
            writer: Writer::Idle(self.writes),
        };
        vec![Moment {
            row: 0,
            key: None,
            processes: [process; 2],
            own_lost: false,
        }]
    }

    fn actions(&self, moment: &Moment, actions: &mut Vec<Action>) {
        for (number, process) in moment.processes.iter().enumerate() {
            actions.push(if process.connected {
                Action::Disconnect(number)
            } else {
                Action::Reconnect(number)
            });
            match process.reader {
                Reader::Idle(0) => {}
                // A read that bypasses the cache changes nothing and is always right.
                Reader::Idle(_) if process.may_serve(self) => actions.push(Action::Ask(number)),
                Reader::Idle(_) => {}
                Reader::Leased(_) => actions.push(Action::Load(number)),
                Reader::Loaded(..) => actions.push(Action::Fill(number)),
            }
            match process.writer {
                Writer::Idle(0) => {}
                Writer::Idle(_) => actions.push(Action::Begin(number)),
                Writer::Announced(_, placed) => {
                    actions.push(Action::Commit(number));
                    if !placed && process.connected {
                        actions.push(Action::Renew(number));
                    }
                }
                Writer::Committed(..) => actions.push(Action::End(number)),
            }
            if process.connected && process.owes {
                actions.push(Action::Repair(number));
            }
            if self.is(Broken::Memory) {
                actions.push(Action::Crash(number));
            }
        }
        if is_writing(&moment.key) {
            actions.push(Action::ExpireIntents);
            actions.push(Action::Restart);
        } else if moment.key.is_some() {
            actions.push(Action::DropEntry);
        }
    }

    fn next_state(&self, moment: &Moment, action: Action) -> Option<Moment> {
        let mut moment = moment.clone();
        match action {
            Action::Disconnect(number) => moment.processes[number].connected = false,
            Action::Reconnect(number) => {
                let process = &mut moment.processes[number];
                process.connected = true;
                // If the server has restarted, the process does not rely on an intent from before.
                if process.restarted {
                    process.restarted = false;
                    self.miss_intent(process);
                }
                if self.is(Broken::Repair) {
                    process.owes = false;
                }
            }
            Action::Restart => {
                moment.key = None;
                for process in &mut moment.processes {
                    process.connected = false;
                    process.restarted = matches!(process.writer, Writer::Announced(_, true));
                }
            }
            Action::Ask(number) | Action::Load(number) | Action::Fill(number) => {
                self.read(&mut moment, number, &action)?;
            }
            Action::Begin(number)
            | Action::Renew(number)
            | Action::Commit(number)
            | Action::End(number) => self.write(&mut moment, number, &action)?,
            Action::Repair(number) => {
                apply(&mut moment.key, |key| state::invalidate(key.as_ref()));
                moment.processes[number].owes = false;
            }
            Action::Crash(number) => {
                moment.processes[number] = Process {
                    connected: true,
                    restarted: false,
                    owes: false,
                    wrote: 0,
                    undelivered: false,
                    reader: Reader::Idle(0),
                    writer: Writer::Idle(0),
                };
            }
            Action::DropEntry => moment.key = None,
            Action::ExpireIntents => {
                moment.key = None;
                // The deadlines of the intents have passed, so no writer that has not committed relies on them.
                for process in &mut moment.processes {
                    self.miss_intent(process);
                }
            }
        }
        Some(moment)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(OWN, |_, moment: &Moment| !moment.own_lost),
            Property::always(OWED, |_, moment: &Moment| {
                !is_stale(moment) || moment.processes.iter().any(Process::will_repair)
            }),
            Property::sometimes(STALE, |_, moment: &Moment| is_stale(moment)),
            Property::sometimes(REPAIRED, |model: &Self, moment: &Moment| {
                served(&moment.key, 0) == Some(Some(moment.row))
                    && moment.processes.iter().any(|process| {
                        process.undelivered
                            && process.may_serve(model)
                            && matches!(process.reader, Reader::Idle(left) if left > 0)
                    })
            }),
        ]
    }
}

impl Process {
    fn may_serve(&self, model: &Outage) -> bool {
        self.connected && (!self.owes || model.is(Broken::Bypass))
    }

    fn will_repair(&self) -> bool {
        self.owes || matches!(self.writer, Writer::Committed(..))
    }
}

fn is_stale(moment: &Moment) -> bool {
    served(&moment.key, 0).is_some_and(|row| row != Some(moment.row))
}

fn lease_name(process: usize, left: u8) -> Token {
    Token::numbered(10 * (process as u64 + 1) + u64::from(left))
}

fn intent(process: usize, left: u8) -> Token {
    Token::numbered(100 + lease_number(process, left))
}

fn lease_number(process: usize, left: u8) -> u64 {
    10 * process as u64 + u64::from(left)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnect(process) => write!(f, "P{process} loses the server"),
            Self::Reconnect(process) => write!(f, "P{process} finds the server"),
            Self::Ask(process) => write!(f, "P{process} asks the store"),
            Self::Load(process) => write!(f, "P{process} reads the row"),
            Self::Fill(process) => write!(f, "P{process} fills"),
            Self::Begin(process) => write!(f, "P{process} begins"),
            Self::Renew(process) => write!(f, "P{process} begins again"),
            Self::Commit(process) => write!(f, "P{process} commits"),
            Self::End(process) => write!(f, "P{process} ends"),
            Self::Repair(process) => write!(f, "P{process} repairs"),
            Self::Crash(process) => write!(f, "P{process} dies"),
            Self::DropEntry => f.write_str("the entry expires"),
            Self::ExpireIntents => f.write_str("the intents expire"),
            Self::Restart => f.write_str("the server restarts empty"),
        }
    }
}

#[test]
fn process_that_could_not_deliver_a_write_reads_nothing_older() {
    holds("outages, repair", Outage::new(None), 20_000);
}

#[test]
fn without_repair_a_process_loses_its_own_write() {
    let model = Outage::new(Some(Broken::Repair));
    breaks("no repair", &model, OWN);
    breaks("no repair", &model, OWED);
}

#[test]
fn key_served_before_its_repair_loses_the_own_write() {
    let model = Outage::new(Some(Broken::Bypass));
    breaks("served before the repair", &model, OWN);
}

#[test]
fn repair_before_the_commit_loses_the_own_write() {
    let model = Outage::new(Some(Broken::RememberedAfterCommit));
    breaks("repaired before the commit", &model, OWN);
    breaks("repaired before the commit", &model, OWED);
}

#[test]
fn placed_intent_does_not_replace_the_repair() {
    let model = Outage::new(Some(Broken::RememberedAlthoughPlaced));
    breaks(
        "end not repaired because the intent was placed",
        &model,
        OWN,
    );
    breaks(
        "end not repaired because the intent was placed",
        &model,
        OWED,
    );
}

#[test]
fn process_that_dies_loses_its_repairs() {
    let model = Outage::new(Some(Broken::Memory));
    breaks("outage and crash", &model, OWED);
}
