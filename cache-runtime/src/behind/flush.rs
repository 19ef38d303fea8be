//! One step of a flush: a batch of queued writes goes to the database and leaves its queue.
//!
//! 1. Which incarnation, and from which position on: the first open one in the order of epochs, as the database tells it.
//!    What an earlier flush has committed and not settled is settled first.
//! 2. Fetch: the writes behind the position, in one round trip that also renews this process's claim on the partition.
//! 3. Apply them and move the position, in one transaction (`apply`).
//! 4. Settle: in the store, the rows that were flushed become ordinary entries, if the database holds what was written, and the
//!    log is cut off.
//!    After a full batch that is left to the next step, which does it while the database works on the next batch. So is
//!    the reading of the batch after that.
//! 5. A log that has ended, and that nothing is written to any more, is closed: the next incarnation follows.
//!
//! Any process may run any step at any time: the position is compared by the database, and the marks by the store. The
//! claim, and what is remembered of the position, only save work.
//!
//! Invariant: the log is cut off behind what was committed, never further.
//! Invariant: what was committed here stays noted until it is settled, also if the step is broken off (`queue::Standing`).
//! Invariant: of what was read ahead only the writes count: that a log has ended, or has lost writes at its end, is seen by a
//! fresh look.
//! Invariant: an incarnation is closed only by who sees that the store writes to a later one.
//! Not here: when a step is taken (`flusher`).

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, OnceLock, atomic::Ordering},
};

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    behind::{
        Batch, Image, Queued,
        apply::{Applied, Flushed, Hooks, MOST_STATEMENTS, Unapplied},
        held::{self, Held},
        offsets::{self, OpenIncarnation},
        queue::{Committed, Lane, Queue, Standing},
    },
    clock::millis,
    context::Context,
    database::{self, Fate, backend::Backend, entity::Entity, tables},
    error::{Error, ErrorKind},
    policy::Codec,
    protocol::{
        mark::{Incarnation, Mark},
        state::Pending,
    },
    store::{
        Payload, Point, Store,
        queue::{Fetch, Fetched, Logged, QueueStore, Settled},
    },
};

/// How long this process keeps a partition to itself without renewing its claim.
pub(crate) const CLAIM_MS: u64 = 5_000;
/// How many writes that were committed earlier are settled at once.
const SETTLED_AT_ONCE: u32 = 1_000;

/// How many of the refused writes of a flush are named in the log.
const MOST_NAMED: usize = 5;

/// A look at a queue that reads no log.
pub(crate) const NOTHING: Fetch = Fetch {
    incarnation: Incarnation { epoch: 0, nonce: 0 },
    after: 0,
    count: 0,
    claim_ms: 0,
    is_first: false,
};

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The task's that flushes in the background: it is taken only with a claim.
    Task,
    /// A barrier's: it is taken whoever has the claim.
    Barrier,
    /// A write's that needs room: it is the only one, and leaves nothing unsettled.
    Once,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// A batch was flushed; whether it was as large as it may be, so that there is more.
    Flushed { full: bool },
    /// Something else has changed, such as the incarnation: take another step.
    Moved,
    /// There is nothing to flush.
    Idle,
    /// Another process flushes.
    Claimed,
}

/// What decides what becomes of the rows of a batch.
struct Unjudged<E: Entity, DB: Backend> {
    writes: Vec<Queued<E>>,
    held: Vec<Held<DB>>,
    /// The writes of which the database is known to hold another row, or none.
    differs: Vec<u64>,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Takes one step in a partition.
    pub(crate) async fn flush_step(&self, lane: &Lane, turn: Turn) -> Result<Stepped, Error> {
        // The store may have been replaced by one whose queue is another database's.
        self.bind_for_queue("flush").await?;
        let mut standing = lane.standing.lock().await;
        // Out of the futures of those who wait for it, which are deep enough.
        let stepped = Box::pin(self.step(lane, &mut standing, turn)).await;
        if stepped.is_err() {
            // The outcome of a commit may be unknown: ask again.
            standing.forget();
        }
        stepped
    }

