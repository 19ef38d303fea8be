//! The in-process store: the embedded default, coherent inside one process.
//!
//! Rows and absences are in a bounded cache (`rows`), which may drop any of them. Leases, intents and queued rows are in a table
//! that drops none: after a lost intent, a crash of the writer could leave a stale row, and a queued row is stored
//! nowhere else. Both belong to the same shard of the key. Every operation except a plain get runs the transition of
//! `state` under the lock of that shard.
//!
//! 1. A hit reads the bounded cache and takes no lock of larder.
//! 2. All other operations lock the shard, read the slot, apply the transition, and write the slot back.
//!
//! Invariant: when the shard's lock is free, a key is in the table or in the bounded cache, never in both.
//! Invariant: if a queue has a journal, no caller sees a queued row before its record is on disk. This is the only wait
//! in this store: all other futures are ready immediately.
//! Not here: the content of a queue, and its records (`queue`).

mod families;
pub(crate) mod queue;
mod rows;
mod tags;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::BuildHasher,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    clock::Clock,
    error::{Error, ErrorKind, StoreError},
    journal::Journal,
    policy::{Capacity, QueuePolicy},
    protocol::{
        claim::{Claim, InForce},
        family::Family,
        key::Key,
        partition_keys::PartitionKeys,
        state::{self, Change, Identity, Lease, Lookup, Slot, State, Step},
        token::{ProcessId, Token},
    },
    store::{
        AnnouncedKey, CacheUpdate, FillRequest, Found, Hit, LeaseRequest, Over, Payload,
        Representation, Store,
        memory::{
            families::Families,
            queue::{JournalHandle, MemoryQueue},
            rows::Rows,
            tags::Clocks,
        },
        wake::Wakeups,
    },
};

const SHARDS: usize = 64;
/// How large a shard's table may become before expired intents and leases are removed.
const SWEEP_FROM: usize = 64;

/// A state and the moment it ends, in milliseconds of the store's clock.
#[derive(Clone, Debug)]
struct StoredEntry {
    state: State<Payload>,
    until_ms: u64,
    /// The journal of a queued write, and the number of its record.
    written: Option<(Arc<JournalHandle>, u64)>,
}

/// Leases and intents of the keys of one shard.
#[derive(Debug, Default)]
struct Shard {
    busy: HashMap<Key, StoredEntry>,
    sweep_at: usize,
}

/// Entries in the memory of this process.
pub struct MemoryStore {
    rows: Rows,
    shards: Box<[Mutex<Shard>]>,
    hasher: std::collections::hash_map::RandomState,
    clock: Clock,
    wakeups: Wakeups,
    /// The clocks of the entities with tags.
    clocks: Box<Clocks>,
    /// The queues by their names.
    queues: RwLock<HashMap<Key, Arc<MemoryQueue>>>,
    /// Distinguishes this store's queues from those of other stores.
    name: Token,
    /// The directory that the paths of journals are relative to.
    directory: PathBuf,
    /// The entities of each table.
    families: Box<Families>,
    /// The journals by their paths.
    journals: Box<Mutex<HashMap<PathBuf, Arc<JournalHandle>>>>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// Returns a store for about `capacity` rows. Paths of journals are relative to `directory`.
    pub fn new(capacity: Capacity, clock: Clock, directory: PathBuf) -> Self {
        Self {
            rows: Rows::new(capacity, clock.clone()),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: std::collections::hash_map::RandomState::new(),
            clock,
            wakeups: Wakeups::default(),
            clocks: Box::default(),
            queues: RwLock::default(),
            name: Token::draw(),
            directory,
            families: Box::default(),
            journals: Box::default(),
        }
    }

