//! The protocol on one key of one server: the steps of each reader and writer, and their order.
//!
//! 1. A reader asks. After a miss it takes the lease, reads the row, and fills. Its process may die at any point, which is a
//!    reader that takes no further step.
//! 2. A writer begins, checks whether it can rely on its intent, commits, and ends. It may roll back, and it may die.
//! 3. Between any two steps, if the model allows it, an entry or a lease is dropped (expiry, eviction), intents expire or
//!    are lost, or the server restarts with older data.
//!
//! There is no limit on the number of faults, except restarts.
//!
//! A commit with an unknown outcome is a commit followed by the writer's death.

use larder::{state, token::Token};
use stateright::{Model, Property};

use crate::{
    broken::{self, Broken},
    check::Claim,
    claims::{FILL, HIT, REFUSED, STRICT, always, sometimes},
    store::{Row, SHORT_MS, apply, entry, intents, is_writing, lease},
    world::{Action, Announcement, Load, Reader, World, Writer, intent},
};

/// Whether and how a write is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coherence {
    /// The key is dropped after the commit.
    Lease,
    /// The intent is placed before the commit, and taken back after it.
    Intent,
}

/// A model: its bounds, its faults, its mutant, and its claims.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) coherence: Coherence,
    pub(crate) readers: usize,
    /// Reads per reader.
    pub(crate) rounds: u8,
    pub(crate) writers: usize,
    /// Writers leave cache updates.
    pub(crate) write_through: bool,
    /// The first writer deletes the row.
    pub(crate) deletes: bool,
    /// The last writer is raw SQL. It announces nothing, and the key is dropped when it has committed.
    pub(crate) raw_sql: bool,
    /// The intent is placed inside the transaction, after the statement. So only one writer has an intent at a time.
    pub(crate) row_lock: bool,
    /// Writers may die.
    pub(crate) crashes: bool,
    /// Entries and leases may be dropped.
    pub(crate) drops: bool,
    /// Intents may expire.
    pub(crate) expiry: bool,
    /// A writer whose intent may have expired begins again before it commits.
    pub(crate) deadline_check: bool,
    /// Intents may be lost without notice.
    pub(crate) losses: bool,
    /// The maximum number of restarts.
    pub(crate) restarts: u8,
    /// Entries contain the history that they were written in.
    pub(crate) stamps: bool,
    /// A writer whose server has restarted begins again before it commits.
    pub(crate) stamp_check: bool,
    /// These two checks are a step of their own, as in reality, and not one step with the commit.
    pub(crate) check_apart: bool,
    pub(crate) broken: Option<Broken>,
    pub(crate) claims: &'static [Claim],
    pub(crate) scenes: &'static [Claim],
}

impl Protocol {
    /// Two writers and two readers, two reads each, without faults.
    pub(crate) const INTENT: Self = Self {
        coherence: Coherence::Intent,
        readers: 2,
        rounds: 2,
        writers: 2,
        write_through: false,
        deletes: false,
        raw_sql: false,
        row_lock: false,
        crashes: false,
        drops: false,
        expiry: false,
        deadline_check: true,
        losses: false,
        restarts: 0,
        stamps: true,
        stamp_check: true,
        check_apart: false,
        broken: None,
        claims: &[STRICT, FILL],
        scenes: &[HIT, REFUSED],
    };

    /// Returns the history of entries that are written now.
    pub(crate) fn stamp(&self, world: &World) -> u8 {
        if self.stamps { world.history } else { 0 }
    }

    /// Returns the token of a lease.
    pub(crate) fn lease_name(&self, reader: usize, left: u8) -> Token {
        match self.broken {
            Some(Broken::LeaseNames) => Token::numbered(1),
            _ => Token::numbered(10 * (reader as u64 + 1) + u64::from(left)),
        }
    }

    /// Returns whether a writer announces before it commits.
    fn announces(&self, writer: usize) -> bool {
        self.coherence == Coherence::Intent && !(self.raw_sql && writer == self.writers - 1)
    }

    /// Returns the row that a writer writes.
    fn written(&self, writer: usize) -> Row {
        let number = u8::try_from(writer).expect("there are few writers");
        (!(self.deletes && writer == 0)).then_some(number + 1)
    }

    /// Returns the row that the database commits for it.
    fn committed(&self, writer: usize) -> Row {
        match self.broken {
            Some(Broken::CommittedRow) => self.written(writer).map(|version| version + 10),
            _ => self.written(writer),
        }
    }

    fn announce(&self, world: &mut World, writer: usize, once: bool) -> Announcement {
        apply(&mut world.key, |key| {
            broken::begin(self.broken, key, intent(writer))
        });
        world.disturb();
        Announcement {
            stamp: self.stamp(world),
            fresh: true,
            once: once || !self.write_through,
            // The server no longer has what came before a lost intent, but the claim counts it.
            alone: once || !self.write_through,
        }
    }

