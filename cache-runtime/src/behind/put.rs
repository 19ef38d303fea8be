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
    behind::{
        offsets,
        queue::{Lane, Queue},
    },
    context::{Context, payload::RowSource},
    database::{Write, backend::Backend, entity::Entity, round_trip::Mismatch},
    error::{Error, ErrorKind},
    policy::OnFull,
    protocol::{
        key::Key,
        mark::Incarnation,
        state::{Condition, Lease, Meta},
        token::Token,
    },
    read::{Judged, outcome::Origin},
    store::{
        Keeps, Store,
        queue::{Body, Put, PutAnswer, QueueStore},
    },
};

/// How many times a put is made again before something else must be wrong.
const MOST_TRIES: u32 = 16;

/// What became of a put that the store could decide.
enum Decided {
    Done,
    Refused,
    Unknown,
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
        let row = write.into_row().map(Arc::new);
        let mut was_hidden = false;
        for _ in 0..MOST_TRIES {
            match self.put(verb, &key, &id, row.as_ref(), condition).await? {
                Decided::Done => return Ok(row),
                Decided::Refused => return Err(self.unmet(verb, &key, condition)),
                Decided::Unknown if condition == Condition::Any => break,
                Decided::Unknown => {}
            }
            let exists = self
                .load_for_write(&key, &id, &mut was_hidden, verb, condition)
                .await?;
            if exists == Some(condition == Condition::Absent) {
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
                        self.what(&key)
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
        let mut unknown = 0;
        let mut was_hidden = false;
        while unknown < MOST_TRIES {
            let found = {
                let codec = self.codec.number();
                let store = &self.cache.store;
                store.get(key, self.fingerprint, codec).await
            };
            let found = found.map_err(|error| self.queue_away(verb, error))?;
            let token = found.token();
            let (row, condition) = match (self.judge(key, Ok(found)), token) {
                (Judged::Served(outcome), Some(token)) => {
                    (outcome.row, Condition::Unchanged(token))
                }
                _ => {
                    let exists = self
                        .load_for_write(key, id, &mut was_hidden, verb, Condition::Present)
                        .await?;
                    if exists != Some(false) {
                        unknown += 1;
                        continue;
                    }
                    (None, Condition::Absent)
                }
            };
            let row = decide(row)?;
            match self.put(verb, key, id, row.as_ref(), condition).await? {
                Decided::Done => return Ok(row),
                Decided::Refused => unknown = 0,
                Decided::Unknown => unknown += 1,
            }
        }
        Err(self.unkept(verb, key))
    }

    /// Loads a row into the cache, unless it is there. Whether it exists; nothing if the store did not tell whether it has a
    /// queued write of the row: then what the database holds may be older than that. If loading has been in vain before,
    /// there may be no queue of the store's present history, or writes of an earlier one, before whose end nothing can be
    /// cached: it is begun, and they are flushed.
    async fn load_for_write(
        self: &Arc<Self>,
        key: &Key,
        id: &E::Id,
        was_hidden: &mut bool,
        verb: &str,
        condition: Condition,
    ) -> Result<Option<bool>, Error> {
        if std::mem::take(was_hidden) {
            let queue = self.queue();
            let lane = &queue.lanes[self.keys.partition(key)];
            Box::pin(self.begin(queue, lane)).await?;
            Box::pin(self.flush_lane(lane)).await?;
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
        // Read past the cache, or served from what a put may not build on.
        *was_hidden = outcome.is_past_store || outcome.origin == Origin::Cache;
        Ok((!outcome.is_past_store).then_some(outcome.row.is_some()))
    }

    /// Queues the image of a row, or its deletion.
    async fn put(
        self: &Arc<Self>,
        verb: &'static str,
        key: &Key,
        id: &E::Id,
        row: Option<&Arc<E>>,
        condition: Condition,
    ) -> Result<Decided, Error> {
        let queue = self.queue();
        let lane = &queue.lanes[self.keys.partition(key)];
        let (body, written) = self
            .body(id, row)
            .map_err(|mismatch| self.uncarried(verb, key, mismatch))?;
        self.check_put(verb, key, &body, &written)?;
        let keeps_rows = self.cache.store.keeps() == Keeps::Rows;
        let journaled = (keeps_rows && queue.policy.journal.is_some()).then_some(written);
        let mut made_room = false;
        for _ in 0..MOST_TRIES {
            let rotations = lane.rotations.load(Ordering::Acquire);
            let meta = self.meta_of_write();
            // Behind that: another history of the store than the one that is checked is refused by its stamp.
            let acknowledged = self.verified(queue).await?;
            let put = Put {
                meta,
                body: body.clone(),
                journaled: journaled.clone(),
                condition,
                most: queue.most(),
                acknowledged,
            };
            let stamp = put.meta.lease.identity.stamp;
            let answer = self.cache.store.put(&lane.partition, key, put).await;
            match answer.map_err(|error| self.unacknowledged(verb, error))? {
                PutAnswer::Done(mark) => {
                    lane.acknowledged(mark);
                    self.cache.store.reach(crate::store::Point::AfterPut);
                    if made_room {
                        let flushed = Box::pin(self.flush_up_to(lane, mark)).await;
                        flushed.map_err(|error| self.queued_only(verb, key, error))?;
                    }
                    return Ok(Decided::Done);
                }
                PutAnswer::Refused => return Ok(Decided::Refused),
                PutAnswer::Unknown => return Ok(Decided::Unknown),
                PutAnswer::Rotate(from) => {
                    Box::pin(self.rotate(queue, lane, from, stamp, rotations)).await?;
                }
                PutAnswer::Full if queue.policy.on_full == OnFull::Refuse => {
                    self.counters.backpressure.add_one();
                    return Err(Error::new(
                        ErrorKind::Backpressure,
                        format!(
                            "failed to {verb} {}: its partition of the queue holds {} writes, which is all it may \
                             (`max_pending`); try again later",
                            self.what(key),
                            queue.most()
                        ),
                    ));
                }
                PutAnswer::Full => {
                    self.counters.backpressure.add_one();
                    made_room = true;
                    Box::pin(self.make_room(lane)).await?;
                }
            }
        }
        Err(Error::new(
            ErrorKind::Store,
            format!(
                "failed to {verb} {}: its queue has no room or no stand",
                self.what(key)
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
            self.what(key)
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
            load_cost_us: 0,
            version: 0,
        }
    }

    /// The error of a write that demands a row, while the database has one that the codec would change.
    fn unbuildable(&self, verb: &str, key: &Key, mismatch: Mismatch) -> Error {
        let message = format!(
            "failed to {verb} {}: the row in the database cannot be cached, so nobody can tell whether it changes meanwhile: \
             {mismatch}; write the whole row with `save`, which demands nothing of the one that is there",
            self.what(key)
        );
        Error::with_source(ErrorKind::Conversion, message, mismatch)
    }

    /// Begins an incarnation after the one that was seen, in the history it was seen in, unless somebody in this process has
    /// since.
    pub(crate) async fn rotate(
        &self,
        queue: &Queue,
        lane: &Lane,
        from: Option<Incarnation>,
        stamp: u64,
        rotations: u64,
    ) -> Result<(), Error> {
        let _rotating = lane.rotating.lock().await;
        if lane.rotations.load(Ordering::Acquire) != rotations {
            return Ok(());
        }
        let pool = &self.database.pool;
        let last = from.map_or(0, |from| from.epoch);
        let to = offsets::register(pool, &queue.name, lane.partition.number, last).await?;
        let begun = self
            .cache
            .store
            .rotate(&lane.partition, from, to, stamp)
            .await;
        // If it was not, another process has begun one; what was registered stays empty and is closed in its turn.
        let begun = begun.map_err(|error| self.queue_away("begin an incarnation of", error))?;
        lane.rotations.fetch_add(1, Ordering::AcqRel);
        tracing::info!(
            entity = E::SPEC.name,
            queue = &*queue.name,
            partition = lane.partition.number,
            incarnation = %to,
            begun,
            "a queue begins anew"
        );
        Ok(())
    }

    /// The error of a write that stands in the queue, and could not be brought to the database as it should have been.
    fn queued_only(&self, verb: &str, key: &Key, error: Error) -> Error {
        Error::with_source(
            ErrorKind::OutcomeUnknown,
            format!(
                "failed to {verb} {} at once: the queue was full, so the write was to wait for the database, which failed; the \
                 write is queued and will be flushed",
                self.what(key)
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
        Error::new(kind, format!("failed to {verb} {}: {why}", self.what(key)))
    }

    fn unkept(&self, verb: &str, key: &Key) -> Error {
        Error::new(
            ErrorKind::Store,
            format!(
                "failed to {verb} {}: the cache does not keep the row long enough to compare it",
                self.what(key)
            ),
        )
    }
}
