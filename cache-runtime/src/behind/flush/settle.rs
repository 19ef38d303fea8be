//! Settling: the store learns which writes are in the database, and what becomes of their rows in the cache.
//!
//! 1. The latest write of each row in a batch decides. The row stays in the cache if the database holds what was written;
//!    otherwise it is dropped, and the next read loads it ([`Unjudged`]).
//! 2. The log is cut off up to the last write of the batch.
//!
//! Invariant: the log is cut off up to what was committed, never further.
//! Not here: how the database is asked what it holds (`held`).

use std::{collections::HashSet, sync::Arc};

use crate::{
    behind::{
        Image, Queued,
        held::{self, Held},
        offsets::OpenIncarnation,
        partition::PartitionContext,
        queue::Committed,
    },
    clock::millis,
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    store::queue::{Fetch, Logged, Settled},
};

/// How many writes that were committed earlier are settled at once.
const MAX_SETTLED: u32 = 1_000;

/// What decides what becomes of the rows of a batch.
pub(super) struct Unjudged<E: Entity, DB: Backend> {
    pub(super) writes: Vec<Queued<E>>,
    pub(super) held: Vec<Held<DB>>,
    /// The writes of which the database is known to hold another row, or none.
    pub(super) differs: Vec<u64>,
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Settles batches of this process.
    pub(super) async fn settle_all(&self, to_settle: &[Arc<Committed>]) -> Result<(), Error> {
        for committed in to_settle {
            let settled = match committed.settled.get() {
                Some(settled) => settled,
                None => {
                    let unjudged = committed.unjudged.downcast_ref::<Unjudged<E, DB>>();
                    let unjudged = unjudged.expect("a repository settles what it has flushed");
                    let judged = unjudged.judge(self.context).await;
                    committed.settled.get_or_init(|| judged)
                }
            };
            self.settle(committed.incarnation, settled, committed.up_to)
                .await?;
        }
        Ok(())
    }

    /// Settles what an earlier flush has committed. It is unknown here which of its writes were refused, so none of the rows is
    /// kept.
    pub(in crate::behind) async fn settle_committed(
        &self,
        open: &OpenIncarnation,
    ) -> Result<(), Error> {
        loop {
            let fetch = Fetch::read(open.incarnation, 0, MAX_SETTLED);
            let fetched = self.fetch(fetch).await?;
            let committed = fetched.writes.iter();
            let committed =
                committed.take_while(|write| write.pending.position.number <= open.position);
            let settled: Vec<_> = committed.map(dropped).collect();
            let Some(last) = settled.last().map(|settled| settled.number) else {
                if fetched.writes.is_empty() && open.position > 0 {
                    // The store may not know yet that the log was cut off, or has lost it.
                    self.settle(open.incarnation, &[], open.position).await?;
                }
                return Ok(());
            };
            self.settle(open.incarnation, &settled, last).await?;
        }
    }
}

impl<E: Entity, DB: Backend> Unjudged<E, DB> {
    /// Returns what is left in the store of each row that the batch has written. The latest write of a row decides: it is kept if
    /// the database holds the same.
    async fn judge(&self, context: &Context<E, DB>) -> Vec<Settled> {
        let changed = held::changed(&context.database, &self.held, &self.writes).await;
        let differs: HashSet<u64> = self.differs.iter().copied().chain(changed).collect();
        let mut seen = HashSet::with_capacity(self.writes.len());
        let mut settled = Vec::with_capacity(self.writes.len());
        for write in self.writes.iter().rev() {
            if seen.insert(&write.key) {
                let is_kept = !differs.contains(&write.number) && !context.is_changed_by_database();
                settled.push(Settled {
                    key: write.key.clone(),
                    number: write.number,
                    keep_ms: if is_kept { context.keep_ms(write) } else { 0 },
                });
            }
        }
        settled
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns for how many milliseconds a flushed row is served.
    fn keep_ms(&self, write: &Queued<E>) -> u64 {
        match &write.image {
            Image::Row(_) => millis(self.jittered_ttl(write.number)).max(1),
            Image::Deletion(_) => self.policy.negative_ttl.map_or(0, millis),
            Image::Unreadable { .. } => 0,
        }
    }

    /// Returns whether the row in the database may differ from the one that was written.
    pub(super) fn is_changed_by_database(&self) -> bool {
        let columns = &self.database.columns;
        self.policy.after_triggers || columns.iter().any(|column| column.role.is_generated())
    }
}

/// A write whose row is not to be served any more.
fn dropped(write: &Logged) -> Settled {
    Settled {
        key: write.key.clone(),
        number: write.pending.position.number,
        keep_ms: 0,
    }
}
