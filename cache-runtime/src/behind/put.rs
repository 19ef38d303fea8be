//! One queued write, step by step.
//!
//! 1. The put: one round trip, whose answer is the acknowledgement.
//! 2. If the store has another history than the queue, or no queue: one of the callers that notice it registers an
//!    incarnation in the database and begins it in the store. Then the put is repeated.
//! 3. If the queue is full: the write fails, or it flushes to make room, is put, and waits until it is flushed.
//! 4. If the put has a condition and the store does not know the row: the row is loaded under a lease, as by a read, and the
//!    put is repeated.
//!
//! Invariant: the codec reproduces what is acknowledged (`round_trip`). Other writes fail before they are sent.
//! Invariant: a write with a condition is queued only if the store finds the condition met in the same step. It fails if the
//! store finds it unmet, or if a read that has asked the store for queued writes does.
//! Not here: the step in the store (`state::put`, and `put.lua`), and what follows the acknowledgement (`flush`).

use std::sync::{Arc, atomic::Ordering};

use crate::{
    context::{Context, payload::RowSource},
    database::{Write, backend::Backend, entity::Entity, round_trip::Mismatch},
    error::{Error, ErrorKind},
    policy::OnFull,
    protocol::{
        key::Key,
        state::{Condition, Lease, Meta},
        token::Token,
    },
    read::{LookedUp, content::RowOf, outcome::Origin},
    store::{
        Representation, Store,
        queue::{Body, Put, PutAnswer, QueueStore},
    },
    write::modify::{ChangeResult, Modified},
};

/// How often a put is repeated before the write fails.
const MAX_TRIES: u32 = 16;

/// A write that is to be queued: its verb for messages, and its row.
struct Target<'w, E: Entity> {
    verb: &'static str,
    key: &'w Key,
    id: &'w E::Id,
}

/// The result of a put that was not an error.
enum PutOutcome {
    Queued,
    /// The condition of the write is not met.
    ConditionFailed,
    /// The store does not know the row, so it cannot evaluate the condition.
    RowUnknown,
}

/// What a load has shown about the row of a write with a condition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowKnowledge {
    Exists,
    Absent,
    /// The store did not confirm that it holds no queued write of the row. The row in the database may be older.
    Unconfirmed,
}

/// The loads of one write.
#[derive(Default)]
struct RowLoads {
    /// Whether the last load left no entry that a put can use. Then the queue may be missing in the store's present history,
    /// or writes of an earlier history are not flushed yet: until they are, no row is cached.
    left_nothing: bool,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Queues a write. Returns the row that it leaves, or `None` for a delete.
    pub(crate) async fn write_behind(
        self: &Arc<Self>,
        write: Write<E>,
    ) -> Result<Option<Arc<E>>, Error> {
        let written = self.write_queued(write).await;
        self.count(&written);
        written
    }

    async fn write_queued(self: &Arc<Self>, write: Write<E>) -> Result<Option<Arc<E>>, Error> {
        let id = write.id().into_owned();
        let key = self.key(&id)?;
        let verb = write.verb();
        let condition = match &write {
            Write::Save(_) => Condition::Any,
            Write::Update(_) | Write::Delete(_) | Write::DeleteRow(_) | Write::Modify(..) => {
                Condition::Present
            }
            Write::Insert(_) => Condition::Absent,
        };
        let target = Target {
            verb,
            key: &key,
            id: &id,
        };
        let row = write.into_row().map(Arc::new);
        let mut loads = RowLoads::default();
        for _ in 0..MAX_TRIES {
            match self.put(&target, row.as_ref(), condition).await? {
                PutOutcome::Queued => return Ok(row),
                PutOutcome::ConditionFailed => return Err(self.unmet(verb, &key, condition)),
                PutOutcome::RowUnknown if condition == Condition::Any => break,
                PutOutcome::RowUnknown => {}
            }
            let is_unmet = match self.load_for_write(&target, condition, &mut loads).await? {
                RowKnowledge::Exists => condition == Condition::Absent,
                RowKnowledge::Absent => condition == Condition::Present,
                RowKnowledge::Unconfirmed => false,
            };
            if is_unmet {
                return Err(self.unmet(verb, &key, condition));
            }
        }
        Err(self.unkept(verb, &key))
    }

    /// Changes a row and queues it. If another writer changes the row at the same time, it starts again.
    pub(crate) async fn modify_queued<R: ChangeResult>(
        self: &Arc<Self>,
        id: &E::Id,
        mut change: impl FnMut(&mut E) -> R + Send,
    ) -> Result<Modified<E, R::Value>, Error> {
        const VERB: &str = "modify";
        let key = self.key(id)?;
        let mut returned = None;
        let changed = self.exchange(VERB, &key, id, |row| {
            let Some(row) = row else {
                return Err(self.unmet(VERB, &key, Condition::Present));
            };
            let (row, value) = self.changed(&key, &row, &mut change)?;
            returned = Some(value);
            Ok(Some(Arc::new(row)))
        });
        let row = changed.await?;
        Ok(Modified {
            row: row.expect("a change of a row leaves a row"),
            value: returned.expect("the change was called"),
        })
    }

