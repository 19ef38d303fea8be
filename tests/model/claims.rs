//! The claims about the protocol, and the situations that a search must meet.

use larder::state::{self, Lookup};
use stateright::Property;

use crate::{
    broken,
    check::Claim,
    protocol::Protocol,
    store::{identity, intents, served},
    world::{Reader, World, Writer, intent},
};

/// A served row is the committed one, at every moment.
pub(crate) const STRICT: Claim = "a served row is the committed one";
/// A served row is the committed one, unless a writer has committed and not ended.
pub(crate) const ACKNOWLEDGED: Claim = "a served row is stale only until its writer ends";
/// A fill is accepted only if nothing happened to the key since its lease.
pub(crate) const FILL: Claim = "a fill is accepted only under an undisturbed lease";
/// A writer stores its cache update only if its intent was alone at the key from begin to end.
pub(crate) const SOLE: Claim = "only a sole and undisturbed writer leaves a cache update";

// Situations.
pub(crate) const HIT: Claim = "a written row is hit";
pub(crate) const REFUSED: Claim = "a fill comes too late";
pub(crate) const OVERLAP: Claim = "two intents overlap";
pub(crate) const GONE: Claim = "an announced writer has lost its intent";
pub(crate) const FOREIGN: Claim = "an entry of an earlier history is met";
pub(crate) const PUBLISHED: Claim = "a row is hit that no reader has loaded";
pub(crate) const ABSENCE: Claim = "the absence of a deleted row is hit";

/// Returns the property of a claim.
pub(crate) fn always(claim: Claim) -> Property<Protocol> {
    let condition: fn(&Protocol, &World) -> bool = match claim {
        STRICT => {
            |model, world| served(&world.key, model.stamp(world)).is_none_or(|row| row == world.row)
        }
        ACKNOWLEDGED => |model, world| {
            served(&world.key, model.stamp(world)).is_none_or(|row| row == world.row)
                || world.is_ending()
        },
        FILL => |_, world| !world.unfair_fill,
        SOLE => |_, world| !world.unfair_update,
        unknown => panic!("no such claim: {unknown}"),
    };
    Property::always(claim, condition)
}

/// Returns the property of a situation.
pub(crate) fn sometimes(scene: Claim) -> Property<Protocol> {
    let condition: fn(&Protocol, &World) -> bool = match scene {
        HIT => |model, world| {
            can_read(world)
                && matches!(served(&world.key, model.stamp(world)), Some(Some(version)) if version > 0)
        },
        ABSENCE => {
            |model, world| can_read(world) && served(&world.key, model.stamp(world)) == Some(None)
        }
        REFUSED => |model, world| {
            world.readers.iter().enumerate().any(|(number, reader)| {
                matches!(reader, Reader::Loaded(load, _)
                    if !broken::is_current(model.broken, &world.key, model.lease_name(number, load.left)))
            })
        },
        OVERLAP => |_, world| intents(&world.key).len() > 1,
        GONE => |_, world| {
            world.writers.iter().enumerate().any(|(number, writer)| {
                matches!(writer, Writer::Announced(_))
                    && !intents(&world.key).contains(&intent(number))
            })
        },
        FOREIGN => |model, world| {
            let state = world.key.as_ref().map(|slot| &slot.state);
            state::lookup(state, identity(model.stamp(world)))
                == (Lookup::Foreign { damaged: false })
        },
        PUBLISHED => |model, world| {
            world.readers[..model.readers] == vec![Reader::Idle(model.rounds); model.readers]
                && served(&world.key, model.stamp(world)).is_some()
        },
        unknown => panic!("no such scene: {unknown}"),
    };
    Property::sometimes(scene, condition)
}

fn can_read(world: &World) -> bool {
    world
        .readers
        .iter()
        .any(|reader| matches!(reader, Reader::Idle(left) if *left > 0))
}
