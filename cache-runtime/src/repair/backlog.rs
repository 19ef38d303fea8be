//! The pending repairs: of single keys, or of all keys, and the keys that are blocked because of them.
//!
//! Not here: how it is delivered (`delivery`).

#[cfg(feature = "redis")]
use std::time::Duration;
use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

#[cfg(feature = "redis")]
use super::recent::{KeysToReinvalidate, RecentWrites};
use super::{
    Host, Repair,
    delivery::{self, Work},
};
use crate::store::{Store, failpoint::Mechanism};
use crate::{clock::Deadline, error::StoreError, protocol::key::Key, stats::RepairStats};
#[cfg(feature = "redis")]
use crate::{clock::timer_us, store::redis::connection::Observer};

/// The default maximum number of keys that are recorded one by one.
pub(crate) const DEFAULT_LIMIT: usize = 10_000;

/// The repairs of one cache.
#[derive(Debug)]
pub(crate) struct Repairs {
    limit: usize,
    /// The number of pending repairs: the keys, plus one if all keys are blocked. No lock is taken while it is zero.
    pending: AtomicUsize,
    state: Mutex<State>,
    /// Whether the delivery task is running.
    pub(super) running: AtomicBool,
    /// Whether `recent` records keys.
    #[cfg(feature = "redis")]
    noting: AtomicBool,
    #[cfg(feature = "redis")]
    recent: Mutex<Option<RecentWrites>>,
    host: OnceLock<Weak<dyn Host>>,
    repaired: AtomicU64,
    sweeps: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<Key, Remembered>,
    everything: Option<Everything>,
    /// Counts the recorded repairs, to detect that a key was recorded again while its repair was being delivered.
    generation: u64,
    /// The key prefix of each entity.
    prefixes: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Remembered {
    pub(super) how: Repair,
    pub(super) generation: u64,
}

/// All keys are blocked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Everything {
    pub(super) generation: u64,
    /// When a sweep may begin: after writes of unknown outcome, which are no longer listed, can no longer take effect.
    not_before: Option<Deadline>,
}

