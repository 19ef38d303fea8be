//! What is to be repaired: the keys, or everything, and what is denied because of it.
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
use super::recent::{Recent, Suspects};
use super::{
    Host, Repair,
    delivery::{self, Work},
};
#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{clock::Deadline, error::StoreError, protocol::key::Key, stats::RepairStats};
#[cfg(feature = "redis")]
use crate::{clock::timer_us, store::redis::connection::Observer};

/// How many keys are remembered one by one, unless the builder says otherwise.
pub(crate) const DEFAULT_LIMIT: usize = 10_000;

/// The repairs of one cache.
#[derive(Debug)]
pub(crate) struct Repairs {
    limit: usize,
    /// How many things there are to repair: the keys, and one for everything. Nothing is locked while this is zero.
    pending: AtomicUsize,
    state: Mutex<State>,
    /// Whether the task that delivers is at work.
    pub(super) running: AtomicBool,
    /// Whether `recent` takes notes.
    #[cfg(feature = "redis")]
    noting: AtomicBool,
    #[cfg(feature = "redis")]
    recent: Mutex<Option<Recent>>,
    host: OnceLock<Weak<dyn Host>>,
    repaired: AtomicU64,
    sweeps: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<Key, Remembered>,
    everything: Option<Everything>,
    /// Counts what was remembered, so that a repair can tell whether it came too early.
    generation: u64,
    /// What the keys of each entity begin with.
    prefixes: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Remembered {
    pub(super) how: Repair,
    pub(super) generation: u64,
}

/// Every key is denied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Everything {
    pub(super) generation: u64,
    /// When a sweep may begin: not before writes of unknown outcome, which are no longer listed, have come to an end.
    not_before: Option<Deadline>,
}

impl Repairs {
    /// Nothing to repair. At most so many keys are remembered one by one.
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

    /// Says whose repairs these are; once, before anything else.
    pub(crate) fn belong_to(&self, host: Weak<dyn Host>) {
        self.host.get_or_init(|| host);
    }

    /// Lets a sweep know the keys that begin so.
    pub(crate) fn register(&self, prefix: &[u8]) {
        let mut state = self.lock();
        if state.prefixes.iter().all(|known| known != prefix) {
            state.prefixes.push(prefix.to_vec());
        }
    }

    /// Remembers a key that the store could not be told about.
    pub(crate) fn remember(&self, key: &Key, how: Repair) {
        if self.is_left_out() {
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
                "too many keys await their invalidation; nothing is served from the cache until all keys were dropped"
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

    /// Remembers every key there is. The sweep begins when the given moment has come.
    pub(crate) fn remember_everything(&self, not_before: Option<Deadline>) {
        if self.is_left_out() {
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

    /// Whether the key has to be repaired: then nothing is served from it and nothing stored at it.
    #[inline]
    pub(crate) fn denies(&self, key: &Key) -> bool {
        self.pending.load(Ordering::Acquire) != 0 && self.is_pending(key)
    }

    #[cold]
    fn is_pending(&self, key: &Key) -> bool {
        self.start();
        let state = self.lock();
        state.everything.is_some() || state.keys.contains_key(key)
    }

    /// Notes that the store is about to be told about a key. To be called before the operation takes its link; costs one
    /// atomic load as long as there is nobody to take the server's place.
    #[cfg_attr(
        not(feature = "redis"),
        expect(clippy::unused_self, reason = "no other store has a successor")
    )]
    pub(crate) fn announced(&self, key: &Key) {
        #[cfg(not(feature = "redis"))]
        let _ = key;
        #[cfg(feature = "redis")]
        if self.noting.load(Ordering::Acquire)
            && let Some(recent) = &mut *self.recent()
        {
            recent.note(key);
        }
    }

    /// As [`Repairs::announced`], for every key there is.
    pub(super) fn announced_all(&self) {
        #[cfg(feature = "redis")]
        if let Some(recent) = &mut *self.recent() {
            recent.note_everything();
        }
    }

    /// What is to be repaired and what was.
    pub(crate) fn stats(&self) -> RepairStats {
        let state = self.lock();
        RepairStats {
            pending: state.keys.len(),
            everything: state.everything.is_some(),
            repaired: self.repaired.load(Ordering::Relaxed),
            sweeps: self.sweeps.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "redis")]
    fn recent(&self) -> MutexGuard<'_, Option<Recent>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes how much there is to do; one line when it begins and one when it ends.
    fn count(&self, state: &State) {
        let now = state.keys.len() + usize::from(state.everything.is_some());
        let before = self.pending.swap(now, Ordering::AcqRel);
        if before == 0 && now > 0 {
            tracing::warn!(
                "the store could not be told about a write; its key is read from the database until it can"
            );
        } else if before > 0 && now == 0 {
            tracing::info!("the store has been told about every write");
        }
    }

    /// What the keys of the cache's entities begin with.
    pub(super) fn prefixes(&self) -> Vec<Vec<u8>> {
        self.lock().prefixes.clone()
    }

    /// Drops every key that begins with one of these. A key that is absent at the beginning needs no drop, because whatever is
    /// stored at it later was loaded later; all others are named by a scan that is completed on one connection.
    pub(crate) async fn drop_all(
        &self,
        prefixes: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<(), StoreError> {
        match self.host.get() {
            Some(host) => delivery::drop_all(host, prefixes).await,
            None => Ok(()),
        }
    }

    /// Starts the task that delivers, unless it is at work.
    fn start(&self) {
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.host.get() {
            Some(host) => delivery::start(Weak::clone(host)),
            None => self.running.store(false, Ordering::Release),
        }
    }

    /// Picks the next work. `Nothing` ends the task; whoever remembers something after that starts another.
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
                // Under the lock, so that nothing is remembered between the look and the end.
                self.running.store(false, Ordering::Release);
                Work::Nothing
            }
        }
    }

