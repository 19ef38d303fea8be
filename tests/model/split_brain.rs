//! Two servers that both act as the primary: the old one was cut off, and a replica that lags was promoted. Each of two
//! processes notices that at its own time.
//!
//! No protocol can make this strict, so the claim is a bound. A process uses a server only while its last heartbeat, a
//! write, is at most `TRUST` old. A cut-off primary rejects writes after `LAG`, which is `min-replicas-max-lag` of Redis. So
//! the old server is not used after `LAG + TRUST`. And every process records the keys that it wrote recently, and drops them
//! on the new server before it uses that. The new server has not received what the process sent to the old one.
//!
//! Not here: how a process finds the new server, and how long that takes.

use std::fmt;

use larder::{state, token::Token};
use stateright::{Model, Property};

use crate::{
    check::{Claim, breaks, holds, wide},
    store::{Key, LONG_MS, SHORT_MS, apply, entry, intents, is_writing, lease, served},
};

/// How long a cut-off primary accepts writes.
const LAG: u8 = 1;
/// How long an accepted heartbeat keeps a server usable.
const TRUST: u8 = 1;
/// How long a key is recorded after the end of its write, counted back from the last heartbeat. Earlier writes ended before
/// the promotion.
const MEMORY: u8 = LAG;

const BOUND: Claim = "the old server serves no stale row after its bound";
const OWED: Claim = "a stale row on the new server will always be invalidated";
const LATE: Claim = "a stale row is on the new server";
const BEHIND: Claim = "a stale row is served by the old server";
const HIT: Claim = "a written row is hit on the new server by the process that moved last";
const FORGOTTEN: Claim = "a written key is forgotten in time";

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// Processes use a server forever.
    Trust,
    /// A cut-off primary accepts writes forever.
    Refusal,
    /// Processes do not drop the recorded keys on the new server.
    Replay,
    /// A recorded key is forgotten by the clock, although no heartbeat was accepted since.
    Memory,
    /// A key is recorded from its intent on, and not from the end of its write.
    MemoryFromEnd,
    /// A recorded key is forgotten before a cut-off primary rejects writes.
    MemoryAsLongAsLag,
    /// Entries do not contain their history.
    Stamp,
    /// The process that was left behind dies with its recorded keys. No process can prevent that.
    Survival,
}