    /// Returns whether a writer relies on its intent.
    fn is_good(&self, world: &World, announcement: Announcement) -> bool {
        (announcement.fresh || !self.deadline_check)
            && (announcement.stamp == self.stamp(world) || !self.stamp_check)
    }

    fn ask(&self, world: &mut World, reader: usize, left: u8, early: Option<Row>) {
        let stamp = self.stamp(world);
        let name = self.lease_name(reader, left);
        let granted = apply(&mut world.key, |key| {
            state::acquire(key.as_ref(), lease(name, stamp), SHORT_MS)
        });
        let load = Load {
            left,
            stamp,
            disturbed: false,
        };
        world.readers[reader] = match (granted, early) {
            (true, None) => Reader::Leased(load),
            (true, Some(row)) => Reader::Loaded(load, row),
            // A hit, or a read that bypasses the cache. Both return the row of this moment.
            (false, _) => Reader::Idle(left - 1),
        };
    }

    fn fill(&self, world: &mut World, reader: usize, load: Load, row: Row) {
        world.readers[reader] = Reader::Idle(load.left - 1);
        // The fill of a lease is sent only on a connection to the history of the lease.
        if load.stamp != self.stamp(world) {
            return;
        }
        let name = self.lease_name(reader, load.left);
        let accepted = apply(&mut world.key, |key| {
            broken::fill(self.broken, key, name, entry(row, load.stamp))
        });
        world.unfair_fill |= accepted && load.disturbed;
    }

    fn end(&self, world: &mut World, writer: usize, announcement: Announcement) {
        world.writers[writer] = Writer::Gone;
        if !self.announces(writer) {
            apply(&mut world.key, |key| broken::invalidate(self.broken, key));
            world.disturb();
            return;
        }
        let may = announcement.once || self.broken == Some(Broken::AnnouncedOnce);
        let stamp = match self.broken {
            Some(Broken::FirstStamp) => self.stamp(world),
            _ => announcement.stamp,
        };
        let update = (self.write_through && may).then(|| entry(self.written(writer), stamp));
        let stored = apply(&mut world.key, |key| {
            broken::end(self.broken, key, intent(writer), update)
        });
        world.disturb();
        world.unfair_update |= stored && !announcement.alone && stamp == self.stamp(world);
    }

    fn reader_actions(&self, world: &World, number: usize, actions: &mut Vec<Action>) {
        match world.readers[number] {
            Reader::Idle(0) => {}
            Reader::Idle(_) if self.broken == Some(Broken::FreshRead) => {
                actions.push(Action::ReadEarly(number));
            }
            Reader::Idle(_) | Reader::Early(..) => actions.push(Action::Ask(number)),
            Reader::Leased(_) => {
                actions.push(Action::Load(number));
                actions.push(Action::Release(number));
            }
            Reader::Loaded(..) => actions.push(Action::Fill(number)),
        }
    }

    fn writer_actions(&self, world: &World, number: usize, actions: &mut Vec<Action>) {
        let announced = self.announces(number);
        // With this mutant, a key lists only the latest intent, so the others are not placed again.
        let listed = || {
            self.broken == Some(Broken::IntentSet) || intents(&world.key).contains(&intent(number))
        };
        match world.writers[number] {
            Writer::Idle if announced => {
                let locked = world
                    .writers
                    .iter()
                    .any(|writer| matches!(writer, Writer::Announced(_) | Writer::Cleared(_)));
                if !(self.row_lock && locked) {
                    actions.push(Action::Begin(number));
                }
            }
            Writer::Idle => actions.push(Action::Commit(number)),
            Writer::Announced(announcement) => {
                let good = self.is_good(world, announcement);
                if good {
                    actions.push(if self.check_apart {
                        Action::Clear(number)
                    } else {
                        Action::Commit(number)
                    });
                }
                // Renewing an intent that is listed and good would only prolong it.
                if !good || !listed() {
                    actions.push(Action::Renew(number));
                }
                actions.push(Action::Abort(number));
            }
            Writer::Cleared(_) => actions.push(Action::Commit(number)),
            Writer::Committed(_) => {
                actions.push(Action::End(number));
                // The reply of the statement may be late, and the intent is renewed in the meantime.
                if announced && !listed() {
                    actions.push(Action::Renew(number));
                }
            }
            Writer::Gone => {}
        }
        let busy = !matches!(world.writers[number], Writer::Idle | Writer::Gone);
        if self.crashes && busy {
            actions.push(Action::Crash(number));
        }
    }

