//! The claims about write-behind, and the situations that a search must meet.

use larder::state::{Lookup, State, lookup};
use stateright::Property;

use crate::{
    behind::{
        protocol::Behind,
        server::content,
        world::{Fate, FlusherStep, Image, KEYS, Read, World, WriterStep, Written},
    },
    check::Claim,
    store::{Key, identity},
};

/// Each write is applied once, or is a dead letter.
pub(crate) const ONCE: Claim = "no write is applied twice";
/// A position never passes a write that was not applied.
pub(crate) const KEPT: Claim = "a write that was not applied is in the queue, after the position";
/// The database has what the queues contain up to their positions.
pub(crate) const FOLD: Claim = "the database holds the writes up to the position";
/// Writes of one row are applied in their order.
pub(crate) const ORDER: Claim = "writes of a row are applied in their order";
/// A read sees what was acknowledged before it began.
pub(crate) const SEEN: Claim = "a read sees every write that was acknowledged before it";
/// A row that is cached and not queued is the one in the database.
pub(crate) const CURRENT: Claim = "a cached row that is not queued is the one in the database";
/// The same, except between a commit and its settling.
pub(crate) const DUE: Claim =
    "a cached row that is not the one in the database is about to be settled";
/// Every lost write is counted, or will be.
pub(crate) const TOLD: Claim = "a lost write is counted, or recorded by its writer";
/// A modification is made to the latest row.
pub(crate) const UPDATES: Claim = "a modification builds on the latest write of its row";
/// Only writes that the database rejects become dead letters.
pub(crate) const FAIR: Claim = "a good write that the server has kept is not a dead letter";
/// In the end everything is in the database, and the store has nothing left to settle.
pub(crate) const END: Claim = "in the end nothing is queued, pending or indexed";

/// All of them.
pub(crate) const ALL: &[Claim] = &[
    ONCE, KEPT, FOLD, ORDER, SEEN, CURRENT, TOLD, UPDATES, FAIR, END,
];

// Situations.
pub(crate) const RESTORED: Claim = "a queued row is evicted";
pub(crate) const OVERTAKEN: Claim = "a flusher holds writes that another one has committed";
pub(crate) const LATE: Claim = "a flusher dies between its commit and its settling";
pub(crate) const HIT: Claim = "a row that was flushed is hit";
pub(crate) const LEASED: Claim = "a row is loaded while it is written";
pub(crate) const DEAD: Claim = "a write is a dead letter";
pub(crate) const STALE_PENDING: Claim = "a queued write of another history is found";
pub(crate) const CLOSED: Claim = "an incarnation is closed and the next one is flushed";
pub(crate) const RIVALS: Claim = "an incarnation is registered and never begun";
pub(crate) const LOST: Claim = "a lost write is counted";
pub(crate) const REVIVED: Claim = "a write that the server has lost is applied";
pub(crate) const LATE_DEAD: Claim = "a write of a closed incarnation is a dead letter";
pub(crate) const BUILT: Claim = "two modifications of a row are applied";

/// Returns the property of a claim.
pub(crate) fn always(claim: Claim) -> Property<Behind> {
    let condition: fn(&Behind, &World) -> bool = match claim {
        ONCE => |_, world| !world.wrong.repeated,
        ORDER => |_, world| !world.wrong.reordered,
        UPDATES => |_, world| !world.wrong.overwritten,
        FAIR => |_, world| !world.wrong.wrongly_dead,
        KEPT => |_, world| is_kept(world),
        FOLD => |_, world| (0..KEYS).all(|key| world.database.rows[key] == fold(world, key)),
        SEEN => |_, world| {
            !world.wrong.stale
                && (0..KEYS).all(|key| {
                    served(world, key).is_none_or(|(image, _)| {
                        world.rank(image.write) >= world.latest(key, world.now())
                    })
                })
        },
        CURRENT => |_, world| is_current(world),
        DUE => |_, world| is_settling(world) || is_current(world),
        TOLD => |_, world| is_counted_or_recorded(world),
        END => |model, world| is_settled(world) || !may_be_over(world) || !model.is_over(world),
        unknown => panic!("no such claim: {unknown}"),
    };
    Property::always(claim, condition)
}

