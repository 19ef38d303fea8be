//! The in-process store: the embedded default, coherent inside one process.
//!
//! Rows and absences live in a bounded cache that may drop any of them; leases, intents and queued rows live in a table that
//! drops none, because a lost intent is a loss that a later crash could turn into a stale row, and a queued row stands
//! nowhere else. Both belong to the same shard of the key, and every operation but a plain look runs `state`'s transition
//! under that shard's lock.
//!
//! 1. A hit looks into the bounded cache and takes no lock of ours.
//! 2. Everything else locks the shard, reads the slot, applies the transition, and writes the slot back.
//!
//! Invariant: a key is in the table or in the bounded cache, never in both, when the shard's lock is free.
//! Invariant: nobody is told of a queued row before its record is on disk, if its queue has a journal. That is all that is
//! ever waited for here; other futures of this store are ready at once.
//! Not here: what is in a queue, and its records (`memory_queue`).

pub(crate) mod queue;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::BuildHasher,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use quick_cache::sync::Cache as BoundedCache;

use crate::{
    clock::Clock,
    error::{Error, ErrorKind, StoreError},
    journal::Journal,
    policy::QueuePolicy,
    protocol::{
        claim::{Claim, InForce},
        key::Key,
        partition::Partition,
        state::{self, Change, Identity, Lease, Slot, State, Step, View},
        token::{ProcessId, Token},
    },
    store::{
        Filling, Found, Keeps, Payload, Publication, Store, Touched,
        memory::queue::{Journaled, MemoryQueue},
        wake::Wakeups,
    },
};

const SHARDS: usize = 64;
/// How many expired intents and leases a shard gathers before it looks for them.
const SWEEP_FROM: usize = 64;

/// A state and the moment it ends, in milliseconds of the store's clock.
#[derive(Clone, Debug)]
struct Kept {
    state: State<Payload>,
    until_ms: u64,
    /// The journal that a queued write stands in, and the number of its record.
    written: Option<(Arc<Journaled>, u64)>,
}

/// Leases and intents of the keys of one shard.
#[derive(Debug, Default)]
struct Shard {
    busy: HashMap<Key, Kept>,
    sweep_at: usize,
}

/// Entries in the memory of this process.
pub struct MemoryStore {
    rows: BoundedCache<Key, Kept>,
    shards: Box<[Mutex<Shard>]>,
    hasher: std::collections::hash_map::RandomState,
    clock: Clock,
    wakeups: Wakeups,
    /// The queues by their names.
    queues: RwLock<HashMap<Key, Arc<MemoryQueue>>>,
    /// What tells its queues from those of other stores.
    name: Token,
    /// The directory that the paths of journals are relative to.
    directory: PathBuf,
    /// The journals by their paths.
    journals: Mutex<HashMap<PathBuf, Arc<Journaled>>>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// A store for about so many rows, whose journals have paths relative to a directory.
    pub fn new(capacity: usize, clock: Clock, directory: PathBuf) -> Self {
        Self {
            rows: BoundedCache::new(capacity),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: std::collections::hash_map::RandomState::new(),
            clock,
            wakeups: Wakeups::default(),
            queues: RwLock::default(),
            name: Token::draw(),
            directory,
            journals: Mutex::default(),
        }
    }

    /// Opens the partitions of an entity, and puts back what their journal holds, if they have one. Answers what tells them
    /// from the queues that other processes have for the same entity. Blocks.
    pub(crate) fn open_queue(
        &self,
        partitions: &[&Partition],
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
                            "the journal {} is another entity's, or the same entity's in another namespace; each needs a \
                             `journal` of its own",
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
    fn restore(&self, partitions: &[&Partition], path: &Path) -> Result<Arc<Journaled>, Error> {
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
                        "record {} of the journal {} is not a write of this entity with this namespace and number of \
                         partitions; open it with the program it was made by and flush it, then move the directory away",
                        record.sequence,
                        path.display()
                    ),
                )
            })?;
            writes.push((partition, write, record.sequence));
        }
        let journaled = Arc::new(Journaled::new(journal, partitions.len()));
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

    /// Returns when the queued write at a key is on disk, if there is one with a journal: nobody is told of it before.
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

    /// What can be told of a key, on disk if it is a queued write.
    async fn told(&self, key: &Key, found: Found) -> Result<Found, StoreError> {
        if matches!(found, Found::Value(..) | Found::Negative(_)) {
            self.on_disk(key).await?;
        }
        Ok(found)
    }

    /// The queue of a partition; repositories that name the same one share it.
    fn queue(&self, partition: &Partition) -> Arc<MemoryQueue> {
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

    /// What is at a key, and for how long.
    pub fn peek(&self, key: &Key) -> Option<Slot<Payload>> {
        let shard = self.shard(key);
        self.slot(&shard, key, self.clock.now_ms())
    }

    /// Puts anything at a key, past all rules, or removes what is there.
    #[cfg(feature = "test-util")]
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
            None => self.rows.peek(key.as_bytes())?,
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
                self.rows.remove(key.as_bytes());
            }
            Change::Put(state @ (State::Value(..) | State::Negative(_)), ttl_ms) => {
                shard.busy.remove(key);
                let until_ms = now_ms.saturating_add(ttl_ms);
                let kept = Kept {
                    state,
                    until_ms,
                    written: None,
                };
                self.rows.insert(key.clone(), kept);
            }
            Change::Put(state, ttl_ms) => {
                self.rows.remove(key.as_bytes());
                if shard.busy.len() >= shard.sweep_at.max(SWEEP_FROM) {
                    shard.busy.retain(|_, kept| kept.until_ms > now_ms);
                    shard.sweep_at = shard.busy.len() * 2;
                }
                let until_ms = now_ms.saturating_add(ttl_ms);
                let kept = Kept {
                    state,
                    until_ms,
                    written: None,
                };
                shard.busy.insert(key.clone(), kept);
            }
        }
    }

    fn found(&self, slot: Option<Slot<Payload>>, identity: Identity) -> Found {
        let view = state::view(slot.as_ref().map(|slot| &slot.state), identity);
        match (view, slot.map(|slot| slot.state)) {
            (View::Value, Some(State::Value(meta, payload))) => Found::Value(meta, payload),
            (View::Value, Some(State::Pending(pending, payload))) => {
                Found::Value(pending.meta, payload)
            }
            (View::Negative, Some(State::Negative(meta))) => Found::Negative(meta),
            (View::Negative, Some(State::Pending(pending, _))) => Found::Negative(pending.meta),
            (View::Loading, _) => Found::Loading,
            (View::Writing, _) => Found::Writing,
            (View::Unsettled, _) => Found::Unsettled,
            (View::Foreign, state) => Found::Foreign {
                damaged: matches!(state, Some(State::Unreadable(_))),
            },
            (View::Absent | View::Value | View::Negative, _) => Found::Absent,
        }
    }
}