#[derive(Clone, Debug)]
struct SplitBrain {
    rounds: u8,
    /// Whether both processes may stay at the old server. Otherwise the second one notices the promotion at once.
    both_behind: bool,
    broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Server {
    Old,
    New,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    row: u8,
    old: Key,
    new: Key,
    /// How long ago the old server was cut off and the new one promoted, if it was.
    cut: Option<u8>,
    processes: [Process; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    alive: bool,
    server: Server,
    /// How long ago the old server has accepted its last heartbeat.
    beat: u8,
    /// Whether it has dropped its recorded keys on the new server.
    replayed: bool,
    /// How long ago it wrote the key, unless that is forgotten.
    wrote: Option<u8>,
    /// Whether the end of a write could not be delivered to the server.
    owes: bool,
    reader: Reader,
    writer: Writer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle(u8),
    Leased(u8, Server),
    Loaded(u8, Server, u8),
}

/// The state of a writer, and where it takes its intent to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Announced(Option<Server>),
    Committed,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    Replicate,
    Cut,
    Beat(usize),
    Move(usize),
    Replay(usize),
    Crash(usize),
    Ask(usize),
    Load(usize),
    Fill(usize),
    Begin(usize),
    Commit(usize),
    End(usize),
    DropEntry(Server),
}

impl Moment {
    fn key(&mut self, server: Server) -> &mut Key {
        match server {
            Server::Old => &mut self.old,
            Server::New => &mut self.new,
        }
    }
}

impl SplitBrain {
    fn new(broken: Option<Broken>) -> Self {
        Self {
            rounds: 1,
            both_behind: wide(),
            broken,
        }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    fn stamp(&self, server: Server) -> u8 {
        u8::from(server == Server::New && !self.is(Broken::Stamp))
    }

    /// Returns whether a server accepts writes.
    fn accepts(&self, moment: &Moment, server: Server) -> bool {
        server == Server::New
            || self.is(Broken::Refusal)
            || moment.cut.is_none_or(|since| since <= LAG)
    }

    /// Returns whether a process serves the entries of its server, and relies on its intents there.
    fn trusts(&self, process: &Process) -> bool {
        match process.server {
            Server::Old => process.beat <= TRUST || self.is(Broken::Trust),
            Server::New => process.replayed,
        }
    }

    /// Returns whether a writer may rely on its intent.
    fn is_good(&self, process: &Process) -> bool {
        process.writer == Writer::Announced(Some(process.server)) && self.trusts(process)
    }

    fn is_stale(&self, moment: &Moment, server: Server) -> bool {
        let key = match server {
            Server::Old => &moment.old,
            Server::New => &moment.new,
        };
        served(key, self.stamp(server)).is_some_and(|row| row != Some(moment.row))
    }

    fn tick(&self, moment: &mut Moment) {
        if let Some(since) = &mut moment.cut {
            *since = (LAG + TRUST + 1).min(*since + 1);
        }
        for process in &mut moment.processes {
            process.beat = (TRUST + 1).min(process.beat + 1);
            if let Some(since) = &mut process.wrote {
                let ended = matches!(process.writer, Writer::Idle | Writer::Done);
                if ended || self.is(Broken::MemoryFromEnd) {
                    *since = (MEMORY + 1).min(*since + 1);
                }
            }
            if self.is(Broken::Memory) {
                process.forget(MEMORY);
            }
        }
    }

    fn read(&self, moment: &mut Moment, number: usize, action: &Action) -> Option<()> {
        let process = moment.processes[number];
        let connected = process.server;
        let reader = match (action, process.reader) {
            (Action::Ask(_), Reader::Idle(left)) => {
                let lease = lease(lease_name(number, left), self.stamp(connected));
                let granted = self.accepts(moment, connected)
                    && apply(moment.key(connected), |key| {
                        state::acquire(key.as_ref(), lease, SHORT_MS)
                    });
                if granted {
                    Reader::Leased(left, connected)
                } else {
                    Reader::Idle(left - 1)
                }
            }
            (Action::Load(_), Reader::Leased(left, server)) => {
                Reader::Loaded(left, server, moment.row)
            }
            (Action::Fill(_), Reader::Loaded(left, server, version)) => {
                if server == connected && self.accepts(moment, server) {
                    let entry = entry(Some(version), self.stamp(server));
                    let name = lease_name(number, left);
                    apply(moment.key(server), |key| {
                        state::fill(key.as_ref(), name, entry, LONG_MS, SHORT_MS)
                    });
                }
                Reader::Idle(left - 1)
            }
            _ => return None,
        };
        moment.processes[number].reader = reader;
        Some(())
    }

    fn write(&self, moment: &mut Moment, number: usize, action: &Action) -> Option<()> {
        let process = moment.processes[number];
        let connected = process.server;
        let writer = match (action, process.writer) {
            (Action::Begin(_), Writer::Idle | Writer::Announced(_)) => {
                moment.processes[number].wrote = Some(0);
                // Also on a server that the process does not trust. It does no harm, and the other process may still use
                // that server.
                let placed = self.accepts(moment, connected);
                if placed {
                    apply(moment.key(connected), |key| {
                        state::begin(key.as_ref(), intent(number), SHORT_MS)
                    });
                }
                Writer::Announced(placed.then_some(connected))
            }
            (Action::Commit(_), Writer::Announced(_)) => {
                moment.row = u8::try_from(number).ok()? + 1;
                Writer::Committed
            }
            (Action::End(_), Writer::Committed) => {
                if self.accepts(moment, connected) {
                    apply(moment.key(connected), |key| {
                        state::end(key.as_ref(), intent(number), None, 0)
                    });
                } else {
                    moment.processes[number].owes = true;
                }
                Writer::Done
            }
            _ => return None,
        };
        moment.processes[number].writer = writer;
        Some(())
    }
}

impl Process {
    /// Forgets the key if its write ended longer ago than this.
    fn forget(&mut self, memory: u8) {
        let ended = self.writer == Writer::Done;
        if ended && self.wrote.is_some_and(|since| since > memory) {
            self.wrote = None;
        }
    }

    /// Returns whether the process will still drop the key on the new server.
    fn will_invalidate(&self) -> bool {
        let remembers = self.wrote.is_some() || self.owes;
        self.alive
            && (self.writer == Writer::Committed
                || (remembers && (self.server == Server::Old || !self.replayed)))
    }
}

impl Model for SplitBrain {
    type State = Moment;
    type Action = Action;

    fn init_states(&self) -> Vec<Moment> {
        let process = Process {
            alive: true,
            server: Server::Old,
            beat: 0,
            replayed: false,
            wrote: None,
            owes: false,
            reader: Reader::Idle(self.rounds),
            writer: Writer::Idle,
        };
        vec![Moment {
            row: 0,
            old: None,
            new: None,
            cut: None,
            processes: [process; 2],
        }]
    }