    fn write(&self, world: &mut World, action: &Action) -> Option<()> {
        match *action {
            Action::Begin(number) => {
                world.writers[number] = Writer::Announced(self.announce(world, number, true));
            }
            Action::Renew(number) => {
                let renewed = self.announce(world, number, false);
                world.writers[number] = match world.writers[number] {
                    Writer::Announced(_) => Writer::Announced(renewed),
                    Writer::Committed(_) => Writer::Committed(renewed),
                    _ => return None,
                };
            }
            Action::Clear(number) => {
                let Writer::Announced(announcement) = world.writers[number] else {
                    return None;
                };
                world.writers[number] = Writer::Cleared(announcement);
            }
            Action::Commit(number) => {
                let announcement = match world.writers[number] {
                    Writer::Announced(announcement) | Writer::Cleared(announcement) => announcement,
                    _ => Announcement {
                        stamp: 0,
                        fresh: true,
                        once: true,
                        alone: true,
                    },
                };
                world.row = self.committed(number);
                world.writers[number] = Writer::Committed(Announcement {
                    // After the commit it no longer matters.
                    fresh: true,
                    ..announcement
                });
            }
            Action::Abort(number) => {
                world.writers[number] = Writer::Gone;
                apply(&mut world.key, |key| {
                    broken::end(self.broken, key, intent(number), None)
                });
                world.disturb();
            }
            Action::End(number) => {
                let Writer::Committed(announcement) = world.writers[number] else {
                    return None;
                };
                self.end(world, number, announcement);
            }
            Action::Crash(number) => world.writers[number] = Writer::Gone,
            _ => return None,
        }
        Some(())
    }

    fn fail(&self, world: &mut World, action: &Action) {
        match *action {
            Action::Copy => world.copies.push(world.key.clone()),
            Action::Restart(copy) => {
                world.history += 1;
                world.key = copy.and_then(|number| world.copies.remove(number));
                world.disturb();
            }
            // An entry, a lease or intents are dropped. A writer sees its deadline pass no later than the server.
            _ => {
                if *action == Action::ExpireIntents && self.deadline_check {
                    for writer in &mut world.writers {
                        if let Writer::Announced(announcement) = writer {
                            announcement.fresh = false;
                        }
                    }
                }
                world.key = None;
                world.disturb();
            }
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.readers, self.rounds, self.writers)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for number in 0..self.readers {
            self.reader_actions(world, number, actions);
        }
        for number in 0..self.writers {
            self.writer_actions(world, number, actions);
        }
        let writing = is_writing(&world.key);
        if self.drops && world.key.is_some() && !writing {
            actions.push(Action::DropEntry);
        }
        if self.expiry && writing {
            actions.push(Action::ExpireIntents);
        }
        if self.losses && writing {
            actions.push(Action::LoseIntents);
        }
        let restarts = usize::from(self.restarts - world.history);
        if world.copies.len() < restarts {
            actions.push(Action::Restart(None));
            if world.key.is_some() {
                actions.push(Action::Copy);
            }
        }
        actions.extend((0..world.copies.len()).map(|copy| Action::Restart(Some(copy))));
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::ReadEarly(number) => {
                let Reader::Idle(left) = world.readers[number] else {
                    return None;
                };
                world.readers[number] = Reader::Early(left, world.row);
            }
            Action::Ask(number) => match world.readers[number] {
                Reader::Idle(left) => self.ask(&mut world, number, left, None),
                Reader::Early(left, row) => self.ask(&mut world, number, left, Some(row)),
                _ => return None,
            },
            Action::Load(number) => {
                let Reader::Leased(load) = world.readers[number] else {
                    return None;
                };
                world.readers[number] = Reader::Loaded(load, world.row);
            }
            Action::Release(number) => {
                let Reader::Leased(load) = world.readers[number] else {
                    return None;
                };
                let name = self.lease_name(number, load.left);
                world.readers[number] = Reader::Idle(load.left - 1);
                if load.stamp == self.stamp(&world) {
                    apply(&mut world.key, |key| state::release(key.as_ref(), name));
                }
            }
            Action::Fill(number) => {
                let Reader::Loaded(load, row) = world.readers[number] else {
                    return None;
                };
                self.fill(&mut world, number, load, row);
            }
            Action::DropEntry
            | Action::ExpireIntents
            | Action::LoseIntents
            | Action::Copy
            | Action::Restart(_) => self.fail(&mut world, &action),
            _ => self.write(&mut world, &action)?,
        }
        if self.write_through {
            world.watch();
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let claims = self.claims.iter().map(|claim| always(claim));
        let scenes = self.scenes.iter().map(|scene| sometimes(scene));
        claims.chain(scenes).collect()
    }
}
