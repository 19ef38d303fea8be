//! How a queue is flushed: read the position, fetch, commit, settle; close an ended incarnation; late writes are dead
//! letters.

use crate::behind::{
    broken::Broken,
    database,
    world::{Entry, Fate, FlusherStep, World},
    write,
};

/// What an idle flusher would do next.
enum Work {
    NeedsIncarnation(Option<u8>),
    Flush(u8, bool),
}

/// Returns the name of the next step of a flusher, if it has one.
pub(crate) fn next(world: &World, number: usize, broken: Option<Broken>) -> Option<&'static str> {
    Some(match &world.flushers[number].step {
        FlusherStep::Idle => match work(world, number, broken)? {
            Work::NeedsIncarnation(_) => "finds another history",
            Work::Flush(..) => "asks the database for the position",
        },
        FlusherStep::Believing { .. } => "fetches",
        FlusherStep::Fetched { .. } => "commits",
        FlusherStep::Ended { .. } => "closes the incarnation",
        FlusherStep::Committed { .. } => "settles",
        FlusherStep::Rotating { .. } => "registers an incarnation",
        FlusherStep::Registered { .. } => "begins it in the store",
        FlusherStep::Dead => return None,
    })
}

/// Takes the next step of a flusher.
pub(crate) fn step(world: &mut World, number: usize, broken: Option<Broken>) {
    let at = world.flushers[number].server;
    let next = match world.flushers[number].step.clone() {
        FlusherStep::Idle => match work(world, number, broken) {
            None => FlusherStep::Idle,
            Some(Work::NeedsIncarnation(seen)) => FlusherStep::Rotating {
                seen,
                stamp: world.servers[at].stamp,
            },
            Some(Work::Flush(epoch, closed)) => FlusherStep::Believing {
                epoch,
                position: world.database.offset(epoch).position,
                closed,
            },
        },
        FlusherStep::Believing {
            epoch,
            position,
            closed,
        } => fetch(world, number, epoch, position, closed, broken),
        FlusherStep::Fetched {
            epoch,
            position,
            closed,
            entries,
        } => {
            if database::flush(world, epoch, position, closed, &entries, broken) {
                let is_kept = |entry: &Entry| {
                    world.written[usize::from(entry.image.write) - 1].fate != Fate::Dead
                };
                let entries = entries.iter().map(|entry| (*entry, is_kept(entry)));
                FlusherStep::Committed {
                    epoch,
                    entries: entries.collect(),
                }
            } else {
                FlusherStep::Idle
            }
        }
        FlusherStep::Ended { epoch, position } => {
            world.database.close(epoch, position);
            if world.database.offset(epoch).closed {
                world.servers[at].clear(epoch);
            }
            FlusherStep::Idle
        }
        FlusherStep::Committed { epoch, entries } => {
            world.servers[at].settle(epoch, &entries, broken);
            FlusherStep::Idle
        }
        FlusherStep::Rotating { seen, stamp } => FlusherStep::Registered {
            seen,
            stamp,
            epoch: world.database.register(broken),
        },
        FlusherStep::Registered { seen, stamp, epoch } => {
            write::switch(world, at, seen, stamp, epoch, broken);
            FlusherStep::Idle
        }
        FlusherStep::Dead => FlusherStep::Dead,
    };
    world.flushers[number].step = next;
}

