//! The rows and absences of the in-process store: a bounded cache, which may drop any of them.
//!
//! 1. The capacity is a number of rows, or of bytes. When it is reached, the cache drops what was used least.
//! 2. An entry that has expired is not returned. A task removes it, at most [`SWEEP_EVERY`] later: without it, rows that
//!    nobody asks for again would fill the memory up to the capacity.
//!
//! The eviction is `quick_cache`'s, which is derived from Clock-PRO (Jiang, Chen and Zhang, USENIX 2005).
//!
//! Invariant: the task ends with the store. If its runtime ends first, the next insert starts another one.
//! Not here: leases, intents and queued rows, which are never dropped (the module above).

use std::{
    mem::size_of,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};
use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::StoredEntry;
#[cfg(feature = "metrics")]
use crate::observe::survey::MemoryUsage;
use crate::{
    clock::{Clock, Deadline},
    policy::Capacity,
    protocol::{key::Key, state::State},
};

/// How often expired entries are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// From when on the exact clock is asked whether an entry has expired, in milliseconds before it does. The coarse one is late by a
/// tick, and by more where a hypervisor does not let the kernel tick.
const SOON_MS: u64 = 1_000;

/// What an entry takes beside its key and its row, in bytes: the entry itself, and its places in the cache.
const OVERHEAD: u64 = (size_of::<StoredEntry>() + size_of::<Key>() + 80) as u64;

/// With a capacity in bytes, each part of the cache has at least this many, so that large rows fit.
const MIN_PART: u64 = 8 << 20;

/// With a capacity in rows, each part has at least this many: a part that is too small drops rows that another one would keep.
const MIN_ROWS: usize = 8_192;

/// The share of the capacity for rows that were asked for again. The rest is for new ones. Chosen by a trace of an application
/// (`cargo xtask bench orm-trace`): where there is room for few rows, what was used last counts for more.
const HOT: f64 = 0.9;
const HOT_OF_FEW: f64 = 0.6;
const FEW_ROWS: usize = 3_000;

/// The expected size of a row, if the capacity is in bytes. It only decides how large the tables are at first.
const EXPECTED_ROW: u64 = 4 << 10;

/// Rows and absences by key.
pub(super) struct Rows {
    entries: Arc<Entries>,
    /// How many entries were dropped because there was no room for them.
    evictions: AtomicU64,
    clock: Clock,
    /// Whether a task removes what has expired.
    is_swept: Arc<AtomicBool>,
}

/// What the cache holds. A hit copies it, so it is a pointer: a state is large.
type Kept = Arc<StoredEntry>;

type Entries = Cache<Key, Kept, Weigher, DefaultHashBuilder, Drops>;

/// Notes what an insert drops.
#[derive(Clone, Copy, Debug)]
struct Drops;

/// What an insert has dropped. It is freed after the lock of the cache's part is released.
#[derive(Default)]
struct Dropped {
    /// The key of the insert. Its former entry is replaced, and not evicted.
    own: Option<Key>,
    evicted: u64,
    entries: SmallVec<[Kept; 1]>,
}

impl Lifecycle<Key, Kept> for Drops {
    type RequestState = Dropped;

    fn on_evict(&self, dropped: &mut Dropped, key: Key, entry: Kept) {
        dropped.evicted += u64::from(dropped.own.as_ref() != Some(&key));
        dropped.entries.push(entry);
    }
}

/// Determines the part of the capacity that an entry takes.
#[derive(Clone, Copy, Debug)]
struct Weigher {
    in_bytes: bool,
}

impl Weighter<Key, Kept> for Weigher {
    fn weight(&self, key: &Key, entry: &Kept) -> u64 {
        if !self.in_bytes {
            return 1;
        }
        let row = match &entry.state {
            State::Value(_, payload) => payload.size(),
            _ => 0,
        };
        OVERHEAD + (key.as_bytes().len() + row) as u64
    }
}

