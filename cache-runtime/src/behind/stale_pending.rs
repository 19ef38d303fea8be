//! A read that meets a queued write of an earlier history of the store, or of another layout of the struct.
//!
//! A store that was restarted may have come back with queued writes that are long in the database and were overwritten
//! there since. One that was restarted and lost nothing has writes that are nowhere else. The database can tell them apart:
//! it knows up to which write the queue was flushed.
//!
//! 1. Behind the position: the write is pending still, and served.
//! 2. Up to the position, or of a closed incarnation: what stands at the key is dropped, if it is still that write, and the
//!    row is loaded.

use crate::{
    behind::{Image, offsets},
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    protocol::key::Key,
    read::{LookedUp, Next},
    store::{
        Store,
        failpoint::Mechanism,
        queue::{QueueStore, Settled},
    },
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Judges the queued write at a key that `state::view` could not judge. Fails if the database cannot be asked: without
    /// an answer, no row could be told from one that was overwritten.
    pub(crate) async fn judge_unsettled(&self, key: &Key) -> Result<LookedUp<E>, Error> {
        let store = &self.cache.store;
        if self.queue.is_none() {
            // An entity that is not written behind has no key of this form; whatever stands there is not its business.
            return Ok(LookedUp::Unserved(Next::Bypass));
        }
        if !self.is_servable() {
            return Ok(LookedUp::Unserved(Next::Bypass));
        }
        let partition = self.partition_of(key);
        let (pending, payload) = match store.queued(key).await {
            Ok(Some(queued)) => queued,
            Ok(None) => return Ok(LookedUp::Unserved(Next::Lease { over: false })),
            Err(error) => return Ok(self.interpret(key, Err(error))),
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
                    Ok(()) => LookedUp::Unserved(Next::Lease { over: false }),
                    Err(error) => self.interpret(key, Err(error)),
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
