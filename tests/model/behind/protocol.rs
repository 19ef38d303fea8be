//! Which process may take which step when, and which faults may come between.
//!
//! Any process may stop at any step: the search visits all states in which it takes no further step. Where it matters that
//! it never will, it dies. A commit with an unknown outcome is a commit followed by the flusher's death.

use std::collections::BTreeMap;

use larder::token::Token;
use stateright::{Model, Property};

use crate::{
    behind::{
        broken::Broken,
        claims::{always, sometimes},
        flush, read,
        read::Step,
        world::{
            Action, Database, Fate, Fault, Flusher, FlusherStep, KEYS, Queue, Read, Reader, Server,
            World, Writer, WriterStep, Wrong,
        },
        write::{self, TRIES, Write},
    },
    check::Claim,
};

/// A model: its bounds, its faults, its mutant, and its claims.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    /// The writes of each writer, in their order.
    pub(crate) writers: &'static [&'static [Write]],
    pub(crate) readers: usize,
    /// Reads per reader.
    pub(crate) rounds: u8,
    pub(crate) flushers: usize,
    /// Whether the queue was begun before.
    pub(crate) begun: bool,
    /// Whether writers and flushers die.
    pub(crate) crashes: bool,
    /// Whether rows are evicted.
    pub(crate) drops: bool,
    /// The faults of the server.
    pub(crate) faults: &'static [Fault],
    /// The maximum number of these faults.
    pub(crate) most_faults: u8,
    pub(crate) broken: Option<Broken>,
    pub(crate) claims: &'static [Claim],
    pub(crate) scenes: &'static [Claim],
}

impl Behind {
    /// Returns whether only a fault can still change the state.
    pub(crate) fn is_over(&self, world: &World) -> bool {
        let mut actions = Vec::new();
        self.steps(world, &mut actions);
        actions.into_iter().all(|action| {
            let next = self.next_state(world, action);
            next.is_none_or(|next| next == *world)
        })
    }

    /// Adds the steps that are not faults.
    fn steps(&self, world: &World, actions: &mut Vec<Action>) {
        let primary = world.primary();
        for (number, reader) in world.readers.iter().enumerate() {
            if reader.left > 0 {
                actions.push(Action::Reader(number, read::next(reader.read)));
            }
            if reader.server != primary {
                actions.push(Action::MoveReader(number));
            }
        }
        for (number, writer) in world.writers.iter().enumerate() {
            if writer.step == WriterStep::Dead {
                continue;
            }
            let write = self.writers[number].get(writer.done);
            if let Some(step) = write::next(write, writer.step) {
                actions.push(Action::Writer(number, step));
            }
            if self.tells(world, writer).is_some() {
                actions.push(Action::Tell(number));
            }
            if writer.server != primary {
                actions.push(Action::MoveWriter(number));
            }
        }
        for (number, flusher) in world.flushers.iter().enumerate() {
            if let Some(step) = flush::next(world, number, self.broken) {
                actions.push(Action::Flusher(number, step));
            }
            if flusher.server != primary && flusher.step != FlusherStep::Dead {
                actions.push(Action::MoveFlusher(number));
            }
        }
    }

    /// Returns an epoch for which a writer can count its missing writes, and their number.
    fn tells(&self, world: &World, writer: &Writer) -> Option<(u8, u8)> {
        let server = &world.servers[writer.server];
        writer.memory.iter().find_map(|(epoch, number)| {
            let offset = world.database.offset(*epoch);
            let held = server.log(*epoch).last().map_or(0, |entry| entry.number);
            if self.broken == Some(Broken::Forget) {
                let is_over = server.state.is_none_or(|queue| queue.epoch != *epoch);
                let known = held.max(offset.position);
                return is_over.then_some((*epoch, number.saturating_sub(known)));
            }
            let known = offset.position;
            offset
                .closed
                .then_some((*epoch, number.saturating_sub(known)))
        })
    }

    fn fault(world: &mut World, fault: Fault) {
        let primary = world.primary();
        world.faults_left -= 1;
        world.histories += 1;
        let stamp = world.histories;
        match fault {
            Fault::Restart => world.servers[primary].stamp = stamp,
            Fault::Rollback => {
                let copy = world.copy.clone().expect("there is a copy");
                world.servers[primary] = Server { stamp, ..copy };
            }
            Fault::Empty => world.servers[primary] = Server::empty(stamp),
            Fault::Flushall => {
                let stamp = world.servers[primary].stamp;
                world.servers[primary] = Server::empty(stamp);
            }
            Fault::Promote => {
                let copy = world.copy.take().expect("there is a copy");
                world.servers.push(Server { stamp, ..copy });
            }
        }
        if world.faults_left == 0 {
            world.copy = None;
        }
        let server = &world.servers[world.primary()];
        for written in &mut world.written {
            let log = server.log(written.epoch);
            let is_held = log.iter().any(|entry| entry.number == written.number);
            if written.fate == Fate::Queued && !is_held {
                written.fate = Fate::Lost;
            }
        }
    }

