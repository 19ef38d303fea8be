//! The queue of one partition in the memory of this process.
//!
//! It has the same content as a queue in Redis: a log per incarnation, the number of the last write, and the number up
//! to which the log was cut. There is no index of pending rows, because the in-process store drops none.
//!
//! With a journal, each write is a record. The write is acknowledged, and visible, when its record is on disk. A record
//! is released when all partitions have flushed their writes up to it.
//!
//! Invariant: the queue's lock is taken before the lock of a key's shard, never after it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::StoreError,
    journal::{Journal, JournalError},
    policy::{Durability, QueuePolicy},
    protocol::{
        claim::{Claim, InForce},
        entry,
        family::Family,
        key::Key,
        partition_keys::PartitionKeys,
        queue_position::{Incarnation, QueuePosition},
        state::{self, Judgement, Pending, State},
    },
    store::{
        Payload,
        memory::{MemoryStore, written_down},
        queue::{Acknowledged, Body, Fetch, Fetched, Logged, Put, PutAnswer, QueueStore, Settled},
    },
};

/// One queue.
#[derive(Debug, Default)]
pub(crate) struct MemoryQueue {
    inner: Mutex<Queue>,
    pub(super) journal: Option<(Arc<JournalHandle>, u16)>,
}

/// The journal of an entity, which its partitions share.
pub(crate) struct JournalHandle {
    pub(super) journal: Journal,
    /// The first record that each partition needs: `u64::MAX` if it needs none, zero while that is unknown.
    first_needed: Vec<AtomicU64>,
}

/// The content of a queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) current: Option<Incarnation>,
    /// The number of the last write.
    last: u64,
    /// The number up to which the log was cut.
    cut: u64,
    logs: HashMap<Incarnation, VecDeque<QueuedWrite>>,
}

/// A write, and the number of its record in the journal.
#[derive(Debug)]
struct QueuedWrite {
    write: Logged,
    record: u64,
}

impl std::fmt::Debug for JournalHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalHandle").finish_non_exhaustive()
    }
}

