//! The queue of one entity as this process knows it: its name, its partitions, and what it has learnt of each.
//!
//! Everything here is a cache, which saves questions. The database compares the position when it is moved, and the store
//! compares the incarnation at every put.
//!
//! Every acknowledgement is recorded, so that writes that the store has lost can be counted ([`Partition::acknowledged`]).
//! Not here: whether the queue can be used (`verify`), and the steps (`put`, `flush`).

use std::{
    any::Any,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    behind::offsets::{OpenIncarnation, plausible},
    policy::QueuePolicy,
    protocol::{
        key::Key,
        partition_keys::PartitionKeys,
        queue_position::{Incarnation, QueuePosition},
    },
    store::queue::{Fetch, Fetched, Settled},
};

/// How many keys of this process can be modified at the same time.
const STRIPES: usize = 64;

/// The queue of an entity.
pub(crate) struct Queue {
    pub(crate) name: Arc<str>,
    /// What the names of its like begin with, whatever their number of partitions.
    pub(super) family: String,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) policy: QueuePolicy,
    /// Twice the run of the store that was checked last and one, and one if that store has to be asked when writes are on its
    /// disk.
    pub(super) verified: AtomicU64,
    /// So that the tasks of this process do not make each other's modifications fail.
    modifying: Vec<tokio::sync::Mutex<()>>,
}

/// One partition.
pub(crate) struct Partition {
    pub(crate) keys: Arc<PartitionKeys>,
    /// How far it was flushed. Held while a batch is.
    pub(crate) cursor: tokio::sync::Mutex<FlushCursor>,
    /// Held while an incarnation is begun.
    pub(crate) starting: tokio::sync::Mutex<()>,
    /// How often one was begun.
    pub(crate) incarnations_started: AtomicU64,
    noted: Mutex<Noted>,
    /// The last epoch that the database is known to have given; zero if it was not asked.
    last_epoch: AtomicU64,
}

/// How far a partition was flushed, as far as this process knows. It outlives a flush that is broken off.
#[derive(Default)]
pub(crate) struct FlushCursor {
    /// How far the incarnation that is flushed now was applied, if that is known.
    pub(crate) position: Option<OpenIncarnation>,
    /// What this process has committed and not settled, as far as it knows, in the order of the commits.
    pub(crate) to_settle: Vec<Arc<Committed>>,
    /// What was read ahead, and what was asked for.
    prefetched: Option<(Fetch, Fetched)>,
}

/// A batch that is in the database, and may still stand in the store as if it were not.
pub(crate) struct Committed {
    pub(crate) incarnation: Incarnation,
    /// What becomes of its rows, when that was worked out.
    pub(crate) settled: OnceLock<Vec<Settled>>,
    /// What it is worked out from (`flush::Unjudged`).
    pub(crate) unjudged: Box<dyn Any + Send + Sync>,
    /// The number that it ends with.
    pub(crate) up_to: u64,
}

impl FlushCursor {
    /// Forgets what can be asked for again.
    pub(crate) fn forget(&mut self) {
        self.position = None;
        self.prefetched = None;
    }

    /// Keeps what was read ahead, if there are writes in it. Whatever else it shows, another look must show.
    pub(crate) fn keep_prefetched(&mut self, asked: Fetch, fetched: Fetched) {
        let is_of_use = fetched.is_claimed && fetched.is_present && !fetched.writes.is_empty();
        self.prefetched = is_of_use.then_some((asked, fetched));
    }

    /// The writes that were read ahead, if they are those that are asked for now, and the claim was renewed with them.
    pub(crate) fn take_prefetched(&mut self, asked: &Fetch) -> Option<Fetched> {
        let (before, fetched) = self.prefetched.take()?;
        let is_same = before.incarnation == asked.incarnation && before.after == asked.after;
        (is_same && before.claim_ms >= asked.claim_ms).then_some(fetched)
    }

    pub(crate) fn drop_prefetched(&mut self) {
        self.prefetched = None;
    }
}

/// The latest writes that were acknowledged to this process.
#[derive(Debug, Default)]
struct Noted {
    /// In the incarnation that was written to last.
    latest: Option<QueuePosition>,
    /// In those before it, as long as it is not known what became of them.
    former: Vec<QueuePosition>,
}