impl Rows {
    pub(super) fn new(capacity: Capacity, clock: Clock) -> Self {
        let (in_bytes, weight, expected) = match capacity {
            Capacity::Rows(rows) => (false, rows as u64, rows as u64),
            Capacity::Bytes(bytes) => (true, bytes, bytes / EXPECTED_ROW),
        };
        let expected = usize::try_from(expected.max(1)).unwrap_or(usize::MAX);
        let parts = match in_bytes {
            true => usize::try_from(weight / MIN_PART).unwrap_or(usize::MAX),
            false => expected / MIN_ROWS,
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = OptionsBuilder::new();
        options
            .weight_capacity(weight)
            .estimated_items_capacity(expected)
            .shards(parts.clamp(1, threads * 4))
            .hot_allocation(match expected {
                ..FEW_ROWS => HOT_OF_FEW,
                _ => HOT,
            });
        let entries = Cache::with_options(
            options.build().expect("the capacity is set"),
            Weigher { in_bytes },
            DefaultHashBuilder::default(),
            Drops,
        );
        Self {
            entries: Arc::new(entries),
            evictions: AtomicU64::new(0),
            clock,
            is_swept: Arc::default(),
        }
    }

    /// Returns an entry that does not expire soon, and notes that it was used. The clock is a few milliseconds late, so it tells
    /// only of what has more time left than it can be late by.
    #[inline]
    pub(super) fn get_with_time_left(&self, key: &Key) -> Option<Kept> {
        let entry = self.entries.get(key.as_bytes())?;
        (entry.until_ms > self.clock.coarse_ms() + SOON_MS).then_some(entry)
    }

    /// Returns an entry, and notes that it was used.
    pub(super) fn get(&self, key: &Key, now_ms: u64) -> Option<Kept> {
        let entry = self.entries.get(key.as_bytes())?;
        (entry.until_ms > now_ms).then_some(entry)
    }

    /// Returns an entry. Removes it if it has expired.
    pub(super) fn peek(&self, key: &Key, now_ms: u64) -> Option<Kept> {
        let entry = self.entries.peek(key.as_bytes())?;
        if entry.until_ms > now_ms {
            return Some(entry);
        }
        self.entries
            .remove_if(key.as_bytes(), |entry| entry.until_ms <= now_ms);
        None
    }

    pub(super) fn insert(&self, key: Key, entry: StoredEntry) {
        let mut dropped = Dropped {
            own: Some(key.clone()),
            ..Dropped::default()
        };
        let entry = Arc::new(entry);
        self.entries.insert_with_lifecycle(key, entry, &mut dropped);
        if dropped.evicted > 0 {
            self.evictions.fetch_add(dropped.evicted, Ordering::Relaxed);
        }
        self.sweep_in_background();
    }

    pub(super) fn remove(&self, key: &Key) {
        // The map remembers keys that it has dropped, to know them when they return. Removing one of these makes it forget.
        if self.entries.contains_key(key.as_bytes()) {
            self.entries.remove(key.as_bytes());
        }
    }

    /// Returns the keys of all entries.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// Returns the number of entries, those included that have expired and are not removed yet.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns how much is stored, and how much was dropped because there was no room for it.
    #[cfg(feature = "metrics")]
    pub(super) fn usage(&self) -> MemoryUsage {
        MemoryUsage {
            entries: self.entries.len() as u64,
            weight: self.entries.weight(),
            capacity: self.entries.capacity(),
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }

    /// Starts the task that removes expired entries, unless there is one.
    fn sweep_in_background(&self) {
        if self.is_swept.load(Ordering::Relaxed) {
            return;
        }
        // Without a runtime the next insert tries again.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.is_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let sweeper = Sweeper(Arc::clone(&self.is_swept));
        let (entries, clock) = (Arc::downgrade(&self.entries), self.clock.clone());
        runtime.spawn(async move {
            let _sweeper = sweeper;
            loop {
                Deadline::after(SWEEP_EVERY).passed().await;
                let Some(entries) = entries.upgrade() else {
                    return;
                };
                let now_ms = clock.now_ms();
                entries.retain(|_, entry| entry.until_ms > now_ms);
            }
        });
    }
}

/// Notes the end of the task, also if its runtime ends.
struct Sweeper(Arc<AtomicBool>);

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::{
            state::{Identity, Lease, Meta},
            token::Token,
        },
        store::Payload,
    };

    fn key(number: u32) -> Key {
        Key::from_bytes(&number.to_be_bytes())
    }

    fn entry(size: usize, until_ms: u64) -> StoredEntry {
        let meta = Meta {
            lease: Lease {
                token: Token::numbered(1),
                identity: Identity::default(),
            },
            loaded_at_ms: 0,
            stamp: None,
        };
        StoredEntry {
            state: State::Value(meta, Payload::Shared(Arc::new(()), size)),
            until_ms,
            written: None,
        }
    }

