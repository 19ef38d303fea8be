//! An incarnation that the store has and `larder_offsets` has not: its row was deleted, or the database was restored from a
//! backup that is older than it.
//!
//! Its writes are acknowledged, and without a position nobody can flush them. That must not stay unsaid, and larder cannot
//! mend it: what has left the log was committed once, but of what is still there the last batch may have been committed
//! before its flusher could say so, and the incarnation may have been closed. A row that was put back by guess would apply a
//! batch twice, or bring writes to the database that were dead letters already. So flushing fails, and says which row is
//! missing and how it is inserted by a person who knows what became of the database.
//!
//! Invariant: nothing of the partition is flushed before its row is there, so its writes keep their order.
//! Not here: incarnations that are known (`flush`, `burial`).

use crate::{
    behind::{
        offsets::{self, OpenIncarnation},
        queue::{Lane, Queue},
    },
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    protocol::mark::Incarnation,
    store::queue::{Fetch, QueueStore},
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Fails if an incarnation of a partition has no row. `open` are those whose row was found.
    pub(super) async fn none_is_missing(
        &self,
        queue: &Queue,
        open: &[(u16, OpenIncarnation)],
    ) -> Result<(), Error> {
        for lane in &queue.lanes {
            let logs = self.cache.store.logs(&lane.partition).await;
            for incarnation in logs.map_err(|error| self.queue_away("look for", error))? {
                let number = lane.partition.number;
                let is_it = |(part, open): &(u16, OpenIncarnation)| {
                    *part == number && open.incarnation == incarnation
                };
                let place = queue.place(lane, incarnation);
                let is_known = open.iter().any(is_it)
                    || offsets::position_of(&self.database.pool, &place)
                        .await?
                        .is_some();
                if !is_known && let Some(error) = self.missing(queue, lane, incarnation).await? {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The error of an incarnation that has no row; nothing if it has no writes either, and gets none any more.
    pub(super) async fn missing(
        &self,
        queue: &Queue,
        lane: &Lane,
        incarnation: Incarnation,
    ) -> Result<Option<Error>, Error> {
        let fetch = Fetch {
            incarnation,
            after: 0,
            count: 1,
            claim_ms: 0,
            is_first: false,
        };
        let fetched = self.fetch(lane, fetch).await?;
        let is_current = fetched.current == Some(incarnation);
        let first = fetched
            .writes
            .first()
            .map(|write| write.pending.mark.number);
        let position = match first {
            Some(first) => first.saturating_sub(1),
            None if is_current => fetched.current_last,
            None => return Ok(None),
        };
        let Incarnation { epoch, nonce } = incarnation;
        let (name, part) = (&queue.name, lane.partition.number);
        Ok(Some(Error::new(
            ErrorKind::Configuration,
            format!(
                "the queue {name} cannot be flushed: larder_offsets has no row for incarnation {incarnation} of its part {part}; \
                 it was deleted, or the database was restored from an older backup. What is queued waits. Writes up to number \
                 {position} have been in the database once; the later ones are flushed after `INSERT INTO larder_offsets (queue, \
                 part, epoch, nonce, position, closed, lost, counted) VALUES ('{}', {part}, {epoch}, '{nonce:016x}', {position}, 0, 0, \
                 0)`",
                name.replace('\'', "''")
            ),
        )))
    }
}
