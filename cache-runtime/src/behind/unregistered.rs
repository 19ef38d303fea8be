//! An incarnation that exists in the store and has no row in `larder_offsets`: the row was deleted, or the database was
//! restored from an older backup.
//!
//! Its writes are acknowledged, but without a position no process can flush them. larder cannot repair this, so it
//! reports an error:
//!
//! - The writes that have left the log were committed once. The last batch in the log may have been committed too,
//!   before its flusher could settle it. And the incarnation may have been closed.
//! - So larder cannot guess the row: it could apply a batch twice, or apply writes that are dead letters already.
//! - The error names the missing row and the statement that inserts it. A person who knows the state of the database
//!   decides.
//!
//! Invariant: nothing of the partition is flushed until its row exists, so its writes keep their order.
//! Not here: known incarnations (`flush`, `loss`).

use crate::{
    behind::{
        offsets::{self, OpenIncarnation},
        partition::PartitionContext,
    },
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    protocol::queue_position::Incarnation,
    store::queue::Fetch,
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Fails if an incarnation of a partition has no row. `open` lists the incarnations whose row was found.
    pub(super) async fn none_is_missing(
        &self,
        open: &[(u16, OpenIncarnation)],
    ) -> Result<(), Error> {
        for partition in self.partitions() {
            for incarnation in partition.logs("look for").await? {
                let number = partition.number();
                let is_it = |(partition, open): &(u16, OpenIncarnation)| {
                    *partition == number && open.incarnation == incarnation
                };
                let place = partition.place(incarnation);
                let is_known = open.iter().any(is_it)
                    || offsets::position_of(&self.database.pool, &place)
                        .await?
                        .is_some();
                if !is_known && let Some(error) = partition.unregistered(incarnation).await? {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Returns the error of an incarnation without a row, or `None` if it has no writes and gets no more.
    pub(super) async fn unregistered(
        &self,
        incarnation: Incarnation,
    ) -> Result<Option<Error>, Error> {
        let pool = &self.context.database.pool;
        if !offsets::may_have_given(pool, &self.place(incarnation)).await? {
            // Larder has not written to it.
            return Ok(None);
        }
        let fetch = Fetch::read(incarnation, 0, 1);
        let fetched = self.fetch(fetch).await?;
        let is_current = fetched.current == Some(incarnation);
        let first = fetched
            .writes
            .first()
            .map(|write| write.pending.position.number);
        let position = match first {
            Some(first) => first.saturating_sub(1),
            None if is_current => fetched.current_last,
            None => return Ok(None),
        };
        let Incarnation { epoch, nonce } = incarnation;
        let (name, partition) = (&self.queue.name, self.number());
        Ok(Some(Error::new(
            ErrorKind::Configuration,
            format!(
                "failed to flush the queue {name}: larder_offsets has no row for incarnation {incarnation} of partition \
                 {partition}, because the row was deleted or the database was restored from an older backup; the queued writes \
                 wait. All writes up to number {position} have been in the database once. To flush the later ones, run \
                 `INSERT INTO larder_offsets (queue, partition_no, epoch, nonce, position, closed, lost, lost_counted_to) \
                 VALUES ('{}', {partition}, {epoch}, '{nonce:016x}', {position}, 0, 0, 0)`",
                name.replace('\'', "''")
            ),
        )))
    }
}
