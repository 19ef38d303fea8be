//! How a row is read: from the store, from the database under a lease, or from the database alone.

use larder::token::Token;

use crate::{
    behind::{
        broken::Broken,
        server::Found,
        world::{Image, Read, World, place},
    },
    store::lease,
};

/// The result of a step of a read.
pub(crate) enum Step {
    Next(Read),
    /// The row, and the token that it has in the store, if it is there.
    Done(Image, Option<Token>),
}

/// Returns the name of the next step of a read.
pub(crate) fn next(read: Read) -> &'static str {
    match read {
        Read::Idle => "asks the store",
        Read::Leased { .. } | Read::Bypassing { .. } => "reads the row",
        Read::Loaded { .. } => "fills",
        Read::StalePending { .. } => "asks the database for the position",
        Read::Settled { .. } => "drops a queued write that was applied",
    }
}

/// Takes the next step of a read. `name` is the token of its lease.
pub(crate) fn step(
    world: &mut World,
    server: usize,
    key: usize,
    name: Token,
    read: Read,
    broken: Option<Broken>,
) -> Step {
    let row = world.database.rows[key];
    match read {
        Read::Idle => {
            let since = world.now();
            let stamp = world.servers[server].stamp;
            match world.servers[server].acquire(key, name, broken) {
                Found::Row(image, token) => {
                    world.serve(server, key, image, since);
                    Step::Done(image, Some(token))
                }
                Found::Leased => Step::Next(Read::Leased { stamp, since }),
                Found::Busy => Step::Next(Read::Bypassing { since }),
                Found::StalePending(_, image) if broken == Some(Broken::Believe) => {
                    world.serve(server, key, image, since);
                    Step::Done(image, None)
                }
                Found::StalePending(position, _) if broken == Some(Broken::Dismiss) => {
                    Step::Next(Read::Settled { position })
                }
                Found::StalePending(position, image) => Step::Next(Read::StalePending {
                    position,
                    image,
                    since,
                }),
            }
        }
        Read::Leased { stamp, since } => {
            world.serve(server, key, row, since);
            Step::Next(Read::Loaded { stamp, image: row })
        }
        Read::Loaded { stamp, image } => {
            let accepted = world.servers[server].fill(key, lease(name, stamp), image);
            Step::Done(image, accepted.then_some(name))
        }
        Read::Bypassing { since } => {
            world.serve(server, key, row, since);
            Step::Done(row, None)
        }
        Read::StalePending {
            position,
            image,
            since,
        } => {
            let (epoch, number) = place(position);
            let offset = world.database.offset(epoch);
            if offset.closed || offset.position >= number {
                return Step::Next(Read::Settled { position });
            }
            world.serve(server, key, image, since);
            Step::Done(image, None)
        }
        Read::Settled { position } => {
            world.servers[server].drop_settled(key, position);
            Step::Next(Read::Idle)
        }
    }
}