    /// Lets go of a key, unless it was remembered again.
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

    /// Ends the denial of everything, unless it was asked for again.
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

    /// Whether the whole is left out, for the tests that show it is needed.
    fn is_left_out(&self) -> bool {
        #[cfg(feature = "test-util")]
        return self
            .host
            .get()
            .and_then(Weak::upgrade)
            .is_some_and(|host| host.store().is_left_out(Mechanism::Repair));
        #[cfg(not(feature = "test-util"))]
        return false;
    }
}

#[cfg(feature = "redis")]
impl Observer for Repairs {
    /// Whether keys are noted from now on, and for how long.
    fn watch_writes_for(&self, window: Option<Duration>) {
        let mut recent = self.recent();
        match window {
            Some(window) if recent.is_none() => {
                *recent = Some(Recent::new(self.limit, window, timer_us()));
            }
            Some(_) => {}
            None => *recent = None,
        }
        self.noting.store(recent.is_some(), Ordering::Release);
    }

    /// The server that is used has accepted a write that was sent at this moment, which shows that nobody has taken its place.
    fn write_accepted(&self, sent_us: u64) {
        if let Some(recent) = &mut *self.recent() {
            recent.accepted(sent_us);
        }
    }

    /// Remembers the keys that were told to an earlier server lately. To be called before a link that leads to another
    /// history can be taken.
    fn history_changed(&self) {
        let suspects = self.recent().as_mut().map(Recent::take);
        match suspects {
            None => {}
            Some(Suspects::Keys(keys)) => {
                for key in &keys {
                    self.remember(key, Repair::Drop);
                }
            }
            Some(Suspects::Everything) => self.remember_everything(None),
        }
    }
}

impl State {
    /// Gives up the list for "everything".
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
    async fn an_announcement_serves_for_a_drop_but_not_the_other_way_round() {
        for order in [[ANNOUNCE, Repair::Drop], [Repair::Drop, ANNOUNCE]] {
            let repairs = Repairs::new(10);
            for how in order {
                repairs.remember(&key(1), how);
            }
            assert_eq!(how(&repairs, &key(1)), Some(ANNOUNCE));
            assert!(repairs.denies(&key(1)) && !repairs.denies(&key(2)));
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
        assert!(repairs.denies(&key(3)));
    }

    #[tokio::test]
    async fn a_sweep_counts_only_for_what_was_remembered_before_it() {
        let repairs = Repairs::new(1);
        repairs.remember(&key(1), Repair::Drop);
        repairs.remember(&key(2), Repair::Drop);
        let first = generation(&repairs);
        repairs.remember(&key(3), Repair::Drop);
        repairs.remember(&key(4), Repair::Drop);
        repairs.swept(first);
        assert!(
            repairs.denies(&key(1)),
            "there was too much again meanwhile"
        );
        let second = generation(&repairs);
        repairs.remember(&key(5), Repair::Drop);
        repairs.swept(second);
        assert!(!repairs.denies(&key(1)) && repairs.denies(&key(5)));
    }

    #[tokio::test]
    async fn a_key_that_was_remembered_again_is_kept() {
        let repairs = Repairs::new(10);
        repairs.remember(&key(1), Repair::Drop);
        let first = generation(&repairs);
        repairs.remember(&key(1), Repair::Drop);
        repairs.delivered(&key(1), first);
        assert!(repairs.denies(&key(1)));
        repairs.delivered(&key(1), generation(&repairs));
        assert!(!repairs.denies(&key(1)));
    }
}
