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
        let known = offsets::position_of(&self.context.database.pool, &place).await?;
        if is_decided(known, target.number) {
            return Ok(());
        }
        let pool = &self.context.database.pool;
        if known.is_none() && !offsets::may_have_given(pool, &place).await? {
            // It was not the place of a write of larder.
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::CacheUnavailable,
            format!(
                "failed to flush {}: the store has lost writes of the queue {}",
                E::SPEC.name,
                self.queue.name
            ),
        ))
    }
}

/// Returns whether the fate of a write, and of all before it, is in the database: applied, a dead letter, or counted as lost.
/// `known` is the position of its incarnation there, and whether that is closed.
fn is_decided(known: Option<(u64, bool)>, number: u64) -> bool {
    // A number of zero stands for an incarnation without writes, which may not be registered.
    number == 0 || known.is_some_and(|(position, is_closed)| is_closed || position >= number)
}

/// Returns whether a flush that has come to one position has applied the write at another.
fn has_passed(at: OpenIncarnation, target: QueuePosition) -> bool {
    at.incarnation.epoch > target.incarnation.epoch
        || (at.incarnation == target.incarnation && at.position >= target.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_knows_the_fate_of_writes_up_to_its_position_and_of_all_in_a_closed_incarnation()
    {
        for (known, number, expected) in [
            (Some((4, false)), 4, true),
            (Some((5, false)), 4, true),
            (Some((3, false)), 4, false),
            (Some((3, true)), 4, true),
            (Some((4, true)), 4, true),
            (None, 4, false),
            (None, 0, true),
            (Some((0, false)), 0, true),
            (Some((0, false)), 1, false),
        ] {
            assert_eq!(is_decided(known, number), expected, "{known:?}, {number}");
        }
    }
}