    fn actions(&self, moment: &Moment, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        if moment.cut.is_none() {
            actions.push(Action::Replicate);
            actions.push(Action::Cut);
        }
        for (number, process) in moment.processes.iter().enumerate() {
            if !process.alive {
                continue;
            }
            if self.is(Broken::Survival) && process.writer == Writer::Committed {
                actions.push(Action::Crash(number));
            }
            match process.server {
                Server::Old => {
                    if process.beat > 0 && self.accepts(moment, Server::Old) {
                        actions.push(Action::Beat(number));
                    }
                    if moment.cut.is_some() {
                        actions.push(Action::Move(number));
                    }
                }
                Server::New if !process.replayed => actions.push(Action::Replay(number)),
                Server::New => {}
            }
            match process.reader {
                // A read that bypasses the cache changes nothing and is always right.
                Reader::Idle(left) if left > 0 && self.trusts(process) => {
                    actions.push(Action::Ask(number));
                }
                Reader::Idle(_) => {}
                Reader::Leased(..) => actions.push(Action::Load(number)),
                Reader::Loaded(..) => actions.push(Action::Fill(number)),
            }
            match process.writer {
                Writer::Idle => actions.push(Action::Begin(number)),
                Writer::Announced(_) => {
                    // If it cannot rely on a server, it commits anyway.
                    let could_rely = self.trusts(process) && self.accepts(moment, process.server);
                    if self.is_good(process) || !could_rely {
                        actions.push(Action::Commit(number));
                    } else {
                        actions.push(Action::Begin(number));
                    }
                }
                Writer::Committed => actions.push(Action::End(number)),
                Writer::Done => {}
            }
        }
        for (server, key) in [(Server::Old, &moment.old), (Server::New, &moment.new)] {
            // No deadline passes here. An intent that no writer relies on expires.
            let relied_on = moment
                .processes
                .iter()
                .enumerate()
                .any(|(number, process)| {
                    intents(key).contains(&intent(number))
                        && process.writer == Writer::Announced(Some(server))
                });
            // For the other entries it makes no difference, except to the number of states.
            let exists = match server {
                Server::Old => self.both_behind,
                Server::New => moment.cut.is_some(),
            };
            if exists && key.is_some() && !(is_writing(key) && relied_on) {
                actions.push(Action::DropEntry(server));
            }
        }
    }

    fn next_state(&self, moment: &Moment, action: Action) -> Option<Moment> {
        let mut moment = moment.clone();
        match action {
            Action::Tick => self.tick(&mut moment),
            Action::Replicate => moment.new = moment.old.clone(),
            Action::Cut => {
                moment.cut = Some(0);
                if !self.both_behind {
                    moment.processes[1].server = Server::New;
                }
            }
            Action::Beat(number) => {
                moment.processes[number].beat = 0;
                let memory = if self.is(Broken::MemoryAsLongAsLag) {
                    MEMORY - 1
                } else {
                    MEMORY
                };
                moment.processes[number].forget(memory);
            }
            Action::Move(number) => moment.processes[number].server = Server::New,
            Action::Replay(number) => {
                let process = &mut moment.processes[number];
                let remembers = process.wrote.is_some() || process.owes;
                process.replayed = true;
                process.owes = false;
                process.beat = 0;
                if remembers && !self.is(Broken::Replay) {
                    apply(&mut moment.new, |key| state::invalidate(key.as_ref()));
                }
            }
            Action::Crash(number) => moment.processes[number].alive = false,
            Action::Ask(number) | Action::Load(number) | Action::Fill(number) => {
                self.read(&mut moment, number, &action)?;
            }
            Action::Begin(number) | Action::Commit(number) | Action::End(number) => {
                self.write(&mut moment, number, &action)?;
            }
            Action::DropEntry(server) => *moment.key(server) = None,
        }
        if !self.both_behind {
            moment.processes[1].beat = 0;
        }
        for process in &mut moment.processes {
            // Values that no longer matter are reset, so that they do not distinguish states.
            if process.server == Server::New {
                process.beat = 0;
                if process.replayed {
                    process.wrote = None;
                }
            }
        }
        Some(moment)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(BOUND, |model: &Self, moment: &Moment| {
                !model.is_left_behind(moment)
                    || moment.cut.is_some_and(|since| since <= LAG + TRUST)
            }),
            Property::always(OWED, |model: &Self, moment: &Moment| {
                !model.is_stale_on_new(moment)
                    || moment.processes.iter().any(Process::will_invalidate)
            }),
            Property::sometimes(LATE, |model: &Self, moment: &Moment| {
                model.is_stale_on_new(moment)
            }),
            Property::sometimes(BEHIND, |model: &Self, moment: &Moment| {
                model.is_left_behind(moment)
            }),
            Property::sometimes(HIT, |model: &Self, moment: &Moment| {
                let process = &moment.processes[0];
                process.server == Server::New
                    && model.trusts(process)
                    && matches!(process.reader, Reader::Idle(left) if left > 0)
                    && served(&moment.new, model.stamp(Server::New)) == Some(Some(1))
            }),
            Property::sometimes(FORGOTTEN, |_, moment: &Moment| {
                let process = &moment.processes[0];
                process.server == Server::Old
                    && process.writer == Writer::Done
                    && process.wrote.is_none()
            }),
        ]
    }
}

impl SplitBrain {
    /// Returns whether a process uses the old server while it has a stale row.
    fn is_left_behind(&self, moment: &Moment) -> bool {
        self.is_stale(moment, Server::Old)
            && moment.processes.iter().any(|process| {
                process.alive && process.server == Server::Old && self.trusts(process)
            })
    }