impl Repairs {
    /// Returns an empty backlog. `limit` is the maximum number of keys that are recorded one by one.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            pending: AtomicUsize::new(0),
            state: Mutex::default(),
            running: AtomicBool::new(false),
            #[cfg(feature = "redis")]
            noting: AtomicBool::new(false),
            #[cfg(feature = "redis")]
            recent: Mutex::new(None),
            host: OnceLock::new(),
            repaired: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
        }
    }

    /// Sets the cache that these repairs belong to. Called once, before all other functions.
    pub(crate) fn belong_to(&self, host: Weak<dyn Host>) {
        self.host.get_or_init(|| host);
    }

    /// Adds a key prefix for sweeps.
    pub(crate) fn register(&self, prefix: &[u8]) {
        let mut state = self.lock();
        if state.prefixes.iter().all(|known| known != prefix) {
            state.prefixes.push(prefix.to_vec());
        }
    }

    /// Records a key whose invalidation could not be delivered.
    pub(crate) fn remember(&self, key: &Key, how: Repair) {
        if self.is_disabled() {
            return;
        }
        let mut state = self.lock();
        state.generation += 1;
        let generation = state.generation;
        let listed = state.keys.get(key).copied();
        if listed.is_none() && state.keys.len() >= self.limit {
            let lost = state.keys.values().map(|listed| listed.how).chain([how]);
            let not_before = lost.filter_map(Repair::ends_at).max();
            state.collapse(not_before);
            tracing::warn!(
                limit = self.limit,
                "too many undelivered invalidations; bypassing the cache until all keys have been dropped from the store"
            );
        } else {
            let how = listed.map_or(how, |listed| listed.how.and(how));
            state
                .keys
                .insert(key.clone(), Remembered { how, generation });
        }
        self.count(&state);
        drop(state);
        self.start();
    }

    /// Records all keys. The sweep begins at the given time.
    pub(crate) fn remember_all(&self, not_before: Option<Deadline>) {
        if self.is_disabled() {
            return;
        }
        let mut state = self.lock();
        state.generation += 1;
        let lost = state.keys.values().map(|listed| listed.how);
        let not_before = lost.filter_map(Repair::ends_at).max().max(not_before);
        state.collapse(not_before);
        self.count(&state);
        drop(state);
        self.start();
    }

    /// Returns whether any key has a pending repair.
    #[inline]
    pub(crate) fn may_block(&self) -> bool {
        self.pending.load(Ordering::Acquire) != 0
    }

    /// Returns whether the key has a pending repair. Then it must be neither served nor filled.
    #[inline]
    pub(crate) fn blocks(&self, key: &Key) -> bool {
        self.may_block() && self.is_pending(key)
    }

    #[cold]
    fn is_pending(&self, key: &Key) -> bool {
        self.start();
        let state = self.lock();
        state.everything.is_some() || state.keys.contains_key(key)
    }

    /// Records that a key is about to be announced or invalidated. Call it before the operation takes its link. It
    /// costs one atomic load while the server has no possible successor.
    #[cfg_attr(
        not(feature = "redis"),
        expect(clippy::unused_self, reason = "no other store has a successor")
    )]
    pub(crate) fn note_write(&self, key: &Key) {
        #[cfg(not(feature = "redis"))]
        let _ = key;
        #[cfg(feature = "redis")]
        if self.noting.load(Ordering::Acquire)
            && let Some(recent) = &mut *self.recent()
        {
            recent.note(key);
        }
    }

    /// As [`Repairs::note_write`], for all keys.
    pub(crate) fn note_write_of_all(&self) {
        #[cfg(feature = "redis")]
        if let Some(recent) = &mut *self.recent() {
            recent.note_everything();
        }
    }

    /// Returns the counts of pending and delivered repairs.
    pub(crate) fn stats(&self) -> RepairStats {
        let state = self.lock();
        RepairStats {
            pending: state.keys.len(),
            all_keys: state.everything.is_some(),
            repaired: self.repaired.load(Ordering::Relaxed),
            full_scans: self.sweeps.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "redis")]
    fn recent(&self) -> MutexGuard<'_, Option<RecentWrites>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the number of pending repairs. Logs one line when there are some and one when there are none left.
    fn count(&self, state: &State) {
        let now = state.keys.len() + usize::from(state.everything.is_some());
        let before = self.pending.swap(now, Ordering::AcqRel);
        if before == 0 && now > 0 {
            tracing::warn!(
                key = state.keys.keys().next().map(tracing::field::display),
                "could not deliver an invalidation; reading affected keys from the database until the store can be reached"
            );
        } else if before > 0 && now == 0 {
            tracing::info!("all invalidations have been delivered to the store");
        }
    }

    /// Returns the key prefixes of the cache's entities.
    pub(super) fn prefixes(&self) -> Vec<Vec<u8>> {
        self.lock().prefixes.clone()
    }

    /// Drops every key with one of these prefixes. A key that is absent at the beginning need not be dropped, because
    /// an entry that is stored later was loaded later. A scan that is completed on one connection returns all other
    /// keys.
    pub(crate) async fn drop_all(
        &self,
        prefixes: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<(), StoreError> {
        match self.host.get() {
            Some(host) => delivery::drop_all(host, prefixes).await,
            None => Ok(()),
        }
    }

    /// Starts the delivery task, unless it is running.
    fn start(&self) {
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.host.get() {
            Some(host) => delivery::start(Weak::clone(host)),
            None => self.running.store(false, Ordering::Release),
        }
    }

    /// Returns the next work. `Nothing` ends the task. The next recorded repair starts another.
    pub(super) fn next(&self) -> Work {
        let state = self.lock();
        match state.everything {
            Some(everything) if everything.may_begin() => Work::Sweep(everything),
            _ if !state.keys.is_empty() => Work::Keys(
                state
                    .keys
                    .iter()
                    .map(|(key, remembered)| (key.clone(), *remembered))
                    .collect(),
            ),
            Some(_) => Work::Wait,
            None => {
                // Under the lock, so that no repair is recorded between this check and the end of the task.
                self.running.store(false, Ordering::Release);
                Work::Nothing
            }
        }
    }

    /// Removes the repair of a key, unless the key was recorded again.
    pub(super) fn delivered(&self, key: &Key, generation: u64) {
        let mut state = self.lock();
        self.repaired.fetch_add(1, Ordering::Relaxed);
        if state
            .keys
            .get(key)
            .is_some_and(|listed| listed.generation == generation)
        {
            state.keys.remove(key);
            self.count(&state);
        }
    }

    /// Unblocks all keys, unless they were recorded again.
    pub(super) fn swept(&self, generation: u64) {
        let mut state = self.lock();
        self.sweeps.fetch_add(1, Ordering::Relaxed);
        if state
            .everything
            .is_some_and(|everything| everything.generation == generation)
        {
            state.everything = None;
            self.count(&state);
        }
    }

    /// Returns whether repairs are disabled, for the tests that show they are needed.
    fn is_disabled(&self) -> bool {
        self.host
            .get()
            .and_then(Weak::upgrade)
            .is_some_and(|host| host.store().disables(Mechanism::Repair))
    }
}

