//! How a row is written: with one put, or with a read and a put whose condition is an unchanged row. How an incarnation
//! begins.

use larder::{
    state::{Condition, Judgement},
    token::Token,
};

use crate::behind::{
    broken::Broken,
    read::{self, Step},
    server::Answer,
    world::{Fate, Image, Read, World, WriterStep, Written},
};

/// The maximum number of leases that a modification takes.
pub(crate) const TRIES: u8 = 2;

/// What a writer does to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Save(usize),
    Delete(usize),
    /// Reads the row and puts a changed one.
    Modify(usize),
    /// Saves a row that the database rejects.
    Poison(usize),
}

/// The content of a put.
#[derive(Clone, Copy)]
struct Put {
    key: usize,
    /// The version that it was made from.
    base: Option<Image>,
    exists: bool,
    poison: bool,
    condition: Condition,
}

impl Put {
    fn plain(key: usize, exists: bool) -> Self {
        Self {
            key,
            base: None,
            exists,
            poison: false,
            condition: Condition::Any,
        }
    }
}

/// Returns the name of the next step of a writer, if it has one.
pub(crate) fn next(write: Option<&Write>, step: WriterStep) -> Option<&'static str> {
    match (step, write) {
        (WriterStep::Dead, _) => None,
        (WriterStep::Rotating { .. }, _) => Some("registers an incarnation"),
        (WriterStep::Registered { .. }, _) => Some("begins it in the store"),
        (_, None) => None,
        (WriterStep::Ready, Some(Write::Save(_))) => Some("saves"),
        (WriterStep::Ready, Some(Write::Delete(_))) => Some("deletes"),
        (WriterStep::Ready, Some(Write::Poison(_))) => Some("saves what will be refused"),
        (WriterStep::Ready, Some(Write::Modify(_))) => Some(read::next(Read::Idle)),
        (WriterStep::Reading(read), _) => Some(read::next(read)),
        (WriterStep::Changed(..), _) => Some("puts what it made of it"),
    }
}

/// Takes the next step of a writer.
pub(crate) fn step(
    world: &mut World,
    number: usize,
    write: Option<&Write>,
    broken: Option<Broken>,
) {
    let server = world.writers[number].server;
    let step = match (world.writers[number].step, write) {
        (WriterStep::Rotating { seen, stamp }, _) => WriterStep::Registered {
            seen,
            stamp,
            epoch: world.database.register(broken),
        },
        (WriterStep::Registered { seen, stamp, epoch }, _) => {
            switch(world, server, seen, stamp, epoch, broken);
            WriterStep::Ready
        }
        (WriterStep::Ready, Some(Write::Modify(key))) => {
            reading(world, number, *key, Read::Idle, broken)
        }
        (WriterStep::Reading(read), Some(Write::Modify(key))) => {
            reading(world, number, *key, read, broken)
        }
        (WriterStep::Changed(base, token), Some(Write::Modify(key))) => {
            let condition = match broken {
                Some(Broken::Unchanged) => Condition::Any,
                _ => Condition::Unchanged(token),
            };
            let changed = Put {
                base: Some(base),
                condition,
                ..Put::plain(*key, true)
            };
            put(world, number, changed, broken)
        }
        (_, Some(Write::Save(key))) => put(world, number, Put::plain(*key, true), broken),
        (_, Some(Write::Delete(key))) => put(world, number, Put::plain(*key, false), broken),
        (_, Some(Write::Poison(key))) => {
            let put_of_poison = Put {
                poison: true,
                ..Put::plain(*key, true)
            };
            put(world, number, put_of_poison, broken)
        }
        (step, _) => step,
    };
    world.writers[number].step = step;
}

/// Begins an incarnation in the store, if the store is still in the history in which it was requested.
pub(crate) fn switch(
    world: &mut World,
    server: usize,
    seen: Option<u8>,
    stamp: u8,
    epoch: u8,
    broken: Option<Broken>,
) {
    let server = &mut world.servers[server];
    if server.stamp == stamp || broken == Some(Broken::LateSwitch) {
        server.switch(seen, epoch);
    }
}

fn reading(
    world: &mut World,
    number: usize,
    key: usize,
    read: Read,
    broken: Option<Broken>,
) -> WriterStep {
    let writer = &world.writers[number];
    let (server, left) = (writer.server, writer.left);
    let name =
        Token::numbered(100 * (number as u64 + 1) + 10 * writer.done as u64 + u64::from(left));
    let is_filling = matches!(read, Read::Loaded { .. });
    let step = read::step(world, server, key, name, read, broken);
    if is_filling {
        world.writers[number].left -= 1;
    }
    match step {
        Step::Next(Read::Idle) => WriterStep::Ready,
        Step::Next(read) => WriterStep::Reading(read),
        Step::Done(image, Some(_)) if !image.exists => {
            done(world, number);
            WriterStep::Ready
        }
        Step::Done(image, Some(token)) => WriterStep::Changed(image, token),
        Step::Done(..) => {
            if world.writers[number].left == 0 {
                done(world, number);
            }
            WriterStep::Ready
        }
    }
}

fn put(world: &mut World, number: usize, put: Put, broken: Option<Broken>) -> WriterStep {
    let Put {
        key,
        base,
        exists,
        poison,
        condition,
    } = put;
    let server = world.writers[number].server;
    let stamp = world.servers[server].stamp;
    let image = Image {
        write: world.now() + 1,
        exists,
    };
    match world.servers[server].put(key, image, condition, broken) {
        Answer::Done(epoch, place) => {
            let is_primary = server == world.primary();
            if let Some(base) = base {
                world.wrong.overwritten |=
                    is_primary && world.rank(base.write) < world.latest(key, world.now());
            }
            world.written.push(Written {
                key,
                epoch,
                number: place,
                exists,
                poison,
                fate: if is_primary { Fate::Queued } else { Fate::Lost },
            });
            world.writers[number].memory.insert(epoch, place);
            done(world, number);
        }
        Answer::NeedsIncarnation(seen) => return WriterStep::Rotating { seen, stamp },
        Answer::Judged(Judgement::Met | Judgement::ConditionFailed | Judgement::RowUnknown) => {
            if world.writers[number].left == 0 {
                done(world, number);
            }
        }
    }
    WriterStep::Ready
}

fn done(world: &mut World, number: usize) {
    world.writers[number].done += 1;
    world.writers[number].left = TRIES;
}