/// Returns the property of a situation.
pub(crate) fn sometimes(scene: Claim) -> Property<Behind> {
    let condition: fn(&Behind, &World) -> bool = match scene {
        RESTORED => |_, world| {
            let server = &world.servers[world.primary()];
            (0..KEYS).any(|key| server.pending_index[key].is_some() && server.keys[key].is_none())
        },
        OVERTAKEN => |_, world| {
            world.flushers.iter().any(|flusher| {
                matches!(&flusher.step, FlusherStep::Fetched { epoch, position, .. }
                    if world.database.offset(*epoch).position > *position)
            })
        },
        LATE => |_, world| {
            let server = &world.servers[world.primary()];
            world
                .flushers
                .iter()
                .all(|flusher| matches!(flusher.step, FlusherStep::Dead | FlusherStep::Idle))
                && server.logs.iter().any(|(epoch, log)| {
                    log.iter()
                        .any(|entry| entry.number <= world.database.offset(*epoch).position)
                })
        },
        HIT => |_, world| {
            world.readers.iter().any(|reader| reader.left > 0)
                && served(world, 0).is_some_and(|(image, queued)| !queued && image.write > 0)
        },
        LEASED => |_, world| {
            world.readers.iter().any(|reader| {
                matches!(reader.read, Read::Loaded { image, .. } if image != world.database.rows[0])
            })
        },
        DEAD => |_, world| {
            world
                .written
                .iter()
                .any(|written| written.fate == Fate::Dead)
        },
        STALE_PENDING => |_, world| {
            world
                .readers
                .iter()
                .any(|reader| matches!(reader.read, Read::StalePending { .. }))
        },
        CLOSED => |_, world| {
            let mut offsets = world.database.offsets.iter();
            offsets.any(|offset| offset.closed && offset.position > 0)
                && offsets.any(|offset| offset.position > 0)
        },
        RIVALS => |_, world| {
            let server = &world.servers[world.primary()];
            server.state.is_some_and(|queue| {
                queue.epoch < world.database.latest()
                    && queue.stamp == server.stamp
                    && world
                        .writers
                        .iter()
                        .all(|writer| writer.step != WriterStep::Dead)
            })
        },
        LOST => |_, world| world.database.offsets.iter().any(|offset| offset.lost > 0),
        REVIVED => |_, world| {
            let server = &world.servers[world.primary()];
            world.written.iter().any(|written| {
                written.fate == Fate::Applied
                    && server.state.is_none_or(|queue| {
                        queue.epoch == written.epoch && queue.last < written.number
                    })
            })
        },
        LATE_DEAD => |_, world| {
            world
                .written
                .iter()
                .any(|written| written.fate == Fate::Dead && !written.poison)
        },
        BUILT => |_, world| world.written.iter().filter(|one| is_applied(one)).count() > 1,
        unknown => panic!("no such scene: {unknown}"),
    };
    Property::sometimes(scene, condition)
}

fn is_applied(written: &Written) -> bool {
    written.fate == Fate::Applied
}

/// Returns what the primary would serve, and whether that is queued.
fn served(world: &World, key: usize) -> Option<(Image, bool)> {
    let server = &world.servers[world.primary()];
    let state = server.keys[key].as_ref().map(|slot| &slot.state);
    match lookup(state, identity(server.stamp)) {
        Lookup::Value(..) | Lookup::Negative(_) => {
            let queued = matches!(state, Some(State::Pending(..)));
            content(state?).map(|(image, _)| (image, queued))
        }
        _ => None,
    }
}

/// Returns whether every cached row that is not queued is the one in the database.
fn is_current(world: &World) -> bool {
    (0..KEYS).all(|key| {
        served(world, key).is_none_or(|(image, queued)| queued || image == world.database.rows[key])
    })
}

/// Returns whether a flusher is about to settle on the primary what it has committed.
fn is_settling(world: &World) -> bool {
    world.flushers.iter().any(|flusher| {
        flusher.server == world.primary() && matches!(flusher.step, FlusherStep::Committed { .. })
    })
}

fn is_kept(world: &World) -> bool {
    let server = &world.servers[world.primary()];
    let mut written = world.written.iter().enumerate();
    written.all(|(index, written)| {
        written.fate != Fate::Queued
            || (written.number > world.database.offset(written.epoch).position
                && server.log(written.epoch).iter().any(|entry| {
                    entry.number == written.number && usize::from(entry.image.write) == index + 1
                }))
    })
}

/// Returns the row that the applied writes lead to, in their order.
fn fold(world: &World, key: usize) -> Image {
    let applied = world.written.iter().enumerate();
    let applied = applied.filter(|(_, written)| written.key == key && is_applied(written));
    let last = applied.max_by_key(|(_, written)| (written.epoch, written.number));
    last.map_or(
        Image {
            write: 0,
            exists: true,
        },
        |(index, written)| Image {
            write: u8::try_from(index + 1).expect("a model has few writes"),
            exists: written.exists,
        },
    )
}

fn is_counted_or_recorded(world: &World) -> bool {
    let lost = || world.written.iter().filter(|one| one.fate == Fate::Lost);
    lost().all(|one| {
        let before = lost().filter(|other| other.epoch == one.epoch && other.number <= one.number);
        before.count() <= world.database.offset(one.epoch).lost.into()
            || world.writers.iter().any(|writer| {
                let known = writer.memory.get(&one.epoch);
                known.is_some_and(|number| *number >= one.number)
            })
    })
}

/// Returns whether no reader has reads left, and a flusher is idle.
fn may_be_over(world: &World) -> bool {
    let mut flushers = world.flushers.iter();
    flushers.any(|flusher| flusher.step == FlusherStep::Idle)
        && world.readers.iter().all(|reader| reader.left == 0)
}

/// Returns whether nothing is queued, pending, or in the index of pending rows.
fn is_settled(world: &World) -> bool {
    let server = &world.servers[world.primary()];
    let is_pending =
        |key: &Key| matches!(key, Some(slot) if matches!(slot.state, State::Pending(..)));
    world.written.iter().all(|one| one.fate != Fate::Queued)
        && !server.keys.iter().any(is_pending)
        && server.pending_index.iter().all(Option::is_none)
        && server.logs.is_empty()
}