    /// Opens the partitions of an entity, and restores the writes of their journal, if they have one. Returns a text
    /// that distinguishes them from the queues of other processes for the same entity. Blocks.
    pub(crate) fn open_queue(
        &self,
        partitions: &[&PartitionKeys],
        policy: &QueuePolicy,
    ) -> Result<String, Error> {
        let Some(path) = policy.journal else {
            return Ok(format!("{:?}", self.name));
        };
        let path = self.directory.join(path);
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        let journaled = match journals.get(&path) {
            Some(journaled) => {
                let queues = self.queues();
                if !partitions.iter().all(|own| queues.contains_key(&own.state)) {
                    return Err(Error::new(
                        ErrorKind::Configuration,
                        format!(
                            "failed to open the journal {}: it belongs to another entity, or to this entity in another namespace; \
                             give each a `journal` of its own",
                            path.display()
                        ),
                    ));
                }
                Arc::clone(journaled)
            }
            None => {
                let journaled = self.restore(partitions, &path)?;
                journals.insert(path, Arc::clone(&journaled));
                journaled
            }
        };
        Ok(format!("{:016x}", journaled.journal.identity()))
    }

    /// Opens a journal and puts its writes back into their queues and at their keys.
    fn restore(
        &self,
        partitions: &[&PartitionKeys],
        path: &Path,
    ) -> Result<Arc<JournalHandle>, Error> {
        let (journal, records) = Journal::open(path).map_err(|error| {
            Error::with_source(ErrorKind::Configuration, error.to_string(), error)
        })?;
        let mut writes = Vec::with_capacity(records.len());
        for record in records {
            let write = queue::decode(&record.bytes);
            let place = write.and_then(|(number, write)| {
                let partition = partitions.get(usize::from(number))?;
                partition.holds(&write.key).then_some((partition, write))
            });
            let (partition, write) = place.ok_or_else(|| {
                Error::new(
                    ErrorKind::Configuration,
                    format!(
                        "failed to restore record {} of the journal {}: it is not a write of this entity with this namespace and \
                         number of partitions; open and flush the journal with the program that wrote it, then move the \
                         directory away",
                        record.sequence,
                        path.display()
                    ),
                )
            })?;
            writes.push((partition, write, record.sequence));
        }
        let journaled = Arc::new(JournalHandle::new(journal, partitions.len()));
        for partition in partitions {
            let queue = MemoryQueue::new(Some((Arc::clone(&journaled), partition.number)));
            self.queues_mut()
                .insert(partition.state.clone(), Arc::new(queue));
        }
        let count = writes.len();
        for (partition, write, record) in writes {
            let pending = State::Pending(write.pending, write.payload.clone());
            let mut shard = self.shard(&write.key);
            let change = Change::Put(pending, state::FOREVER);
            self.apply(&mut shard, &write.key, change, self.clock.now_ms());
            drop(shard);
            self.queue(partition).lock().hold(write, record);
        }
        for partition in partitions {
            self.queue(partition).release();
        }
        if count > 0 {
            tracing::info!(path = %path.display(), writes = count, "queued writes were read from the journal");
        }
        Ok(journaled)
    }

    /// Returns when the queued write at a key is on disk, if there is one with a journal. No caller sees it before.
    async fn on_disk(&self, key: &Key) -> Result<(), StoreError> {
        let written = {
            let shard = self.shard(key);
            shard.busy.get(key).and_then(|kept| kept.written.clone())
        };
        match written {
            Some((journaled, record)) => written_down(&journaled, record).await,
            None => Ok(()),
        }
    }

    /// Returns what a caller may see of a key. If it is a queued write, waits until it is on disk.
    async fn visible(&self, key: &Key, found: Found) -> Result<Found, StoreError> {
        if matches!(found, Found::Value(..) | Found::Negative(_)) {
            self.on_disk(key).await?;
        }
        Ok(found)
    }

    /// Returns the queue of a partition. Repositories with the same queue share it.
    fn queue(&self, partition: &PartitionKeys) -> Arc<MemoryQueue> {
        let known = self.queues().get(&partition.state).map(Arc::clone);
        known.unwrap_or_else(|| {
            let mut queues = self.queues_mut();
            Arc::clone(queues.entry(partition.state.clone()).or_default())
        })
    }