    async fn step(
        &self,
        lane: &Lane,
        standing: &mut Standing,
        turn: Turn,
    ) -> Result<Stepped, Error> {
        let queue = self.queue();
        let claim_ms = turn.claim_ms();
        let open = match standing.position {
            Some(open) => open,
            None => {
                self.settle_rest(lane, standing).await?;
                // What another process has committed and is about to settle is left to it.
                let claim = Fetch {
                    claim_ms,
                    ..NOTHING
                };
                if claim_ms > 0 && !self.fetch(lane, claim).await?.is_claimed {
                    return Ok(Stepped::Claimed);
                }
                match self.resume(queue, lane).await? {
                    Some(open) => *standing.position.insert(open),
                    None => return Ok(Stepped::Idle),
                }
            }
        };
        let fetch = Fetch {
            incarnation: open.incarnation,
            after: open.position,
            count: queue.policy.batch,
            claim_ms,
            is_first: true,
        };
        if let Some(fetched) = standing.take_ahead(&fetch) {
            return self
                .flush_beside(lane, standing, fetched, open, turn, true)
                .await;
        }
        let fetched = self.fetch(lane, fetch).await?;
        if !fetched.is_claimed || !fetched.is_present || fetched.writes.is_empty() {
            // There is no transaction beside which it could be done.
            let was_settled = standing.unsettled.is_empty();
            self.settle_rest(lane, standing).await?;
            if fetched.is_claimed && !was_settled {
                // A put that came before does not tell of itself, as the queue was not empty for it.
                return Ok(Stepped::Moved);
            }
        }
        if !fetched.is_claimed {
            // Whoever has the partition moves on.
            standing.forget();
            return Ok(Stepped::Claimed);
        }
        self.count_lost(queue, lane, fetched.current).await?;
        if !fetched.is_present {
            // Nothing is cached before a queue stands in the store's present history.
            let rotations = lane.rotations.load(Ordering::Acquire);
            let (from, stamp) = (fetched.current, fetched.stamp);
            self.rotate(queue, lane, from, stamp, rotations).await?;
            return Ok(Stepped::Moved);
        }
        let is_current = fetched.current == Some(open.incarnation);
        if fetched.writes.is_empty() {
            // Numbers that were given and are not in the log.
            let missing = is_current && fetched.current_last > open.position;
            if !missing {
                return self.ended(queue, lane, standing, &fetched, open).await;
            }
        }
        self.flush_beside(lane, standing, fetched, open, turn, false)
            .await
    }

    /// Applies a batch. Beside it, what was committed before is settled, and if there is more, the next batch is read.
    async fn flush_beside(
        &self,
        lane: &Lane,
        standing: &mut Standing,
        fetched: Fetched,
        open: OpenIncarnation,
        turn: Turn,
        was_ahead: bool,
    ) -> Result<Stepped, Error> {
        let queue = self.queue();
        let to = fetched.end();
        let full = fetched.is_cut || fetched.writes.len() as u64 >= u64::from(queue.policy.batch);
        let goes_on = full && turn != Turn::Once;
        let next = Fetch {
            incarnation: open.incarnation,
            after: to,
            // Those that are still to come are better read together.
            count: if goes_on { queue.policy.batch } else { 0 },
            claim_ms: turn.claim_ms(),
            is_first: true,
        };
        let earlier = standing.unsettled.clone();
        let applied = async {
            let Some(committed) = self.apply(queue, lane, fetched, open, None).await? else {
                return Ok(None);
            };
            let position = committed.up_to;
            standing.position = Some(OpenIncarnation { position, ..open });
            standing.unsettled.push(Arc::new(committed));
            Ok(Some(position))
        };
        let settled = self.settle_all(lane, &earlier);
        let read = async {
            // A batch that was read ahead has not renewed the claim when it begins.
            let renews = was_ahead && next.claim_ms > 0;
            if !goes_on && !renews {
                return None;
            }
            // If this fails, the next step does too, and says so.
            let mut fetched = self.fetch(lane, next).await.ok()?;
            for write in &mut fetched.writes {
                self.decode(write);
            }
            Some(fetched)
        };
        let (applied, settled, ahead) = futures_util::future::join3(applied, settled, read).await;
        if settled.is_ok() {
            standing.unsettled.drain(..earlier.len());
        }
        let position = applied?;
        settled?;
        let Some(position) = position else {
            standing.forget();
            return Ok(Stepped::Moved);
        };
        let full = full || position < to;
        if goes_on {
            // Of use only if all of this batch was applied: it is asked for by where it begins.
            if let Some(ahead) = ahead {
                standing.keep_ahead(next, ahead);
            }
        } else {
            self.settle_rest(lane, standing).await?;
        }
        Ok(Stepped::Flushed { full })
    }

