//! Waiting for a flush: a caller takes steps itself until its writes are in the database, or until there is room.
//!
//! 1. `flush()`, and a write that had to make room, wait until a write and all before it are in the database and have left the
//!    queue ([`PartitionContext::flush_up_to`]).
//! 2. If nothing is left to flush, the database is asked about the write, because the store may have lost it.
//!
//! Invariant: a wait that succeeds has seen the position in the database at or after the write, or its incarnation closed.
//! Not here: the steps (`flush`), and repeating one that failed (`flusher`).

use super::{FlushMode, StepResult};
use crate::{
    behind::{
        offsets::{self, OpenIncarnation},
        partition::PartitionContext,
    },
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    protocol::queue_position::QueuePosition,
};

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Makes room in a full partition.
    pub(in crate::behind) async fn make_room(&self) -> Result<(), Error> {
        self.flush_step(FlushMode::Single).await?;
        Ok(())
    }

    /// Flushes until the write at `target`, and all before it, are in the database and have left the queue. Without a target,
    /// until nothing is left.
    pub(in crate::behind) async fn flush_up_to(
        &self,
        target: Option<QueuePosition>,
    ) -> Result<(), Error> {
        loop {
            let stepped = self.flush_step(FlushMode::Drain).await?;
            if stepped == StepResult::Retry {
                continue;
            }
            let mut flusher = self.flusher(FlushMode::Drain).await;
            if let (Some(at), Some(target)) = (flusher.cursor.position, target)
                && has_passed(at, target)
            {
                flusher.cursor.drop_prefetched();
                return flusher.settle_rest().await;
            }
            drop(flusher);
            if stepped == StepResult::Idle {
                return match target {
                    Some(target) => self.check_flushed(target).await,
                    None => Ok(()),
                };
            }
        }
    }

    /// Fails if a write is not in the database although nothing is left to flush.
    async fn check_flushed(&self, target: QueuePosition) -> Result<(), Error> {
        let place = self.place(target.incarnation);
        match offsets::position_of(&self.context.database.pool, &place).await? {
            Some((position, closed)) if closed || position >= target.number => Ok(()),
            // Nothing was written to the incarnation.
            _ if target.number == 0 => Ok(()),
            _ => Err(Error::new(
                ErrorKind::CacheUnavailable,
                format!(
                    "failed to flush {}: the store has lost writes of the queue {}",
                    E::SPEC.name,
                    self.queue.name
                ),
            )),
        }
    }
}

/// Returns whether a flush that has come to one position has applied the write at another.
fn has_passed(at: OpenIncarnation, target: QueuePosition) -> bool {
    at.incarnation.epoch > target.incarnation.epoch
        || (at.incarnation == target.incarnation && at.position >= target.number)
}