impl Queue {
    /// The queue with a name, as the entity's policy wants it.
    pub(crate) fn new(name: &str, policy: QueuePolicy) -> Self {
        let partitions = (0..policy.partitions).map(|number| Partition::new(name, number));
        // A namespace may hold a slash as well.
        let family = name.rsplit_once('/').map_or(name, |(family, _)| family);
        let family = format!("{family}/");
        Self {
            name: Arc::from(name),
            family,
            partitions: partitions.collect(),
            policy,
            verified: AtomicU64::new(0),
            modifying: (0..STRIPES)
                .map(|_| tokio::sync::Mutex::default())
                .collect(),
        }
    }

    /// Forgets that it was checked.
    pub(crate) fn unverify(&self) {
        self.verified.store(0, Ordering::Release);
    }

    /// The partitions, as the store knows them.
    pub(crate) fn partition_keys(&self) -> Vec<&PartitionKeys> {
        self.partitions
            .iter()
            .map(|partition| &*partition.keys)
            .collect()
    }

    /// How many writes one partition may hold.
    pub(crate) fn most(&self) -> u64 {
        (self.policy.max_pending / u64::from(self.policy.partitions)).max(1)
    }

    /// The lock under which this process modifies a key.
    pub(crate) fn modifying(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        let mut hash = crate::protocol::fingerprint::Fingerprint::default();
        hash.write(key.as_bytes());
        &self.modifying[hash.finish() as usize % STRIPES]
    }
}

impl Partition {
    fn new(queue: &str, number: u16) -> Self {
        Self {
            keys: Arc::new(PartitionKeys::new(queue, number)),
            cursor: tokio::sync::Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            incarnations_started: AtomicU64::new(0),
            noted: Mutex::default(),
            last_epoch: AtomicU64::new(0),
        }
    }

    /// Notes an acknowledgement.
    pub(crate) fn acknowledged(&self, position: QueuePosition) {
        let mut noted = self.noted();
        match &mut noted.latest {
            Some(latest) if latest.incarnation == position.incarnation => {
                latest.number = latest.number.max(position.number);
            }
            // The answer to a write that was overtaken by the beginning of another incarnation.
            Some(latest) if latest.incarnation.epoch > position.incarnation.epoch => {
                noted.former.push(position);
            }
            latest => {
                let former = latest.replace(position);
                noted.former.extend(former);
            }
        }
    }

    /// Records an epoch that the database has given.
    pub(crate) fn given(&self, incarnation: Incarnation) {
        self.last_epoch
            .fetch_max(incarnation.epoch, Ordering::Relaxed);
    }

    /// Returns whether the database can have given an incarnation, as far as this process knows.
    pub(crate) fn may_be_given(&self, incarnation: Incarnation) -> bool {
        let known = self.last_epoch.load(Ordering::Relaxed);
        known == 0 || plausible(known, incarnation.epoch) == incarnation.epoch
    }

    /// The latest acknowledged writes of incarnations that are not written to any more.
    pub(crate) fn former(&self, current: Option<Incarnation>) -> Vec<QueuePosition> {
        let mut noted = self.noted();
        let is_over = |position: &mut QueuePosition| current != Some(position.incarnation);
        let over = noted.latest.take_if(is_over);
        noted.former.extend(over);
        noted.former.clone()
    }

    /// Forgets such a write: it is known what became of it and of those before it.
    pub(crate) fn forget(&self, position: QueuePosition) {
        self.noted().former.retain(|other| {
            other.incarnation != position.incarnation || other.number > position.number
        });
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::{key::Key, state::Pending},
        store::{Payload, queue::Logged},
    };

    const ASKED: Fetch = Fetch {
        incarnation: Incarnation { epoch: 1, nonce: 9 },
        after: 5,
        count: 10,
        claim_ms: 100,
        is_first: true,
    };