async fn written_down(journaled: &Journaled, record: u64) -> Result<(), StoreError> {
    let durable = journaled.journal.durable(record).await;
    durable.map_err(|error| StoreError::unanswered(error.to_string()))
}

impl Store for MemoryStore {
    fn keeps(&self) -> Keeps {
        Keeps::Rows
    }

    fn most_bytes(&self) -> u64 {
        u64::MAX
    }

    fn stamp(&self) -> u64 {
        0
    }

    fn run(&self) -> u64 {
        0
    }

    fn is_trusted(&self) -> bool {
        true
    }

    fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    async fn get(&self, key: &Key, fingerprint: u32, codec: u8) -> Result<Found, StoreError> {
        let identity = Identity {
            stamp: 0,
            fingerprint,
            codec,
        };
        let now_ms = self.clock.now_ms();
        // No lock: a value found here was current when it was found, because a writer removes it before it commits.
        if let Some(kept) = self.rows.get(key.as_bytes())
            && kept.until_ms > now_ms
        {
            let slot = Slot {
                state: kept.state,
                remaining_ms: kept.until_ms - now_ms,
            };
            return Ok(self.found(Some(slot), identity));
        }
        self.told(key, self.found(self.peek(key), identity)).await
    }

    async fn acquire(
        &self,
        key: &Key,
        lease: Lease,
        lease_ttl_ms: u64,
        _over: bool,
        _partition: Option<&Partition>,
    ) -> Result<Option<Found>, StoreError> {
        let mut seen = None;
        let granted = self.step(key, |slot| {
            let step = state::acquire(slot, lease, lease_ttl_ms);
            if !step.reply {
                seen = slot.cloned();
            }
            step
        });
        if granted {
            return Ok(None);
        }
        let found = self.found(seen, lease.identity);
        self.told(key, found).await.map(Some)
    }

    async fn wait(&self, key: &Key, identity: Identity) -> Result<Option<Found>, StoreError> {
        let mut seen = None;
        let waiting = self.step(key, |slot| {
            let step = state::wait(slot, identity, ProcessId::current());
            if !step.reply {
                seen = slot.cloned();
            }
            step
        });
        if waiting {
            return Ok(None);
        }
        let found = self.found(seen, identity);
        self.told(key, found).await.map(Some)
    }

    async fn fill(
        &self,
        key: &Key,
        filling: Filling,
        ttl_ms: u64,
        lease_ttl_ms: u64,
    ) -> Result<bool, StoreError> {
        let token = filling.meta().lease.token;
        Ok(self.step(key, |slot| {
            state::fill(slot, token, filling.into_state(), ttl_ms, lease_ttl_ms)
        }))
    }

    async fn release(&self, key: &Key, lease: Lease) -> Result<bool, StoreError> {
        Ok(self.step(key, |slot| state::release(slot, lease.token)))
    }

    async fn begin(
        &self,
        touched: &[Touched],
        intent: Token,
        intent_ttl_ms: u64,
    ) -> Result<(), StoreError> {
        for Touched { key, .. } in touched {
            self.step(key, |slot| state::begin(slot, intent, intent_ttl_ms));
        }
        Ok(())
    }

    async fn end(&self, touched: &[Touched], intent: Token) -> Result<(), StoreError> {
        for Touched { key, publication } in touched {
            let (entry, ttl_ms) = match publication.clone() {
                Some(Publication { filling, ttl_ms }) => (Some(filling.into_state()), ttl_ms),
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

    async fn bind(
        &self,
        claim: &Claim<'_>,
        journal: Option<&Partition>,
    ) -> Result<InForce, StoreError> {
        let queue = journal.map(|partition| self.queue(partition));
        let Some((journaled, _)) = queue.and_then(|queue| queue.journal.clone()) else {
            // What this process knows has been compared already.
            return Ok(InForce {
                run: self.run(),
                database: claim.leave.to_owned(),
                table: claim.table.to_owned(),
            });
        };
        queue::bind(journaled, claim).await
    }

    async fn scan(&self, prefix: &[u8], _cursor: u64) -> Result<(u64, Vec<Key>), StoreError> {
        // Leases first: one that is filled meanwhile is then among the rows.
        let mut keys = HashSet::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            keys.extend(shard.busy.keys().cloned());
        }
        keys.extend(self.rows.iter().map(|(key, _)| key));
        keys.retain(|key| key.as_bytes().starts_with(prefix));
        Ok((0, keys.into_iter().collect()))
    }
}
