//! One queued write, step by step.
//!
//! 1. The put itself: one round trip, whose answer is the acknowledgement.
//! 2. The store has begun another history, or has no queue yet: an incarnation is registered in the database and begun in
//!    the store, by one of all who notice, and the put is made again.
//! 3. The queue is full: the write is refused, or it makes room by flushing, is put, and waits until it was flushed itself.
//! 4. The put demands something of the row, and nothing is known of it: the row is loaded under a lease, as by a read, and
//!    the put is made again.
//!
//! Invariant: what is acknowledged is what the codec gives back (`round_trip`); another write is refused before it is sent.
//! Invariant: a write that demands something is queued only if the store finds the demand met in the same step. It is refused
//! by the store as well, or by a read that has asked the store for queued writes.
//! Not here: that step (`state::put`, and `put.lua`), and what comes after the acknowledgement (`flush`).

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
    read::{LookedUp, outcome::Origin},
    store::{
        Representation, Store,
        queue::{Body, Put, PutAnswer, QueueStore},
    },
};

/// How many times a put is made again before something else must be wrong.
const MAX_TRIES: u32 = 16;

/// A write that is to be queued: what it is called in messages, and its row.
struct Target<'w, E: Entity> {
    verb: &'static str,
    key: &'w Key,
    id: &'w E::Id,
}

/// What became of a put, once the queue has taken it or the row has decided against it.
enum PutOutcome {
    Queued,
    /// The row is not as the write demands.
    ConditionFailed,
    /// The store does not know the row, so it cannot tell.
    RowUnknown,
}

/// What a load has shown of the row that a write demands something of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowKnowledge {
    Exists,
    Absent,
    /// The store did not confirm that it holds no queued write of the row, so the database may hold an older one.
    Unconfirmed,
}

/// The loads of one write.
#[derive(Default)]
struct RowLoads {
    /// Whether the last one left nothing in the cache that a put can build on. Then there may be no queue in the store's present
    /// history, or writes of an earlier one: nothing is cached before their end.
    left_nothing: bool,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Queues a write. The row that it leaves, if it leaves one.
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
            Write::Update(_) | Write::Delete(_) | Write::DeleteRow(_) => Condition::Present,
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

    /// Changes a row, and queues it unless somebody else has changed it meanwhile; then again.
    pub(crate) async fn modify(
        self: &Arc<Self>,
        id: &E::Id,
        mut change: impl FnMut(&mut E) + Send,
    ) -> Result<Arc<E>, Error> {
        const VERB: &str = "modify";
        let key = self.key(id)?;
        let changed = self.exchange(VERB, &key, id, |row| {
            let Some(row) = row else {
                return Err(self.unmet(VERB, &key, Condition::Present));
            };
            let mut row = E::clone(&row);
            change(&mut row);
            if self.key(&row.id())? != key {
                return Err(Error::new(
                    ErrorKind::Conversion,
                    format!(
                        "failed to modify {}: the change gave the row another id",
                        self.describe_row(&key)
                    ),
                ));
            }
            Ok(Some(Arc::new(row)))
        });
        let row = changed.await?;
        Ok(row.expect("a change of a row leaves a row"))
    }

    /// Reads a row, or that there is none, lets `decide` say what is to become of it, and queues that unless somebody else has
    /// changed the row meanwhile; then again. The row that it leaves, if it leaves one.
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
            let (row, condition) = match (self.interpret(key, Ok(found)), token) {
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

    /// Loads a row into the cache, unless it is there, and returns what is known of it then.
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
            // It will never be cached, so no write can build on it.
            return Err(self.unbuildable(verb, key, mismatch));
        }
        // Read from the database alone, or served from an entry that a put may not build on.
        loads.left_nothing = outcome.store_was_skipped || outcome.origin == Origin::Cache;
        Ok(match outcome.row {
            _ if outcome.store_was_skipped => RowKnowledge::Unconfirmed,
            Some(_) => RowKnowledge::Exists,
            None => RowKnowledge::Absent,
        })
    }

    /// Makes rows of a partition cacheable: starts its queue in the store's present history, and flushes what is in it.
    async fn start_queue_and_drain(&self, key: &Key) -> Result<(), Error> {
        let partition = self.partition_of(key);
        Box::pin(partition.begin()).await?;
        Box::pin(partition.flush()).await
    }

    /// Queues the image of a row, or its deletion.
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
            // After the identity was taken: the put is refused if the store that is checked here is of another history.
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
                            "failed to {verb} {}: its partition of the queue holds {} writes, which is all it may \
                             (`max_pending`); try again later",
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

    /// The write as the store keeps it, and its row as the codec writes it where that is another thing; if the codec gives back
    /// what it writes.
    fn body(&self, id: &E::Id, row: Option<&Arc<E>>) -> Result<(Body, Vec<u8>), Mismatch> {
        let Some(row) = row else {
            return Ok((Body::Deletion(self.carry_id(id)?), Vec::new()));
        };
        let (payload, written) = self.carry(row, RowSource::Application)?;
        Ok((Body::Row(payload), written))
    }

    /// The error of a write that the codec would change, and that was not queued.
    fn uncarried(&self, verb: &str, key: &Key, mismatch: Mismatch) -> Error {
        let message = format!(
            "failed to {verb} {}: {mismatch}, so the write was not queued; let serde write the field as it reads it, or choose \
             another `codec`",
            self.describe_row(key)
        );
        Error::with_source(ErrorKind::Conversion, message, mismatch)
    }

    /// What is known of a row that the application has given, now.
    fn meta_of_write(&self) -> Meta {
        Meta {
            lease: Lease {
                token: Token::draw(),
                identity: self.identity(),
            },
            loaded_at_ms: self.cache.clock.wall_ms(),
        }
    }

    /// The error of a write that demands a row, while the database has one that the codec would change.
    fn unbuildable(&self, verb: &str, key: &Key, mismatch: Mismatch) -> Error {
        let message = format!(
            "failed to {verb} {}: the row in the database cannot be cached, so nobody can tell whether it changes meanwhile: \
             {mismatch}; write the whole row with `save`, which demands nothing of the one that is there",
            self.describe_row(key)
        );
        Error::with_source(ErrorKind::Conversion, message, mismatch)
    }

    /// The error of a write that stands in the queue, and could not be brought to the database as it should have been.
    fn queued_only(&self, verb: &str, key: &Key, error: Error) -> Error {
        Error::with_source(
            ErrorKind::OutcomeUnknown,
            format!(
                "failed to {verb} {} at once: the queue was full, so the write was to wait for the database, which failed; the \
                 write is queued and will be flushed",
                self.describe_row(key)
            ),
            error,
        )
    }

    /// Why the demand of a write was not met.
    fn unmet(&self, verb: &str, key: &Key, condition: Condition) -> Error {
        let (kind, why) = match condition {
            Condition::Absent => (ErrorKind::Duplicate, "there is such a row"),
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