#[cfg(feature = "redis")]
impl Observer for Repairs {
    /// Sets whether keys are recorded, and for how long.
    fn watch_writes_for(&self, window: Option<Duration>) {
        let mut recent = self.recent();
        match window {
            Some(window) if recent.is_none() => {
                *recent = Some(RecentWrites::new(self.limit, window, timer_us()));
            }
            Some(_) => {}
            None => *recent = None,
        }
        self.noting.store(recent.is_some(), Ordering::Release);
    }

    /// Records that the server has accepted a write that was sent at this time, which shows that it has no successor.
    fn write_accepted(&self, sent_us: u64) {
        if let Some(recent) = &mut *self.recent() {
            recent.accepted(sent_us);
        }
    }

    /// Records repairs for the recently written keys. Call it before a link that leads to another history can be used.
    fn history_changed(&self) {
        let suspects = self.recent().as_mut().map(RecentWrites::take);
        match suspects {
            None => {}
            Some(KeysToReinvalidate::Keys(keys)) => {
                for key in &keys {
                    self.remember(key, Repair::Drop);
                }
            }
            Some(KeysToReinvalidate::Everything) => self.remember_all(None),
        }
    }
}

impl State {
    /// Replaces the list of keys by "all keys".
    fn collapse(&mut self, not_before: Option<Deadline>) {
        self.keys = HashMap::new();
        self.everything = Some(Everything {
            generation: self.generation,
            not_before: self
                .everything
                .and_then(|earlier| earlier.not_before)
                .max(not_before),
        });
    }
}

impl Everything {
    fn may_begin(&self) -> bool {
        self.not_before.is_none_or(Deadline::has_passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::token::Token;

    const ANNOUNCE: Repair = Repair::Announce {
        intent: Token([7; 16]),
        intent_ttl_ms: 60_000,
    };

    fn key(number: u8) -> Key {
        Key::from_bytes(&[number])
    }

    fn how(repairs: &Repairs, key: &Key) -> Option<Repair> {
        repairs.lock().keys.get(key).map(|listed| listed.how)
    }

    fn generation(repairs: &Repairs) -> u64 {
        repairs.lock().generation
    }

    #[tokio::test]
    async fn announcement_repair_replaces_a_drop_but_not_vice_versa() {
        for order in [[ANNOUNCE, Repair::Drop], [Repair::Drop, ANNOUNCE]] {
            let repairs = Repairs::new(10);
            for how in order {
                repairs.remember(&key(1), how);
            }
            assert_eq!(how(&repairs, &key(1)), Some(ANNOUNCE));
            assert!(repairs.blocks(&key(1)) && !repairs.blocks(&key(2)));
        }
    }

    #[tokio::test]
    async fn a_sweep_waits_for_writes_that_may_still_commit() {
        let repairs = Repairs::new(1);
        repairs.remember(&key(1), Repair::Drop);
        repairs.remember(&key(2), Repair::Drop);
        assert!(matches!(repairs.next(), Work::Sweep(_)));
        repairs.remember(&key(1), ANNOUNCE);
        repairs.remember(&key(2), Repair::Drop);
        assert!(matches!(repairs.next(), Work::Wait));
        assert!(repairs.blocks(&key(3)));
    }

    #[tokio::test]
    async fn sweep_counts_only_for_keys_recorded_before_it() {
        let repairs = Repairs::new(1);
        repairs.remember(&key(1), Repair::Drop);
        repairs.remember(&key(2), Repair::Drop);
        let first = generation(&repairs);
        repairs.remember(&key(3), Repair::Drop);
        repairs.remember(&key(4), Repair::Drop);
        repairs.swept(first);
        assert!(
            repairs.blocks(&key(1)),
            "more keys than the limit were recorded again"
        );
        let second = generation(&repairs);
        repairs.remember(&key(5), Repair::Drop);
        repairs.swept(second);
        assert!(!repairs.blocks(&key(1)) && repairs.blocks(&key(5)));
    }

    #[tokio::test]
    async fn key_recorded_again_stays_blocked() {
        let repairs = Repairs::new(10);
        repairs.remember(&key(1), Repair::Drop);
        let first = generation(&repairs);
        repairs.remember(&key(1), Repair::Drop);
        repairs.delivered(&key(1), first);
        assert!(repairs.blocks(&key(1)));
        repairs.delivered(&key(1), generation(&repairs));
        assert!(!repairs.blocks(&key(1)));
    }
}