    /// Settles what was committed and is not settled yet.
    async fn settle_rest(&self, lane: &Lane, standing: &mut Standing) -> Result<(), Error> {
        self.settle_all(lane, &standing.unsettled).await?;
        standing.unsettled.clear();
        Ok(())
    }

    async fn settle_all(&self, lane: &Lane, unsettled: &[Arc<Committed>]) -> Result<(), Error> {
        for committed in unsettled {
            let settled = match committed.settled.get() {
                Some(settled) => settled,
                None => {
                    let judged = self.judged(committed).await;
                    committed.settled.get_or_init(|| judged)
                }
            };
            self.settle(lane, committed.incarnation, settled, committed.up_to)
                .await?;
        }
        Ok(())
    }

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

    /// Where to go on: the first open incarnation. Settles what was committed before, and clears away what is left of closed
    /// incarnations.
    async fn resume(&self, queue: &Queue, lane: &Lane) -> Result<Option<OpenIncarnation>, Error> {
        let number = lane.partition.number;
        let all = offsets::open_incarnations(&self.database.pool, &queue.name, number).await?;
        let logs = self.cache.store.logs(&lane.partition).await;
        for incarnation in logs.map_err(|error| self.queue_away("flush", error))? {
            if !all.iter().any(|open| open.incarnation == incarnation) {
                self.bury(queue, lane, incarnation).await?;
            }
        }
        let Some(first) = all.first() else {
            return Ok(None);
        };
        self.settle_committed(lane, first).await?;
        Ok(Some(*first))
    }

    /// Settles what an earlier flush has committed. Which of it was refused is not known here, so nothing of it is kept.
    pub(super) async fn settle_committed(
        &self,
        lane: &Lane,
        open: &OpenIncarnation,
    ) -> Result<(), Error> {
        loop {
            let fetch = Fetch {
                incarnation: open.incarnation,
                after: 0,
                count: SETTLED_AT_ONCE,
                claim_ms: 0,
                is_first: false,
            };
            let fetched = self.fetch(lane, fetch).await?;
            let committed = fetched.writes.iter();
            let committed =
                committed.take_while(|write| write.pending.mark.number <= open.position);
            let settled: Vec<_> = committed.map(dropped).collect();
            let Some(last) = settled.last().map(|settled| settled.number) else {
                if fetched.writes.is_empty() && open.position > 0 {
                    // The store may not know yet that the log was cut off, or has lost it.
                    self.settle(lane, open.incarnation, &[], open.position)
                        .await?;
                }
                return Ok(());
            };
            self.settle(lane, open.incarnation, &settled, last).await?;
        }
    }

    /// Applies a batch and settles it. `buried` is of a closed incarnation: up to which number its loss has been counted.
    pub(super) async fn flush_batch(
        &self,
        queue: &Queue,
        lane: &Lane,
        fetched: Fetched,
        open: OpenIncarnation,
        buried: Option<u64>,
    ) -> Result<(), Error> {
        match self.apply(queue, lane, fetched, open, buried).await? {
            Some(committed) => self.settle_all(lane, &[Arc::new(committed)]).await,
            None => Ok(()),
        }
    }