    fn is_stale_on_new(&self, moment: &Moment) -> bool {
        moment.cut.is_some() && self.is_stale(moment, Server::New)
    }
}

fn lease_name(process: usize, left: u8) -> Token {
    Token::numbered(10 * (process as u64 + 1) + u64::from(left))
}

fn intent(process: usize) -> Token {
    Token::numbered(100 + process as u64)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tick => f.write_str("time passes"),
            Self::Replicate => f.write_str("the replica catches up"),
            Self::Cut => f.write_str("the replica is promoted"),
            Self::Beat(process) => write!(f, "P{process} beats"),
            Self::Move(process) => write!(f, "P{process} finds the new server"),
            Self::Replay(process) => write!(f, "P{process} drops its recorded keys there"),
            Self::Crash(process) => write!(f, "P{process} dies"),
            Self::Ask(process) => write!(f, "P{process} asks the store"),
            Self::Load(process) => write!(f, "P{process} reads the row"),
            Self::Fill(process) => write!(f, "P{process} fills"),
            Self::Begin(process) => write!(f, "P{process} begins"),
            Self::Commit(process) => write!(f, "P{process} commits"),
            Self::End(process) => write!(f, "P{process} ends"),
            Self::DropEntry(Server::Old) => f.write_str("the entry on the old server expires"),
            Self::DropEntry(Server::New) => f.write_str("the entry on the new server expires"),
        }
    }
}

#[test]
fn split_brain_is_bounded() {
    holds("split brain", SplitBrain::new(None), 100_000);
}

#[test]
fn without_the_primary_lease_the_old_server_is_served_forever() {
    let model = SplitBrain::new(Some(Broken::Trust));
    breaks("trust without an end", &model, BOUND);
}

#[test]
fn without_rejection_the_old_server_is_served_forever() {
    let model = SplitBrain::new(Some(Broken::Refusal));
    breaks("cut-off primary that accepts writes", &model, BOUND);
}

#[test]
fn without_dropping_recorded_keys_the_new_server_stays_stale() {
    let model = SplitBrain::new(Some(Broken::Replay));
    breaks("no replay", &model, OWED);
}

#[test]
fn keys_forgotten_by_the_clock_are_forgotten_too_soon() {
    let model = SplitBrain::new(Some(Broken::Memory));
    breaks("memory by the clock", &model, OWED);
}

#[test]
fn keys_recorded_from_the_intent_on_are_forgotten_too_soon() {
    let model = SplitBrain::new(Some(Broken::MemoryFromEnd));
    breaks("memory from the intent on", &model, OWED);
}

#[test]
fn keys_recorded_for_less_than_the_lag_are_forgotten_too_soon() {
    let model = SplitBrain::new(Some(Broken::MemoryAsLongAsLag));
    breaks("memory shorter than the lag", &model, OWED);
}

#[test]
fn without_histories_the_new_server_serves_entries_that_the_old_one_dropped() {
    let model = SplitBrain::new(Some(Broken::Stamp));
    breaks("split brain without histories", &model, OWED);
}

#[test]
fn process_that_dies_on_the_old_server_leaves_a_stale_row() {
    let model = SplitBrain::new(Some(Broken::Survival));
    breaks("split brain and crash", &model, OWED);
}