impl JournalHandle {
    pub(super) fn new(journal: Journal, partitions: usize) -> Self {
        Self {
            journal,
            first_needed: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Returns the first record that each partition needs.
    #[cfg(test)]
    pub(super) fn first_needed(&self) -> Vec<u64> {
        let first_needed = self.first_needed.iter();
        first_needed
            .map(|first_needed| first_needed.load(Ordering::SeqCst))
            .collect()
    }

    /// Sets the first record that a partition needs, and releases the records that no partition needs.
    fn set_first_needed(&self, partition: u16, record: u64) {
        if let Some(first_needed) = self.first_needed.get(usize::from(partition)) {
            first_needed.store(record, Ordering::SeqCst);
        }
        // Read the last record before the partitions, so that records which are appended from now on are not released.
        let last = self.journal.last();
        let first_needed = self.first_needed.iter();
        let first = first_needed
            .map(|first_needed| first_needed.load(Ordering::SeqCst))
            .min();
        let before = first.unwrap_or(0).saturating_sub(1);
        self.journal.release(before.min(last));
    }
}

impl MemoryQueue {
    pub(super) fn new(journal: Option<(Arc<JournalHandle>, u16)>) -> Self {
        Self {
            inner: Mutex::default(),
            journal,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the write with the next position, also to the journal. `bytes` is its row there. Returns the number of
    /// its record, or zero without a journal.
    pub(super) fn append(
        &self,
        queue: &mut Queue,
        write: Logged,
        bytes: &[u8],
    ) -> Result<u64, JournalError> {
        let record = match &self.journal {
            None => 0,
            Some((journaled, partition)) => {
                let bytes = encode(*partition, &write, bytes);
                if queue.first_record().is_none() {
                    // Nothing is released while this is unknown.
                    journaled.first_needed[usize::from(*partition)].store(0, Ordering::SeqCst);
                }
                let record = journaled.journal.append(&bytes)?;
                if queue.first_record().is_none() {
                    journaled.first_needed[usize::from(*partition)].store(record, Ordering::SeqCst);
                }
                record
            }
        };
        queue.last = write.pending.position.number;
        queue.hold(write, record);
        Ok(record)
    }

    /// Removes the writes of a log up to a number.
    pub(super) fn cut(&self, incarnation: Incarnation, up_to: u64) {
        let mut queue = self.lock();
        queue.cut(incarnation, up_to);
        self.release_of(&queue);
    }

    pub(super) fn drop_log(&self, incarnation: Incarnation) {
        let mut queue = self.lock();
        queue.logs.remove(&incarnation);
        self.release_of(&queue);
    }

    /// Releases the records that no write needs.
    pub(super) fn release(&self) {
        self.release_of(&self.lock());
    }

    fn release_of(&self, queue: &Queue) {
        if let Some((journaled, partition)) = &self.journal {
            journaled.set_first_needed(*partition, queue.first_record().unwrap_or(u64::MAX));
        }
    }
}

impl Queue {
    /// Returns the position of the next write, if there is an incarnation to write to.
    pub(super) fn next(&self) -> Option<QueuePosition> {
        Some(QueuePosition {
            incarnation: self.current?,
            number: self.last + 1,
        })
    }

    /// Returns the number of pending writes.
    pub(super) fn waiting(&self) -> u64 {
        self.last - self.cut
    }

    /// Appends a restored write to its incarnation, with the number of its record.
    pub(super) fn hold(&mut self, write: Logged, record: u64) {
        let log = self
            .logs
            .entry(write.pending.position.incarnation)
            .or_default();
        log.push_back(QueuedWrite { write, record });
    }

    /// Begins an incarnation if the current one is still `from`.
    pub(super) fn start_incarnation(&mut self, from: Option<Incarnation>, to: Incarnation) -> bool {
        if self.current != from {
            return false;
        }
        self.current = Some(to);
        self.last = 0;
        self.cut = 0;
        self.logs.entry(to).or_default();
        true
    }

    pub(super) fn fetch(&self, fetch: &Fetch, now_ms: u64) -> Fetched {
        let log = self.logs.get(&fetch.incarnation);
        let writes = log.map(|log| {
            let first = log.partition_point(|held| held.number() <= fetch.after);
            let count = usize::try_from(fetch.count).unwrap_or(usize::MAX);
            let held = log.iter().skip(first).take(count);
            held.map(|held| held.write.clone()).collect()
        });
        let last = log.and_then(VecDeque::back);
        Fetched {
            is_claimed: true,
            history: 0,
            is_present: self.current.is_some(),
            current: self.current,
            current_last: self.last,
            log_last: last.map_or(0, QueuedWrite::number),
            now_ms,
            writes: writes.unwrap_or_default(),
            is_cut: false,
        }
    }

    fn cut(&mut self, incarnation: Incarnation, up_to: u64) {
        if let Some(log) = self.logs.get_mut(&incarnation) {
            let kept = log.partition_point(|held| held.number() <= up_to);
            log.drain(..kept);
        }
        if self.current == Some(incarnation) {
            self.cut = self.cut.max(up_to);
        }
    }

    pub(super) fn logs(&self) -> Vec<Incarnation> {
        self.logs.keys().copied().collect()
    }

    /// Returns the record of the oldest pending write.
    fn first_record(&self) -> Option<u64> {
        let firsts = self.logs.values().filter_map(VecDeque::front);
        firsts.map(|held| held.record).min()
    }
}

impl QueuedWrite {
    fn number(&self) -> u64 {
        self.write.pending.position.number
    }
}

/// The binding of an entity's journal, as it is stored. All fields of an unbound one are empty.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Binding {
    database: String,
    entity: String,
    table: String,
}

/// Binds a journal, or returns its binding.
pub(super) async fn bind(
    journaled: Arc<JournalHandle>,
    claim: &Claim<'_>,
) -> Result<InForce, StoreError> {
    let [namespace, seen, leave, entity, table] = [
        claim.namespace,
        claim.seen,
        claim.leave,
        claim.entity,
        claim.table,
    ]
    .map(str::to_owned);
    let is_forced = claim.is_forced;
    // It syncs a file, so it runs on a blocking thread. Once begun, it runs to its end.
    let bound = tokio::task::spawn_blocking(move || {
        let claim = Claim {
            namespace: &namespace,
            seen: &seen,
            leave: &leave,
            entity: &entity,
            table: &table,
            shape: "",
            is_forced,
        };
        journaled.journal.bind(|bound| {
            let bound: Option<Binding> = bound
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| error.to_string())?;
            let Binding {
                database, table, ..
            } = bound.unwrap_or_default();
            if claim.is_blocked_by(&database, &table) {
                return Ok((None, (database, table)));
            }
            let [database, entity, table] =
                [claim.leave, claim.entity, claim.table].map(str::to_owned);
            let own = Binding {
                database,
                entity,
                table,
            };
            let text = serde_json::to_string(&own).map_err(|error| error.to_string())?;
            Ok((Some(text), (own.database, own.table)))
        })
    });
    let failed = |error: String| StoreError::new(format!("failed to bind the journal: {error}"));
    let (database, table) = bound
        .await
        .map_err(|stopped| failed(stopped.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(InForce {
        connection_number: 0,
        database,
        table,
        family: Family::default(),
    })
}

/// Returns a write as a record: the partition, the time, the length of the key, the key, and the entry as in Redis.
fn encode(partition: u16, write: &Logged, bytes: &[u8]) -> Vec<u8> {
    let key = write.key.as_bytes();
    let length = u16::try_from(key.len()).expect("a key is shorter than its longest id and name");
    let mut record = Vec::with_capacity(128 + key.len() + bytes.len());
    record.extend_from_slice(&partition.to_le_bytes());
    record.extend_from_slice(&write.at_ms.to_le_bytes());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(key);
    record.extend_from_slice(&entry::encode(&State::Pending(write.pending, bytes)));
    record
}

/// Reads what [`encode`] has written. The write belongs to a history that has ended with its process.
pub(super) fn decode(record: &[u8]) -> Option<(u16, Logged)> {
    let (partition, rest) = record.split_first_chunk()?;
    let (at_ms, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (key, entry) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let State::Pending(mut pending, payload) = entry::decode(entry) else {
        return None;
    };
    pending.meta.lease.identity.history = EARLIER;
    let write = Logged {
        key: Key::from_bytes(key),
        pending,
        payload: Payload::Bytes(payload.to_vec(), 0),
        at_ms: u64::from_le_bytes(*at_ms),
        refused: None,
    };
    Some((u16::from_le_bytes(*partition), write))
}

/// The history of writes of an earlier process. Those of this process have zero.
const EARLIER: u64 = u64::MAX;

impl QueueStore for MemoryStore {
    async fn check_queue(
        &self,
        policy: &QueuePolicy,
    ) -> Result<Result<Acknowledged, String>, StoreError> {
        Ok(match (policy.durability, policy.journal) {
            (Some(Durability::Fsync), None) => Err(
                "the in-process store keeps queued writes in memory only; give it a `journal`, or accept their loss with \
                 `durability = \"memory\"`"
                    .to_owned(),
            ),
            _ => Ok(Acknowledged::AtOnce),
        })
    }

    async fn put(
        &self,
        partition: &Arc<PartitionKeys>,
        key: &Key,
        put: Put,
    ) -> Result<PutAnswer, StoreError> {
        let queue = self.queue(partition);
        let (position, wake, was_empty, record) = {
            let mut log = queue.lock();
            let Some(position) = log.next() else {
                return Ok(PutAnswer::NeedsIncarnation(None));
            };
            let (is_deletion, payload, journaled) = match put.body {
                Body::Row(payload) => (false, payload, put.journaled.unwrap_or_default()),
                Body::Deletion(id) => (true, Payload::Bytes(id.clone(), 0), id),
            };
            let pending = Pending {
                position,
                is_deletion,
                meta: put.meta,
            };
            let mut shard = self.shard(key);
            let now_ms = self.clock.now_ms();
            let slot = self.slot(&shard, key, now_ms);
            let step = state::put(slot.as_ref(), pending, payload.clone(), put.condition);
            match step.reply {
                Judgement::Met if log.waiting() >= put.most => return Ok(PutAnswer::Full),
                Judgement::Met => {}
                Judgement::RowUnknown => return Ok(PutAnswer::RowUnknown),
                Judgement::ConditionFailed => return Ok(PutAnswer::ConditionFailed),
            }
            let was_empty = log.waiting() == 0;
            let write = Logged {
                key: key.clone(),
                pending,
                payload,
                at_ms: self.clock.wall_ms(),
                refused: None,
            };
            let appended = queue.append(&mut log, write, &journaled);
            let record = appended.map_err(|error| StoreError::new(error.to_string()))?;
            self.apply(&mut shard, key, step.change, now_ms);
            if let Some(kept) = shard.busy.get_mut(key) {
                let journal = queue.journal.as_ref();
                kept.written = journal.map(|(journaled, _)| (Arc::clone(journaled), record));
            }
            (position, step.wake, was_empty, record)
        };
        if !wake.is_empty() {
            self.wakeups.wake(key.as_bytes());
        }
        if was_empty {
            self.wakeups.wake(partition.flusher.as_bytes());
        }
        if let Some((journaled, _)) = &queue.journal {
            written_down(journaled, record).await?;
        }
        Ok(PutAnswer::Queued(position))
    }

    async fn start_incarnation(
        &self,
        partition: &PartitionKeys,
        from: Option<Incarnation>,
        to: Incarnation,
        _history: u64,
    ) -> Result<bool, StoreError> {
        Ok(self.queue(partition).lock().start_incarnation(from, to))
    }

    async fn fetch(&self, partition: &PartitionKeys, fetch: Fetch) -> Result<Fetched, StoreError> {
        let now_ms = self.clock.wall_ms();
        Ok(self.queue(partition).lock().fetch(&fetch, now_ms))
    }

    async fn settle(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
        settled: &[Settled],
        up_to: u64,
    ) -> Result<(), StoreError> {
        for Settled {
            key,
            number,
            keep_ms,
        } in settled
        {
            let position = QueuePosition {
                incarnation,
                number: *number,
            };
            self.step(key, |slot| state::settle(slot, position, *keep_ms));
        }
        self.queue(partition).cut(incarnation, up_to);
        Ok(())
    }

    async fn queued(&self, key: &Key) -> Result<Option<(Pending, Payload)>, StoreError> {
        self.on_disk(key).await?;
        Ok(self.peek(key).and_then(|slot| match slot.state {
            State::Pending(pending, payload) => Some((pending, payload)),
            _ => None,
        }))
    }

    async fn logs(&self, partition: &PartitionKeys) -> Result<Vec<Incarnation>, StoreError> {
        Ok(self.queue(partition).lock().logs())
    }

    async fn drop_log(
        &self,
        partition: &PartitionKeys,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        self.queue(partition).drop_log(incarnation);
        Ok(())
    }

    async fn pending_index(
        &self,
        _partition: &PartitionKeys,
        _cursor: u64,
    ) -> Result<(u64, Vec<(Key, QueuePosition)>), StoreError> {
        // The in-process store evicts no queued row, so it needs no index.
        Ok((0, Vec::new()))
    }

    async fn disclaim(&self, _partition: &PartitionKeys) -> Result<(), StoreError> {
        Ok(())
    }
}