    /// Applies a batch. What is to be settled then; nothing if another flusher was faster.
    async fn apply(
        &self,
        queue: &Queue,
        lane: &Lane,
        fetched: Fetched,
        open: OpenIncarnation,
        buried: Option<u64>,
    ) -> Result<Option<Committed>, Error> {
        self.cache.store.reach(Point::BeforeFlush);
        let to = fetched.end();
        let place = queue.place(lane, open.incarnation);
        let foreign = self.foreign(&fetched.writes);
        let lost = self.lost_between(open.position, to, &fetched.writes, buried);
        let writes: Vec<_> = fetched.writes.into_iter().map(|w| self.queued(w)).collect();
        let batch = Batch {
            place: &place,
            from: open.position,
            to,
            writes: &writes,
            lost,
            buried,
            compares: self.compares_flushed(),
            codec: self.codec,
            layout: self.fingerprint,
            now_ms: self.cache.clock.wall_ms(),
        };
        let in_transaction = || self.cache.store.reach(Point::InFlushTransaction);
        let hooks = self.hooks(&in_transaction);
        // Named as a type, because the compiler cannot tell of the future itself that it may change threads.
        let applied: Pin<Box<dyn Future<Output = Result<Flushed<DB>, Unapplied>> + Send + '_>> =
            Box::pin(self.database.apply_queued(&batch, &hooks));
        let Flushed { applied, held, .. } = match applied.await {
            Ok(applied) => applied,
            Err(Unapplied::Overtaken) => {
                self.counters.flushes_overtaken.add_one();
                return Ok(None);
            }
            Err(Unapplied::Failed(error)) => {
                let what = format!("writes of the queue {}", queue.name);
                let fate = Fate::Nothing;
                return Err(database::describe("flush", &what, error, fate));
            }
            Err(Unapplied::Outdated(error)) => {
                let what = format!("dead letters of the queue {}", queue.name);
                return Err(tables::describe::<DB>("insert", &what, error));
            }
        };
        self.cache.store.reach(Point::AfterFlushCommit);
        let mut writes = writes;
        writes.truncate(writes.partition_point(|write| write.number <= applied.to));
        self.count_flushed(queue, lane, writes.len() as u64, &applied);
        let dead = applied.dead.iter().map(|dead| dead.number);
        let differs = dead.chain(applied.changed).chain(foreign).collect();
        Ok(Some(Committed {
            incarnation: open.incarnation,
            settled: OnceLock::new(),
            unjudged: Box::new(Unjudged {
                writes,
                held,
                differs,
            }),
            up_to: applied.to,
        }))
    }

    /// The writes of programs that know another layout of the struct, or write it with another codec. What they have put into
    /// the store may have columns that this program does not write.
    fn foreign(&self, writes: &[Logged]) -> Vec<u64> {
        let own = (self.fingerprint, self.codec.number());
        let foreign = writes.iter().filter(|write| {
            let identity = write.pending.meta.lease.identity;
            (identity.fingerprint, identity.codec) != own
        });
        foreign.map(|write| write.pending.mark.number).collect()
    }

    /// Whether flushed rows are compared with what the database makes of them.
    fn compares_flushed(&self) -> bool {
        #[cfg(feature = "test-util")]
        if self.cache.store.is_left_out(Mechanism::FlushedRow) {
            return false;
        }
        // Otherwise they are dropped anyway.
        !self.is_changed_by_database()
    }