    fn queues(&self) -> RwLockReadGuard<'_, HashMap<Key, Arc<MemoryQueue>>> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues_mut(&self) -> RwLockWriteGuard<'_, HashMap<Key, Arc<MemoryQueue>>> {
        self.queues.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state of a key, and for how long it lasts.
    pub fn peek(&self, key: &Key) -> Option<Slot<Payload>> {
        let shard = self.shard(key);
        self.slot(&shard, key, self.clock.now_ms())
    }

    /// Changes a key without the rules of `state`.
    #[cfg(feature = "internal-faults")]
    pub(crate) fn force(&self, key: &Key, change: Change<Payload>) {
        let mut shard = self.shard(key);
        self.apply(&mut shard, key, change, self.clock.now_ms());
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key.as_bytes());
        let at =
            usize::try_from(hash % SHARDS as u64).expect("the remainder is smaller than a usize");
        self.shards[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, shard: &Shard, key: &Key, now_ms: u64) -> Option<Slot<Payload>> {
        let kept = match shard.busy.get(key) {
            Some(kept) => kept.clone(),
            None => Arc::unwrap_or_clone(self.rows.peek(key, now_ms)?),
        };
        (kept.until_ms > now_ms).then(|| Slot {
            state: kept.state,
            remaining_ms: kept.until_ms - now_ms,
        })
    }

    fn step<R>(
        &self,
        key: &Key,
        transition: impl FnOnce(Option<&Slot<Payload>>) -> Step<Payload, R>,
    ) -> R {
        let step = {
            let mut shard = self.shard(key);
            let now_ms = self.clock.now_ms();
            let slot = self.slot(&shard, key, now_ms);
            let step = transition(slot.as_ref());
            self.apply(&mut shard, key, step.change, now_ms);
            (step.reply, step.wake)
        };
        let (reply, wake) = step;
        if !wake.is_empty() {
            self.wakeups.wake(key.as_bytes());
        }
        reply
    }

    fn apply(&self, shard: &mut Shard, key: &Key, change: Change<Payload>, now_ms: u64) {
        match change {
            Change::Keep => {}
            Change::Delete => {
                shard.busy.remove(key);
                self.rows.remove(key);
            }
            Change::Put(state @ (State::Value(..) | State::Negative(_)), ttl_ms) => {
                shard.busy.remove(key);
                let until_ms = now_ms.saturating_add(ttl_ms);
                let kept = StoredEntry {
                    state,
                    until_ms,
                    written: None,
                };
                self.rows.insert(key.clone(), kept);
            }
            Change::Put(state, ttl_ms) => {
                self.rows.remove(key);
                if shard.busy.len() >= shard.sweep_at.max(SWEEP_FROM) {
                    shard.busy.retain(|_, kept| kept.until_ms > now_ms);
                    shard.sweep_at = shard.busy.len() * 2;
                }
                let until_ms = now_ms.saturating_add(ttl_ms);
                let kept = StoredEntry {
                    state,
                    until_ms,
                    written: None,
                };
                shard.busy.insert(key.clone(), kept);
            }
        }
    }
}

/// Returns what a reader finds in a state.
fn found(state: Option<&State<Payload>>, identity: Identity) -> Found {
    state::lookup(state, identity).map(Payload::clone)
}

async fn written_down(journaled: &JournalHandle, record: u64) -> Result<(), StoreError> {
    let durable = journaled.journal.durable(record).await;
    durable.map_err(|error| StoreError::unanswered(error.to_string()))
}

impl Store for MemoryStore {
    fn keeps(&self) -> Representation {
        Representation::Rows
    }

    fn most_bytes(&self) -> u64 {
        u64::MAX
    }

    fn history(&self) -> u64 {
        0
    }

    fn connection_number(&self) -> u64 {
        0
    }