    #[test]
    fn capacity_in_bytes_bounds_the_sum_of_the_rows() {
        const CAPACITY: u64 = 1 << 20;
        let rows = Rows::new(Capacity::Bytes(CAPACITY), Clock::manual());
        for number in 0..1_000 {
            rows.insert(key(number), entry(10_000, 10));
        }
        let kept = rows.len() as u64;
        assert!(rows.entries.weight() <= CAPACITY);
        assert!((50..=104).contains(&kept), "{kept} rows of 10 kB in 1 MiB");
        rows.insert(key(2_000), entry(600_000, 10));
        assert!(rows.get(&key(2_000), 0).is_some(), "a large row fits");
        rows.insert(key(2_001), entry(2_000_000, 10));
        assert!(rows.get(&key(2_001), 0).is_none(), "more than there is");
        assert!(rows.entries.weight() <= CAPACITY);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn a_replaced_entry_is_no_eviction() {
        let rows = Rows::new(Capacity::Rows(100), Clock::manual());
        for _ in 0..3 {
            for number in 0..20 {
                rows.insert(key(number), entry(1, 10));
            }
        }
        rows.remove(&key(7));
        assert_eq!(rows.usage().evictions, 0);
        for number in 0..1_000 {
            rows.insert(key(number), entry(1, 10));
        }
        let kept = rows.len() as u64;
        assert_eq!(rows.usage().evictions, 1_000 - kept);
    }

    #[test]
    fn a_row_that_was_dropped_and_returns_stays_longer_than_new_ones() {
        let rows = Rows::new(Capacity::Rows(100), Clock::manual());
        for number in 0..150 {
            rows.insert(key(number), entry(1, 10));
        }
        let is_kept = |number| rows.peek(&key(number), 0).is_some();
        let dropped = (0..150).rev().find(|number| !is_kept(*number));
        let dropped = dropped.expect("there is no room for all");
        // What a lease does at the key, and the fill.
        rows.remove(&key(dropped));
        rows.insert(key(dropped), entry(1, 10));
        for number in 1_000..1_090 {
            rows.insert(key(number), entry(1, 10));
        }
        assert!(is_kept(dropped));
    }

    #[test]
    fn an_entry_that_expires_soon_is_left_to_the_exact_clock() {
        let rows = Rows::new(Capacity::Rows(100), Clock::manual());
        for (left, is_told) in [(SOON_MS, false), (SOON_MS + 1, true)] {
            rows.insert(key(1), entry(1, left));
            assert_eq!(rows.get_with_time_left(&key(1)).is_some(), is_told);
            assert!(rows.get(&key(1), 0).is_some());
        }
    }

    #[test]
    fn capacity_in_rows_does_not_depend_on_their_size() {
        let rows = Rows::new(Capacity::Rows(100), Clock::manual());
        for number in 0..1_000 {
            rows.insert(key(number), entry(1_000_000, 10));
        }
        assert!((50..=100).contains(&rows.len()), "{}", rows.len());
    }

    #[test]
    fn expired_entry_is_removed_by_who_looks_at_it_and_by_nobody_else() {
        let rows = Rows::new(Capacity::Rows(100), Clock::manual());
        rows.insert(key(1), entry(1, 10));
        assert!(rows.peek(&key(1), 9).is_some() && rows.get(&key(1), 9).is_some());
        assert!(rows.get(&key(1), 10).is_none());
        assert_eq!(rows.len(), 1);
        assert!(rows.peek(&key(1), 10).is_none());
        assert_eq!(rows.len(), 0);
    }

    #[test]
    fn expired_entries_are_removed_in_the_background_in_whichever_runtime_there_is() {
        let clock = Clock::manual();
        let rows = Rows::new(Capacity::Rows(1_000), clock.clone());
        rows.insert(key(0), entry(1, 1_000_000));
        assert!(
            !rows.is_swept.load(Ordering::Relaxed),
            "there is no runtime"
        );
        for round in 1..=2_u64 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                for number in 1..100 {
                    rows.insert(key(number), entry(1, round * 1_000));
                }
                clock.advance(Duration::from_secs(1));
                let emptied = async {
                    while rows.len() > 1 {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                let emptied = tokio::time::timeout(SWEEP_EVERY * 6, emptied).await;
                assert!(emptied.is_ok(), "{} are left", rows.len());
            });
        }
        assert!(
            rows.get(&key(0), clock.now_ms()).is_some(),
            "it has not expired"
        );
    }
}