    fn count_flushed(&self, queue: &Queue, lane: &Lane, count: u64, applied: &Applied) {
        let counters = &self.counters;
        counters.flushed.add(count);
        counters.flushed_rows.add(applied.rows);
        counters.flushes.add_one();
        counters.flush_statements.add(applied.statements);
        counters.dead_letters.add(applied.dead.len() as u64);
        self.tell_lost(queue, lane, applied.lost);
        if let Some(first) = applied.dead.first() {
            let numbers = applied.dead.iter().take(MOST_NAMED);
            let numbers: Vec<_> = numbers.map(|dead| dead.number).collect();
            tracing::error!(
                entity = E::SPEC.name,
                queue = &*queue.name,
                partition = lane.partition.number,
                writes = applied.dead.len(),
                numbers = ?numbers,
                error = first.error,
                "queued writes were refused and are dead letters now; the error is that of the first one"
            );
        }
    }

    pub(super) fn tell_lost(&self, queue: &Queue, lane: &Lane, lost: u64) {
        if lost > 0 {
            self.counters.lost.add(lost);
            tracing::error!(
                entity = E::SPEC.name,
                queue = &*queue.name,
                partition = lane.partition.number,
                writes = lost,
                "the store has lost acknowledged writes before they were flushed"
            );
        }
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
    fn is_changed_by_database(&self) -> bool {
        let columns = &self.database.columns;
        self.policy.after_triggers || columns.iter().any(|column| column.role.is_generated())
    }

    pub(super) async fn settle(
        &self,
        lane: &Lane,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> Result<(), Error> {
        let store = &self.cache.store;
        store.reach(Point::BeforeTrim);
        let done = store.settle(&lane.partition, incarnation, settled, up_to);
        done.await
            .map_err(|error| self.queue_away("settle flushed writes of", error))?;
        store.reach(Point::AfterTrim);
        Ok(())
    }

    /// The log has no more writes: closes its incarnation if nothing can follow.
    async fn ended(
        &self,
        queue: &Queue,
        lane: &Lane,
        standing: &mut Standing,
        fetched: &Fetched,
        open: OpenIncarnation,
    ) -> Result<Stepped, Error> {
        if fetched.current == Some(open.incarnation) {
            return Ok(Stepped::Idle);
        }
        let pool = &self.database.pool;
        // What was fetched is still the end: the log has not grown since it is written to no more.
        standing.forget();
        let epoch = open.incarnation.epoch;
        if fetched.current.is_none_or(|current| current.epoch < epoch) {
            // A server that was cut off, or set back: the later incarnation may be in use at another one.
            return Ok(Stepped::Idle);
        }
        let place = queue.place(lane, open.incarnation);
        if offsets::close(pool, &place, open.position).await? {
            self.clear(lane, open.incarnation).await?;
        }
        Ok(Stepped::Moved)
    }

    pub(crate) async fn fetch(&self, lane: &Lane, fetch: Fetch) -> Result<Fetched, Error> {
        let fetched = self.cache.store.fetch(&lane.partition, fetch).await;
        fetched.map_err(|error| self.queue_away("read writes of", error))
    }

    /// Decodes the row of a write that was read ahead. If it cannot be decoded, that is seen when the write is applied.
    fn decode(&self, write: &mut Logged) {
        let Pending {
            is_deletion, meta, ..
        } = write.pending;
        if !is_deletion && let Payload::Bytes(..) = write.payload {
            let image = self.image(is_deletion, meta.lease.identity, &write.payload);
            if let Image::Row(row) = image {
                write.payload = Payload::Shared(row);
            }
        }
    }

    /// A write of the log as the database takes it.
    fn queued(&self, write: Logged) -> Queued<E> {
        let Logged {
            key,
            pending,
            payload,
            ..
        } = write;
        Queued {
            number: pending.mark.number,
            key,
            image: self.image(pending.is_deletion, pending.meta.lease.identity, &payload),
        }
    }

    pub(crate) fn image(
        &self,
        is_deletion: bool,
        identity: crate::protocol::state::Identity,
        payload: &Payload,
    ) -> Image<E> {
        let bytes = match payload {
            Payload::Shared(row) => match Arc::clone(row).downcast() {
                Ok(row) => return Image::Row(row),
                Err(_) => &[],
            },
            Payload::Bytes(bytes, header) => &bytes[*header..],
        };
        let read = match Codec::from_number(identity.codec) {
            None => Err("its codec is not compiled in".to_owned()),
            // A positional codec would read another layout as something else.
            Some(codec)
                if codec.is_positional()
                    && !is_deletion
                    && identity.fingerprint != self.fingerprint =>
            {
                Err("it was written in another layout of the struct".to_owned())
            }
            Some(codec) if is_deletion => {
                let id = codec.decode(bytes).map(Image::Deletion);
                id.map_err(|error| error.to_string())
            }
            Some(codec) => {
                let row = self.database.decode(codec, bytes).map(Arc::new);
                row.map(Image::Row).map_err(|error| error.to_string())
            }
        };
        read.unwrap_or_else(|reason| Image::Unreadable {
            is_deletion,
            codec: identity.codec,
            layout: identity.fingerprint,
            payload: bytes.to_vec(),
            reason,
        })
    }

    fn hooks<'h>(&self, in_transaction: &'h (dyn Fn() + Send + Sync)) -> Hooks<'h> {
        Hooks {
            in_transaction,
            #[cfg(feature = "test-util")]
            compares_position: !self.cache.store.is_left_out(Mechanism::OffsetCompare),
            #[cfg(feature = "test-util")]
            keeps_order: !self.cache.store.is_left_out(Mechanism::QueueOrder),
            #[cfg(not(feature = "test-util"))]
            compares_position: true,
            #[cfg(not(feature = "test-util"))]
            keeps_order: true,
            most_statements: MOST_STATEMENTS,
        }
    }