    /// Reads a row, or its absence. Calls `decide` for the new row, and queues that. If another writer changes the row at
    /// the same time, it starts again. Returns the new row, or `None` for a delete.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        verb: &'static str,
        key: &Key,
        id: &E::Id,
        mut decide: impl FnMut(Option<Arc<E>>) -> Result<Option<Arc<E>>, Error> + Send,
    ) -> Result<Option<Arc<E>>, Error> {
        let _exchanging = self.queue().modifying(key).lock().await;
        let target = Target { verb, key, id };
        let mut loads = RowLoads::default();
        let mut unknown = 0;
        while unknown < MAX_TRIES {
            let codec = self.codec.number();
            let found = self.cache.store.get(key, self.fingerprint, codec).await;
            let found = found.map_err(|error| self.queue_away(verb, error))?;
            let token = found.token();
            let (row, condition) = match (self.interpret::<RowOf<E>>(key, Ok(found)), token) {
                (LookedUp::Served(outcome), Some(token)) => {
                    (outcome.row, Condition::Unchanged(token))
                }
                _ => {
                    let condition = Condition::Present;
                    match self.load_for_write(&target, condition, &mut loads).await? {
                        RowKnowledge::Absent => (None, Condition::Absent),
                        RowKnowledge::Exists | RowKnowledge::Unconfirmed => {
                            unknown += 1;
                            continue;
                        }
                    }
                }
            };
            let row = decide(row)?;
            match self.put(&target, row.as_ref(), condition).await? {
                PutOutcome::Queued => return Ok(row),
                PutOutcome::ConditionFailed => unknown = 0,
                PutOutcome::RowUnknown => unknown += 1,
            }
        }
        Err(self.unkept(verb, key))
    }

    /// Loads a row into the cache, unless it is there. Returns what is known of the row then.
    async fn load_for_write(
        self: &Arc<Self>,
        target: &Target<'_, E>,
        condition: Condition,
        loads: &mut RowLoads,
    ) -> Result<RowKnowledge, Error> {
        let &Target { verb, key, id } = target;
        if std::mem::take(&mut loads.left_nothing) {
            self.start_queue_and_drain(key).await?;
        }
        let outcome = Box::pin(self.read(std::borrow::Cow::Borrowed(id))).await?;
        if condition != Condition::Absent
            && outcome.origin != Origin::Cache
            && let Some(row) = &outcome.row
            && let Err(mismatch) = self.carry(row, RowSource::Database)
        {
            // It will never be cached, so no put can compare it.
            return Err(self.unbuildable(verb, key, mismatch));
        }
        // Either only the database was read, or the cached row is an entry that a put cannot compare.
        loads.left_nothing = outcome.store_was_skipped || outcome.origin == Origin::Cache;
        Ok(match outcome.row {
            _ if outcome.store_was_skipped => RowKnowledge::Unconfirmed,
            Some(_) => RowKnowledge::Exists,
            None => RowKnowledge::Absent,
        })
    }

    /// Makes the rows of a partition cacheable: begins an incarnation in the store's present history, and flushes the queue.
    async fn start_queue_and_drain(&self, key: &Key) -> Result<(), Error> {
        let partition = self.partition_of(key);
        Box::pin(partition.begin()).await?;
        Box::pin(partition.flush()).await
    }

    /// Queues a row, or its deletion.
    async fn put(
        self: &Arc<Self>,
        target: &Target<'_, E>,
        row: Option<&Arc<E>>,
        condition: Condition,
    ) -> Result<PutOutcome, Error> {
        let &Target { verb, key, id } = target;
        let partition = self.partition_of(key);
        let (queue, state) = (partition.queue, partition.state);
        let (body, written) = self
            .body(id, row)
            .map_err(|mismatch| self.uncarried(verb, key, mismatch))?;
        self.check_put(verb, key, &body, &written)?;
        let keeps_rows = self.cache.store.keeps() == Representation::Rows;
        let journaled = (keeps_rows && queue.policy.journal.is_some()).then_some(written);
        let mut made_room = false;
        for _ in 0..MAX_TRIES {
            let incarnations_started = state.incarnations_started.load(Ordering::Acquire);
            let meta = self.meta_of_write();
            // After `meta_of_write`: if this checks the store in a later history than that of `meta`, the put fails.
            let acknowledged = self.verified(queue).await?;
            let put = Put {
                meta,
                body: body.clone(),
                journaled: journaled.clone(),
                condition,
                most: queue.most(),
                acknowledged,
            };
            let history = put.meta.lease.identity.history;
            let answer = self.cache.store.put(&state.keys, key, put).await;
            match answer.map_err(|error| self.unacknowledged(verb, error))? {
                PutAnswer::Queued(position) => {
                    if !state.may_be_given(position.incarnation) {
                        // Nothing would flush it. It is queued again, and the row is the same.
                        let from = Some(position.incarnation);
                        Box::pin(partition.start_incarnation(from, history, incarnations_started))
                            .await?;
                        continue;
                    }
                    state.acknowledged(position);
                    self.cache.store.reach(crate::store::Point::AfterPut);
                    if made_room {
                        let flushed = Box::pin(partition.flush_up_to(Some(position))).await;
                        flushed.map_err(|error| self.queued_only(verb, key, error))?;
                    }
                    return Ok(PutOutcome::Queued);
                }
                PutAnswer::ConditionFailed => return Ok(PutOutcome::ConditionFailed),
                PutAnswer::RowUnknown => return Ok(PutOutcome::RowUnknown),
                PutAnswer::NeedsIncarnation(from) => {
                    Box::pin(partition.start_incarnation(from, history, incarnations_started))
                        .await?;
                }
                PutAnswer::Full if queue.policy.on_full == OnFull::Refuse => {
                    self.counters.backpressure.add_one();
                    return Err(Error::new(
                        ErrorKind::Backpressure,
                        format!(
                            "failed to {verb} {}: its partition of the queue is full, because it holds {} writes, its share of \
                             `max_pending`; try again later, or raise `max_pending`",
                            self.describe_row(key),
                            queue.most()
                        ),
                    ));
                }
                PutAnswer::Full => {
                    self.counters.backpressure.add_one();
                    made_room = true;
                    Box::pin(partition.make_room()).await?;
                }
            }
        }
        Err(Error::new(
            ErrorKind::CacheUnavailable,
            format!(
                "failed to {verb} {}: gave up after {MAX_TRIES} attempts, because the queue stayed full or kept restarting; try again",
                self.describe_row(key)
            ),
        ))
    }

    /// Returns the write as the store keeps it, and the encoded row for the journal. Fails if the codec does not reproduce
    /// the row.
    fn body(&self, id: &E::Id, row: Option<&Arc<E>>) -> Result<(Body, Vec<u8>), Mismatch> {
        let Some(row) = row else {
            return Ok((Body::Deletion(self.carry_id(id)?), Vec::new()));
        };
        let (payload, written) = self.carry(row, RowSource::Application)?;
        Ok((Body::Row(payload), written))
    }

    /// Returns the error of a write that the codec would change. The write was not queued.
    fn uncarried(&self, verb: &str, key: &Key, mismatch: Mismatch) -> Error {
        let message = format!(
            "failed to {verb} {}: {mismatch}, so the write was not queued; let serde write the field as it reads it, or choose \
             another `codec`",
            self.describe_row(key)
        );
        Error::with_source(ErrorKind::Conversion, message, mismatch)
    }

    /// Returns the `Meta` of a row that the application writes now.
    fn meta_of_write(&self) -> Meta {
        Meta {
            lease: Lease {
                token: Token::draw(),
                identity: self.identity(),
            },
            loaded_at_ms: self.cache.clock.wall_ms(),
            stamp: None,
        }
    }

    /// Returns the error of a write that compares the row, if the codec would change the row in the database.
    fn unbuildable(&self, verb: &str, key: &Key, mismatch: Mismatch) -> Error {
        let message = format!(
            "failed to {verb} {}: the row in the database cannot be cached, so larder could not detect a concurrent change: \
             {mismatch}; write the whole row with `save`, which does not depend on the present row",
            self.describe_row(key)
        );
        Error::with_source(ErrorKind::Conversion, message, mismatch)
    }

    /// Returns the error of a write that is queued, but whose flush failed although the write had to wait for it.
    fn queued_only(&self, verb: &str, key: &Key, error: Error) -> Error {
        Error::with_source(
            ErrorKind::OutcomeUnknown,
            format!(
                "failed to {verb} {}: the queue was full, so the write had to wait for its flush, which failed; the write is \
                 queued and will be flushed later",
                self.describe_row(key)
            ),
            error,
        )
    }

    /// Returns the error of a write whose condition is not met.
    fn unmet(&self, verb: &str, key: &Key, condition: Condition) -> Error {
        let (kind, why) = match condition {
            Condition::Absent => (ErrorKind::Duplicate, "the row already exists"),
            _ => (ErrorKind::NotFound, "there is no such row"),
        };
        Error::new(
            kind,
            format!("failed to {verb} {}: {why}", self.describe_row(key)),
        )
    }

    fn unkept(&self, verb: &str, key: &Key) -> Error {
        Error::new(
            ErrorKind::CacheUnavailable,
            format!(
                "failed to {verb} {}: gave up after {MAX_TRIES} attempts, because the row was not in the cache when the write had to \
                 compare it; look at the memory limit and the eviction policy of the store",
                self.describe_row(key)
            ),
        )
    }
}
