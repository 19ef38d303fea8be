//! Decides what a read does with a queued write of an earlier history of the store, or of another layout of the struct.
//!
//! A restarted store may have restored queued writes that were flushed long ago, and overwritten in the database since. A
//! restarted store that lost nothing has queued writes that are nowhere else. The database distinguishes the two: it has the
//! position of the queue.
//!
//! 1. A write after the position is still pending, and is served.
//! 2. A write up to the position, or of a closed incarnation, is dropped from its key. Then the row is loaded. Nothing is
//!    dropped if the key holds another write by then.

use crate::{
    behind::{Image, offsets},
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    protocol::key::Key,
    read::{LookedUp, Next, content::RowOf},
    store::{
        Over, Store,
        failpoint::Mechanism,
        queue::{QueueStore, Settled},
    },
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Decides what to do with a queued write for which `state::lookup` returned `StalePending`. Fails if the database
    /// cannot be asked: the write may have been overwritten there.
    pub(crate) async fn resolve_stale_pending(&self, key: &Key) -> Result<LookedUp<E>, Error> {
        let store = &self.cache.store;
        if self.queue.is_none() {
            // Only write-behind entities have pending entries. Another program has written this one.
            return Ok(LookedUp::Unserved(Next::Bypass));
        }
        if !self.is_servable() {
            return Ok(LookedUp::Unserved(Next::Bypass));
        }
        let partition = self.partition_of(key);
        let (pending, payload) = match store.queued(key).await {
            Ok(Some(queued)) => queued,
            Ok(None) => {
                return Ok(LookedUp::Unserved(Next::Lease {
                    over: Over::Nothing,
                }));
            }
            Err(error) => return Ok(self.interpret::<RowOf<E>>(key, Err(error))),
        };
        let identity = pending.meta.lease.identity;
        if identity.history != store.history() {
            let place = partition.place(pending.position.incarnation);
            let known = offsets::position_of(&self.database.pool, &place).await?;
            let is_over = known
                .is_some_and(|(position, closed)| closed || position >= pending.position.number);
            let is_over = is_over && !store.disables(Mechanism::StalePending);
            if is_over {
                let settled = [Settled {
                    key: key.clone(),
                    number: pending.position.number,
                    keep_ms: 0,
                }];
                let incarnation = pending.position.incarnation;
                let dropped = store.settle(&partition.state.keys, incarnation, &settled, 0);
                return Ok(match dropped.await {
                    Ok(()) => LookedUp::Unserved(Next::Lease {
                        over: Over::Nothing,
                    }),
                    Err(error) => self.interpret::<RowOf<E>>(key, Err(error)),
                });
            }
        }
        Ok(match self.image(pending.is_deletion, identity, &payload) {
            Image::Row(row) => LookedUp::Served(self.cached(Some(row), pending.meta)),
            Image::Deletion(_) => LookedUp::Served(self.cached(None, pending.meta)),
            Image::Unreadable { .. } => LookedUp::Unserved(Next::Bypass),
        })
    }
}