    fn fetched(writes: usize) -> Fetched {
        let incarnation = ASKED.incarnation;
        let mut pending = Pending {
            position: QueuePosition {
                incarnation,
                number: ASKED.after,
            },
            is_deletion: false,
            meta: crate::protocol::state::Meta {
                lease: crate::protocol::state::Lease {
                    token: crate::protocol::token::Token::numbered(0),
                    identity: crate::protocol::state::Identity {
                        history: 0,
                        fingerprint: 0,
                        codec: 0,
                    },
                },
                loaded_at_ms: 0,
                stamp: None,
            },
        };
        let write = || {
            pending.position.number += 1;
            Logged {
                key: Key::from_bytes(b"key"),
                pending,
                payload: Payload::Bytes(Vec::new(), 0),
                at_ms: 0,
                refused: None,
            }
        };
        Fetched {
            is_claimed: true,
            history: 0,
            is_present: true,
            current: Some(incarnation),
            current_last: 5,
            log_last: 5,
            now_ms: 0,
            is_cut: false,
            writes: std::iter::repeat_with(write).take(writes).collect(),
        }
    }

    #[test]
    fn last_acknowledged_writes_of_former_incarnations_are_noted() {
        let incarnation = |epoch| Incarnation { epoch, nonce: 1 };
        let at = |epoch, number| QueuePosition {
            incarnation: incarnation(epoch),
            number,
        };
        let partition = Partition::new("queue", 0);
        for position in [at(1, 1), at(1, 3), at(1, 2)] {
            partition.acknowledged(position);
        }
        assert_eq!(partition.former(Some(incarnation(1))), []);
        partition.acknowledged(at(2, 1));
        assert_eq!(partition.former(Some(incarnation(2))), [at(1, 3)]);
        // A reply that was overtaken by the beginning of another incarnation.
        partition.acknowledged(at(1, 4));
        let noted = partition.former(Some(incarnation(2)));
        assert_eq!(noted, [at(1, 3), at(1, 4)]);
        partition.forget(at(1, 3));
        assert_eq!(partition.former(Some(incarnation(2))), [at(1, 4)]);
        // The present one is over as well.
        assert_eq!(partition.former(None), [at(1, 4), at(2, 1)]);
        partition.forget(at(1, 9));
        assert_eq!(partition.former(None), [at(2, 1)]);
    }

    /// What comes of keeping this, and then asking that.
    fn kept(fetched: Fetched, asked: Fetch) -> Option<usize> {
        let mut cursor = FlushCursor::default();
        cursor.keep_prefetched(ASKED, fetched);
        let taken = cursor
            .take_prefetched(&asked)
            .map(|taken| taken.writes.len());
        assert!(cursor.take_prefetched(&ASKED).is_none(), "it is taken once");
        taken
    }

    #[test]
    fn prefetched_batch_is_used_for_the_same_read_and_no_stronger_claim() {
        assert_eq!(kept(fetched(3), ASKED), Some(3));
        let unclaimed = Fetch {
            claim_ms: 0,
            ..ASKED
        };
        assert_eq!(kept(fetched(3), unclaimed), Some(3));
        let claimed = Fetch {
            claim_ms: 101,
            ..ASKED
        };
        assert_eq!(kept(fetched(3), claimed), None);
        let further = Fetch { after: 6, ..ASKED };
        assert_eq!(kept(fetched(3), further), None);
        let incarnation = Incarnation { epoch: 2, nonce: 9 };
        let later = Fetch {
            incarnation,
            ..ASKED
        };
        assert_eq!(kept(fetched(3), later), None);
    }

    #[test]
    fn prefetch_without_writes_is_discarded() {
        assert_eq!(kept(fetched(0), ASKED), None);
        let unclaimed = Fetched {
            is_claimed: false,
            ..fetched(3)
        };
        assert_eq!(kept(unclaimed, ASKED), None);
        let of_before = Fetched {
            is_present: false,
            ..fetched(3)
        };
        assert_eq!(kept(of_before, ASKED), None);
    }

    #[test]
    fn a_position_that_is_forgotten_takes_with_it_what_was_read_behind_it() {
        let mut cursor = FlushCursor::default();
        cursor.keep_prefetched(ASKED, fetched(3));
        cursor.forget();
        assert!(cursor.take_prefetched(&ASKED).is_none());
    }
}