/// Returns what a flusher has to do.
fn work(world: &World, number: usize, broken: Option<Broken>) -> Option<Work> {
    let server = &world.servers[world.flushers[number].server];
    let database = &world.database;
    let is_gated = !matches!(broken, Some(Broken::EarlyFill | Broken::DropInstead));
    let rotates = is_gated && broken != Some(Broken::CloseUnused);
    let is_over = |epoch| broken == Some(Broken::Reopen) && database.offset(epoch).closed;
    if rotates
        && server
            .state
            .is_none_or(|queue| queue.stamp != server.stamp || is_over(queue.epoch))
    {
        return Some(Work::NeedsIncarnation(
            server.state.map(|queue| queue.epoch),
        ));
    }
    let late = (1..=database.latest())
        .find(|epoch| database.offset(*epoch).closed && !server.log(*epoch).is_empty());
    if let Some(epoch) = late {
        return Some(Work::Flush(epoch, true));
    }
    let first = match broken {
        Some(Broken::Epochs) => (1..=database.latest())
            .rev()
            .find(|epoch| !database.offset(*epoch).closed && !server.log(*epoch).is_empty()),
        _ => None,
    };
    let epoch = first.or(database.first_open())?;
    let position = database.offset(epoch).position;
    let has_entries = match broken {
        Some(Broken::Leftovers) => server
            .log(epoch)
            .iter()
            .any(|entry| entry.number > position),
        Some(Broken::Group) => untaken(world, epoch).is_some(),
        _ => !server.log(epoch).is_empty(),
    };
    let has_ended = epoch < database.latest()
        && match server.state {
            Some(queue) => may_close(queue.epoch, epoch, broken),
            None => broken == Some(Broken::CloseUnused),
        };
    let is_alone = is_gated
        && server
            .state
            .is_some_and(|queue| queue.epoch == epoch && !queue.alone);
    (has_entries || has_ended || is_alone).then_some(Work::Flush(epoch, false))
}

fn fetch(
    world: &mut World,
    number: usize,
    epoch: u8,
    position: u8,
    closed: bool,
    broken: Option<Broken>,
) -> FlusherStep {
    let at = world.flushers[number].server;
    if broken == Some(Broken::Group) {
        return match untaken(world, epoch) {
            Some(entry) => FlusherStep::Fetched {
                epoch,
                position,
                closed,
                entries: vec![entry],
            },
            None => FlusherStep::Idle,
        };
    }
    let server = &mut world.servers[at];
    let log = server.log(epoch).iter().copied();
    let (committed, entries): (Vec<_>, Vec<_>) = log.partition(|entry| entry.number <= position);
    if !committed.is_empty() && broken != Some(Broken::Leftovers) {
        // The flusher does not know which of them were rejected, so it keeps none in the cache.
        return FlusherStep::Committed {
            epoch,
            entries: committed.into_iter().map(|entry| (entry, false)).collect(),
        };
    }
    if !entries.is_empty() {
        if broken == Some(Broken::TrimFirst) {
            server.trim(epoch, |_| true);
        }
        return FlusherStep::Fetched {
            epoch,
            position,
            closed,
            entries,
        };
    }
    if closed {
        server.clear(epoch);
        return FlusherStep::Idle;
    }
    let may_close = match &mut server.state {
        Some(queue) => {
            // If this is the current one, all incarnations before it are closed.
            queue.alone |= queue.epoch == epoch;
            may_close(queue.epoch, epoch, broken)
        }
        None => broken == Some(Broken::CloseUnused),
    };
    if may_close {
        FlusherStep::Ended { epoch, position }
    } else {
        FlusherStep::Idle
    }
}

/// Returns whether an ended incarnation may be closed while the server writes to `current`.
fn may_close(current: u8, epoch: u8, broken: Option<Broken>) -> bool {
    match broken {
        Some(Broken::CloseCurrent) => true,
        Some(Broken::CloseLater) => current != epoch,
        _ => current > epoch,
    }
}

/// Returns the first write that no flusher has taken.
fn untaken(world: &World, epoch: u8) -> Option<Entry> {
    let server = &world.servers[world.primary()];
    let is_taken = |entry: &Entry| {
        world.flushers.iter().any(|flusher| match &flusher.step {
            FlusherStep::Fetched { entries, .. } => entries.contains(entry),
            FlusherStep::Committed { entries, .. } => entries.iter().any(|(own, _)| own == entry),
            _ => false,
        })
    };
    server
        .log(epoch)
        .iter()
        .find(|entry| !is_taken(entry))
        .copied()
}
