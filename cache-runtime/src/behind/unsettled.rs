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
    backend::Backend,
    behind::{Image, offsets},
    entity::Entity,
    key::Key,
    read::{Judged, Next},
    repository::Inner,
    store::{Store, queue::Settled},
};

impl<E: Entity, DB: Backend> Inner<E, DB> {
    /// Judges the queued write at a key that `state::view` could not judge.
    pub(crate) async fn judge_unsettled(&self, key: &Key) -> Judged<E> {
        let store = &self.cache.store;
        let Some(queue) = &self.queue else {
            // An entity that is not written behind has no key of this form; whatever stands there is not its business.
            return Judged::Unserved(Next::Bypass);
        };
        let lane = &queue.lanes[self.keys.partition(key)];
        let (pending, payload) = match store.queued(key).await {
            Ok(Some(queued)) => queued,
            Ok(None) => return Judged::Unserved(Next::Lease { over: false }),
            Err(error) => return self.judge(key, Err(error)),
        };
        let identity = pending.meta.lease.identity;
        if identity.stamp != store.stamp() {
            let place = queue.place(lane, pending.mark.incarnation);
            match offsets::position_of(&self.database.pool, &place).await {
                // The read goes to the same database, and tells what is wrong with it.
                Err(_) => return Judged::Unserved(Next::Bypass),
                Ok(Some((position, closed))) if closed || position >= pending.mark.number => {
                    let settled = [Settled {
                        key: key.clone(),
                        number: pending.mark.number,
                        keep_ms: 0,
                    }];
                    let incarnation = pending.mark.incarnation;
                    let dropped = store.settle(&lane.partition, incarnation, &settled, 0);
                    return match dropped.await {
                        Ok(()) => Judged::Unserved(Next::Lease { over: false }),
                        Err(error) => self.judge(key, Err(error)),
                    };
                }
                Ok(_) => {}
            }
        }
        match self.image(pending.is_deletion, identity, payload) {
            Image::Row(row) => Judged::Served(self.cached(Some(row), pending.meta)),
            Image::Deletion(_) => Judged::Served(self.cached(None, pending.meta)),
            Image::Unreadable { .. } => Judged::Unserved(Next::Bypass),
        }
    }
}
