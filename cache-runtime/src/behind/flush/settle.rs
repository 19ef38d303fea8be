//! Settling: the store learns which writes are in the database, and what becomes of their rows in the cache.
//!
//! 1. The latest write of each row in a batch decides. The row stays in the cache if the database holds what was written;
//!    otherwise it is dropped, and the next read loads it.
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
        queue::{Committed, FlushCursor},
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
    /// Settles what was committed and is not settled yet.
    pub(super) async fn settle_rest(&self, cursor: &mut FlushCursor) -> Result<(), Error> {
        self.settle_all(&cursor.to_settle).await?;
        cursor.to_settle.clear();
        Ok(())
    }

    pub(super) async fn settle_all(&self, to_settle: &[Arc<Committed>]) -> Result<(), Error> {
        for committed in to_settle {
            let settled = match committed.settled.get() {
                Some(settled) => settled,
                None => {
                    let judged = self.context.judged(committed).await;
                    committed.settled.get_or_init(|| judged)
                }
            };
            self.settle(committed.incarnation, settled, committed.up_to)
                .await?;
        }
        Ok(())
    }

    /// Settles what an earlier flush has committed. Which of it was refused is not known here, so nothing of it is kept.
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

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// What is left in the store of the rows of a batch.
    async fn judged(&self, committed: &Committed) -> Vec<Settled> {
        let unjudged = committed.unjudged.downcast_ref::<Unjudged<E, DB>>();
        let unjudged = unjudged.expect("a repository settles what it has flushed");
        let Unjudged {
            writes,
            held,
            differs,
        } = unjudged;
        let changed = held::changed(&self.database, held, writes).await;
        let differs: HashSet<u64> = differs.iter().copied().chain(changed).collect();
        self.settled(writes, &differs)
    }

    /// What is left in the store of each row that a batch has written: the latest write of it decides. It is kept if the
    /// database holds the same.
    fn settled(&self, writes: &[Queued<E>], differs: &HashSet<u64>) -> Vec<Settled> {
        let mut seen = HashSet::with_capacity(writes.len());
        let mut settled = Vec::with_capacity(writes.len());
        for write in writes.iter().rev() {
            if seen.insert(&write.key) {
                let is_kept = !differs.contains(&write.number) && !self.is_changed_by_database();
                settled.push(Settled {
                    key: write.key.clone(),
                    number: write.number,
                    keep_ms: if is_kept { self.keep_ms(write) } else { 0 },
                });
            }
        }
        settled
    }

    /// For how long a flushed row is served.
    fn keep_ms(&self, write: &Queued<E>) -> u64 {
        match &write.image {
            Image::Row(_) => millis(self.jittered_ttl(write.number)).max(1),
            Image::Deletion(_) => self.policy.negative_ttl.map_or(0, millis),
            Image::Unreadable { .. } => 0,
        }
    }

    /// Whether the row in the database may differ from the one that was written.
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