    fn read(&self, world: &mut World, number: usize) {
        let Reader { server, left, read } = world.readers[number];
        let name = Token::numbered(10 * (number as u64 + 1) + u64::from(left));
        let reader = match read::step(world, server, 0, name, read, self.broken) {
            Step::Next(read) => Reader { server, left, read },
            Step::Done(..) => Reader {
                server,
                left: left - 1,
                read: Read::Idle,
            },
        };
        world.readers[number] = reader;
    }
}

impl Model for Behind {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut database = Database::new();
        let mut server = Server::empty(0);
        if self.begun {
            server.state = Some(Queue {
                epoch: database.register(self.broken),
                stamp: 0,
                last: 0,
                alone: true,
            });
        }
        let writer = Writer {
            server: 0,
            done: 0,
            left: TRIES,
            step: WriterStep::Ready,
            memory: BTreeMap::new(),
        };
        let reader = Reader {
            server: 0,
            left: self.rounds,
            read: Read::Idle,
        };
        let flusher = Flusher {
            server: 0,
            step: FlusherStep::Idle,
        };
        vec![World {
            database,
            servers: vec![server],
            copy: None,
            readers: vec![reader; self.readers],
            writers: vec![writer; self.writers.len()],
            flushers: vec![flusher; self.flushers],
            faults_left: self.most_faults,
            histories: 0,
            written: Vec::new(),
            wrong: Wrong::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.steps(world, actions);
        let primary = &world.servers[world.primary()];
        if self.crashes {
            for (number, writer) in world.writers.iter().enumerate() {
                let is_done = writer.done == self.writers[number].len();
                if writer.step != WriterStep::Dead && !(is_done && writer.memory.is_empty()) {
                    actions.push(Action::CrashWriter(number));
                }
            }
            for (number, flusher) in world.flushers.iter().enumerate() {
                // An idle flusher that dies is one that takes no further step.
                if !matches!(flusher.step, FlusherStep::Dead | FlusherStep::Idle) {
                    actions.push(Action::CrashFlusher(number));
                }
            }
        }
        if self.drops {
            for key in 0..KEYS {
                if primary.keys[key].is_some() {
                    actions.push(Action::Drop(key));
                }
            }
        }
        if world.faults_left > 0 {
            let copies = [Fault::Rollback, Fault::Promote];
            if world.copy.is_none() && self.faults.iter().any(|fault| copies.contains(fault)) {
                actions.push(Action::Copy);
            }
            for fault in self.faults {
                if world.copy.is_some() || !copies.contains(fault) {
                    actions.push(Action::Fault(*fault));
                }
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        let primary = world.primary();
        match action {
            Action::Reader(number, _) => self.read(&mut world, number),
            Action::Writer(number, _) => {
                let write = self.writers[number].get(world.writers[number].done);
                write::step(&mut world, number, write, self.broken);
            }
            Action::Flusher(number, _) => flush::step(&mut world, number, self.broken),
            Action::Tell(number) => {
                let (epoch, lost) = self.tells(&world, &world.writers[number])?;
                world.writers[number].memory.remove(&epoch);
                let offset = world.database.offset_mut(epoch);
                offset.lost = offset.lost.max(lost);
            }
            Action::MoveReader(number) => {
                let reader = &mut world.readers[number];
                // What it has begun on the old server does not help here.
                (reader.server, reader.read) = (primary, Read::Idle);
            }
            Action::MoveWriter(number) => {
                let writer = &mut world.writers[number];
                writer.server = primary;
                if let WriterStep::Reading(_) = writer.step {
                    writer.step = WriterStep::Ready;
                }
            }
            Action::MoveFlusher(number) => world.flushers[number].server = primary,
            Action::CrashWriter(number) => world.writers[number].step = WriterStep::Dead,
            Action::CrashFlusher(number) => world.flushers[number].step = FlusherStep::Dead,
            Action::Drop(key) => world.servers[primary].keys[key] = None,
            Action::Copy => world.copy = Some(world.servers[primary].clone()),
            Action::Fault(fault) => Self::fault(&mut world, fault),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let claims = self.claims.iter().map(|claim| always(claim));
        claims
            .chain(self.scenes.iter().map(|scene| sometimes(scene)))
            .collect()
    }
}