    /// Makes room in a full partition.
    pub(crate) async fn make_room(&self, lane: &Lane) -> Result<(), Error> {
        self.flush_step(lane, Turn::Once).await?;
        Ok(())
    }

    /// Flushes until a write, and all before it, are in the database and have left the queue.
    pub(crate) async fn flush_up_to(&self, lane: &Lane, mark: Mark) -> Result<(), Error> {
        let queue = self.queue();
        loop {
            let stepped = self.flush_step(lane, Turn::Barrier).await?;
            if stepped == Stepped::Moved {
                continue;
            }
            let mut standing = lane.standing.lock().await;
            let has_passed = standing.position.is_some_and(|at| {
                (mark.number > 0 && at.incarnation.epoch > mark.incarnation.epoch)
                    || (at.incarnation == mark.incarnation && at.position >= mark.number)
            });
            if has_passed {
                standing.drop_ahead();
                return self.settle_rest(lane, &mut standing).await;
            }
            drop(standing);
            if stepped == Stepped::Idle && mark.number == 0 {
                return Ok(());
            }
            if stepped == Stepped::Idle {
                let place = queue.place(lane, mark.incarnation);
                let known = offsets::position_of(&self.database.pool, &place).await?;
                return match known {
                    Some((position, closed)) if closed || position >= mark.number => Ok(()),
                    _ => Err(Error::new(
                        ErrorKind::Store,
                        format!(
                            "failed to flush {}: the store has lost writes of the queue {}",
                            E::SPEC.name,
                            queue.name
                        ),
                    )),
                };
            }
        }
    }
}

impl Turn {
    /// For how long a step claims the partition, in milliseconds; zero if it does not.
    const fn claim_ms(self) -> u64 {
        match self {
            Self::Task => CLAIM_MS,
            Self::Barrier | Self::Once => 0,
        }
    }
}

impl Fetched {
    /// The number up to which it tells of every write: what of these is not here is lost.
    fn end(&self) -> u64 {
        let last = self.writes.last();
        last.map_or(self.current_last, |write| write.pending.mark.number)
    }
}

/// A write whose row is not to be served any more.
fn dropped(write: &Logged) -> Settled {
    Settled {
        key: write.key.clone(),
        number: write.pending.mark.number,
        keep_ms: 0,
    }
}