    #[cfg(feature = "metrics")]
    fn usage(&self) -> crate::observe::survey::StoreUsage {
        crate::observe::survey::StoreUsage::Memory(self.rows.usage())
    }

    fn is_available(&self) -> bool {
        true
    }

    fn family_changes(&self) -> Option<u64> {
        Some(self.families.changes())
    }

    fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    #[inline]
    fn get_now(&self, key: &Key, identity: Identity) -> Option<Hit> {
        let kept = self.rows.get_with_time_left(key)?;
        let (meta, row) = match found(Some(&kept.state), identity) {
            Lookup::Value(meta, row) => (meta, Some(row)),
            Lookup::Negative(meta) => (meta, None),
            _ => return None,
        };
        let loaded_at_ms = meta.loaded_at_ms;
        Some(Hit { loaded_at_ms, row })
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        let identity = Identity {
            history: 0,
            fingerprint,
            codec,
        };
        let now_ms = self.clock.now_ms();
        // No lock: a value that is found here is current, because a writer removes it before it commits.
        if let Some(kept) = self.rows.get(key, now_ms) {
            return Ok(found(Some(&kept.state), identity));
        }
        let state = self.peek(key).map(|slot| slot.state);
        self.visible(key, found(state.as_ref(), identity)).await
    }

    async fn get_many(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
    ) -> Vec<Result<Found, StoreError>> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push(self.get(key, fingerprint, codec).await);
        }
        answers
    }

    async fn acquire_many(
        &self,
        wanted: &[LeaseRequest<'_>],
        lease_ttl_ms: u64,
    ) -> Vec<Result<Option<Found>, StoreError>> {
        let mut answers = Vec::with_capacity(wanted.len());
        for &LeaseRequest {
            key, lease, over, ..
        } in wanted
        {
            let outdated = match over {
                Over::Outdated(token) => Some(token),
                Over::Nothing | Over::Foreign => None,
            };
            let mut seen = None;
            let granted = self.step(key, |slot| {
                let step = state::acquire_over(slot, lease, lease_ttl_ms, outdated);
                if !step.reply {
                    seen = slot.map(|slot| slot.state.clone());
                }
                step
            });
            answers.push(match granted {
                true => Ok(None),
                false => {
                    let found = found(seen.as_ref(), lease.identity);
                    self.visible(key, found).await.map(Some)
                }
            });
        }
        answers
    }

    async fn wait(&self, key: &Key, identity: Identity) -> Result<Option<Found>, StoreError> {
        let mut seen = None;
        let waiting = self.step(key, |slot| {
            let step = state::wait(slot, identity, ProcessId::current());
            if !step.reply {
                seen = slot.map(|slot| slot.state.clone());
            }
            step
        });
        if waiting {
            return Ok(None);
        }
        let found = found(seen.as_ref(), identity);
        self.visible(key, found).await.map(Some)
    }

    async fn fill_many(
        &self,
        fills: Vec<FillRequest>,
        lease_ttl_ms: u64,
    ) -> Vec<Result<bool, StoreError>> {
        let fills = fills.into_iter().map(|FillRequest { key, fill, ttl_ms }| {
            let token = fill.meta().lease.token;
            Ok(self.step(&key, |slot| {
                state::fill(slot, token, fill.into_state(), ttl_ms, lease_ttl_ms)
            }))
        });
        fills.collect()
    }

    async fn release(&self, key: &Key, lease: Lease) -> Result<bool, StoreError> {
        Ok(self.step(key, |slot| state::release(slot, lease.token)))
    }

    async fn begin(
        &self,
        touched: &[AnnouncedKey],
        intent: Token,
        intent_ttl_ms: u64,
    ) -> Result<(), StoreError> {
        for AnnouncedKey { key, .. } in touched {
            self.step(key, |slot| state::begin(slot, intent, intent_ttl_ms));
        }
        Ok(())
    }

    async fn end(&self, touched: &[AnnouncedKey], intent: Token) -> Result<(), StoreError> {
        for AnnouncedKey { key, update } in touched {
            let (entry, ttl_ms) = match update.clone() {
                Some(CacheUpdate { fill, ttl_ms }) => (Some(fill.into_state()), ttl_ms),
                None => (None, 0),
            };
            self.step(key, |slot| state::end(slot, intent, entry, ttl_ms));
        }
        Ok(())
    }

    async fn invalidate(&self, key: &Key) -> Result<(), StoreError> {
        self.step(key, state::invalidate);
        Ok(())
    }

    async fn drop_damaged(&self, key: &Key, forged: Option<Token>) -> Result<(), StoreError> {
        self.step(key, |slot| state::drop_damaged(slot, forged));
        Ok(())
    }

    async fn bind(
        &self,
        claim: &Claim<'_>,
        journal: Option<&PartitionKeys>,
    ) -> Result<InForce, StoreError> {
        let queue = journal.map(|partition| self.queue(partition));
        let mut held = match queue.and_then(|queue| queue.journal.clone()) {
            Some((journaled, _)) => queue::bind(journaled, claim).await?,
            // The ledger of this process has compared the claim already.
            None => InForce {
                connection_number: self.connection_number(),
                database: claim.leave.to_owned(),
                table: claim.table.to_owned(),
                family: Family::default(),
            },
        };
        held.family = self.families.claim(claim);
        Ok(held)
    }

    async fn scan(&self, prefix: &[u8], _cursor: u64) -> Result<(u64, Vec<Key>), StoreError> {
        // Leases first: a lease that is filled in between is then found among the rows.
        let mut keys = HashSet::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            keys.extend(shard.busy.keys().cloned());
        }
        keys.extend(self.rows.keys());
        keys.retain(|key| key.as_bytes().starts_with(prefix));
        Ok((0, keys.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::QueuePolicy;

    fn store(clock: &Clock) -> MemoryStore {
        MemoryStore::new(Capacity::Rows(10), clock.clone(), PathBuf::new())
    }

    fn lease() -> Lease {
        Lease {
            token: Token::draw(),
            identity: Identity::default(),
        }
    }

    #[tokio::test]
    async fn leases_that_have_expired_are_removed_and_no_others() {
        const KEYS: u32 = 20_000;
        let clock = Clock::manual();
        let store = store(&clock);
        let key = |number: u32| Key::from_bytes(&number.to_be_bytes());
        for number in 0..KEYS {
            let granted = store
                .acquire(&key(number), lease(), 1_000, Over::Nothing, None)
                .await;
            assert!(granted.unwrap().is_none());
        }
        let busy = || {
            store
                .shards
                .iter()
                .map(|shard| shard.lock().unwrap().busy.len())
        };
        assert_eq!(busy().sum::<usize>(), KEYS as usize, "none has expired");
        clock.advance(std::time::Duration::from_secs(1));
        for number in KEYS..2 * KEYS {
            let granted = store
                .acquire(&key(number), lease(), 1_000, Over::Nothing, None)
                .await;
            assert!(granted.unwrap().is_none());
        }
        let left = busy().sum::<usize>();
        assert!(left < 2 * KEYS as usize, "{left} are left");
        for number in KEYS..2 * KEYS {
            assert!(store.peek(&key(number)).is_some(), "it has not expired");
        }
    }

    #[test]
    fn partition_without_writes_needs_no_record_of_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::new(
            Capacity::Rows(10),
            Clock::manual(),
            folder.path().to_owned(),
        );
        let keys: Vec<_> = (0..3).map(|at| PartitionKeys::new("queue", at)).collect();
        let policy = QueuePolicy {
            journal: Some("journal"),
            ..QueuePolicy::DEFAULT
        };
        store
            .open_queue(&keys.iter().collect::<Vec<_>>(), &policy)
            .unwrap();
        let journals = store.journals.lock().unwrap();
        let handle = journals.values().next().unwrap();
        assert_eq!(handle.first_needed(), [u64::MAX; 3]);
    }
}
