//! Repairs: the keys whose invalidation this process could not deliver, and what is done about them.
//!
//! Without them, an update that is made while the store is away is forgotten by the cache: the store comes back with the old
//! row, and serves it until its time to live ends.
//!
//! 1. A write that could not be told to the store is remembered ([`Repairs::remember`]) before its caller has its answer.
//! 2. From then on this process serves nothing from that key and stores nothing at it ([`Repairs::denies`]): reads go to the
//!    database.
//! 3. A task delivers what is remembered as soon as the store answers, many keys at a time, and then lets go of each.
//! 4. More keys than the limit are not listed: then *everything* is denied until a sweep has dropped every key of this
//!    cache's entities, cursor by cursor.
//!
//! Invariant: a key is let go of only after the store has acknowledged its repair, and only if it was not remembered again
//! since the repair was sent; a sweep counts only for what was remembered before it began, and on one connection.
//!
//! Invariant: a read that begins after the answer of a write that was not delivered does not return an older row. Three
//! looks carry it; each is one atomic load as long as nothing is to be repaired:
//! - before the store is asked. A look after the reply alone would not do: the old row may have left the store before the
//!   repair arrived there, and be judged after the key was let go of;
//! - when a row has arrived from the store, for keys that were remembered while it was on its way;
//! - before a fill, after the flight was closed to newcomers. Whoever joined the flight before that may have joined after
//!   the write returned, and would share the row if the fill were accepted. At this moment either the key is still denied,
//!   and nothing is stored; or its repair was delivered, and has killed the lease of the fill.
//!
//! Commands that were sent before the store fell silent may be carried out late, even after a repair that went over a newer
//! connection. That is harmless: a late fill or publication finds its lease or intent gone or marked, and a late
//! announcement keeps readers off until it expires.
//!
//! A repair that the store acknowledges is delivered for good. If that store then loses it (a restart with older data, a
//! replica that is promoted), its history is another one, and nothing that it held is believed; nothing has to be delivered
//! *before* a new link is used, because `denies` keeps this process off the keys meanwhile. The one exception is a primary
//! that was cut off while others already used its successor: for them, the keys told to it lately (`recent`) are repaired
//! once more, at the successor.
//!
//! Not here: what other processes serve until a repair is delivered (the old row, at most until its time to live ends), and
//! a process that dies with repairs pending, which leaves the same.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    cache,
    clock::Deadline,
    error::StoreError,
    key::Key,
    stats::RepairStats,
    store::{Store, Touched},
    token::Token,
};
#[cfg(feature = "redis")]
use crate::{
    clock::timer_us,
    recent::{Recent, Suspects},
};

/// How many keys are remembered one by one, unless the builder says otherwise.
pub(crate) const DEFAULT_LIMIT: usize = 10_000;
/// How many repairs are under way at the same time.
const AT_ONCE: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What has to be told to the store about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// The row has changed: drop what is there.
    Drop,
    /// The row may change yet, because the outcome of a write is unknown: put the write's intent there and leave it to
    /// expire.
    Announce { intent: Token, intent_ttl_ms: u64 },
}

/// The repairs of one cache.
#[derive(Debug)]
pub(crate) struct Repairs {
    limit: usize,
    /// How many things there are to repair: the keys, and one for everything. Nothing is locked while this is zero.
    pending: AtomicUsize,
    state: Mutex<State>,
    /// Whether the task that delivers is at work.
    running: AtomicBool,
    /// Whether `recent` takes notes.
    #[cfg(feature = "redis")]
    noting: AtomicBool,
    #[cfg(feature = "redis")]
    recent: Mutex<Option<Recent>>,
    cache: OnceLock<Weak<cache::Inner>>,
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
struct Remembered {
    how: Repair,
    generation: u64,
}

/// Every key is denied.
#[derive(Clone, Copy, Debug)]
struct Everything {
    generation: u64,
    /// When a sweep may begin: not before writes of unknown outcome, which are no longer listed, have come to an end.
    not_before: Option<Deadline>,
}

/// What the task does next.
enum Work {
    Nothing,
    Keys(Vec<(Key, Remembered)>),
    Sweep(Everything),
    Wait,
}

/// While it lives, a task delivers.
struct Running {
    cache: Weak<cache::Inner>,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The task was stopped with its runtime: whoever needs another one may start it.
        if !self.ended
            && let Some(cache) = self.cache.upgrade()
        {
            cache.repairs.running.store(false, Ordering::Release);
        }
    }
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
            cache: OnceLock::new(),
            repaired: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
        }
    }

    /// Says whose repairs these are; once, before anything else.
    pub(crate) fn belong_to(&self, cache: Weak<cache::Inner>) {
        self.cache.get_or_init(|| cache);
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
    fn announced_all(&self) {
        #[cfg(feature = "redis")]
        if let Some(recent) = &mut *self.recent() {
            recent.note_everything();
        }
    }

    /// Whether keys are noted from now on, and for how long.
    #[cfg(feature = "redis")]
    pub(crate) fn note_for(&self, window: Option<Duration>) {
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
    #[cfg(feature = "redis")]
    pub(crate) fn accepted(&self, sent_us: u64) {
        if let Some(recent) = &mut *self.recent() {
            recent.accepted(sent_us);
        }
    }

    /// Remembers the keys that were told to an earlier server lately. To be called before a link that leads to another
    /// history can be taken.
    #[cfg(feature = "redis")]
    pub(crate) fn replay(&self) {
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

    /// Starts the task that delivers, unless it is at work.
    fn start(&self) {
        if self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let cache = self.cache.get().cloned().unwrap_or_default();
        let running = Running {
            cache,
            ended: false,
        };
        tokio::spawn(run(running));
    }

    /// Picks the next work. `Nothing` ends the task; whoever remembers something after that starts another.
    fn next(&self) -> Work {
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
    fn delivered(&self, key: &Key, generation: u64) {
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
    fn swept(&self, generation: u64) {
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
            .cache
            .get()
            .and_then(Weak::upgrade)
            .is_some_and(|cache| cache.store.is_left_out(Mechanism::Repair));
        #[cfg(not(feature = "test-util"))]
        return false;
    }
}

impl Repair {
    /// What serves both: an announcement drops what is there as well.
    fn and(self, later: Self) -> Self {
        match (self, later) {
            (_, Self::Drop) => self,
            (Self::Drop, _) => later,
            (
                Self::Announce {
                    intent_ttl_ms: earlier_ttl_ms,
                    ..
                },
                Self::Announce {
                    intent,
                    intent_ttl_ms,
                },
            ) => Self::Announce {
                intent,
                intent_ttl_ms: intent_ttl_ms.max(earlier_ttl_ms),
            },
        }
    }

    /// When the write it stands for has come to an end, if that is not now.
    fn ends_at(self) -> Option<Deadline> {
        match self {
            Self::Drop => None,
            Self::Announce { intent_ttl_ms, .. } => {
                Some(Deadline::after(Duration::from_millis(intent_ttl_ms)))
            }
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

/// Delivers until nothing is left or the cache is gone.
async fn run(mut running: Running) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(cache) = running.cache.upgrade() else {
            return;
        };
        let progress = match cache.repairs.next() {
            Work::Nothing => {
                running.ended = true;
                return;
            }
            Work::Keys(keys) => deliver(&cache, keys).await,
            Work::Sweep(everything) => {
                drop(cache);
                sweep(&running.cache, everything).await.is_ok()
            }
            Work::Wait => false,
        };
        if progress {
            pause = FIRST_PAUSE;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Delivers what is remembered of these keys. Whether any of it arrived.
async fn deliver(cache: &Arc<cache::Inner>, keys: Vec<(Key, Remembered)>) -> bool {
    let mut progress = false;
    for chunk in keys.chunks(AT_ONCE) {
        let mut repairs = JoinSet::new();
        for (key, remembered) in chunk {
            repairs.spawn(repair(Arc::clone(cache), key.clone(), *remembered));
        }
        let arrived = count_arrived(repairs).await;
        progress |= arrived > 0;
        // A key that cannot be repaired must not keep others waiting; a store that is away can.
        if arrived == 0 && !cache.store.is_trusted() {
            break;
        }
    }
    progress
}

async fn repair(
    cache: Arc<cache::Inner>,
    key: Key,
    remembered: Remembered,
) -> Result<(), StoreError> {
    cache.repairs.announced(&key);
    match remembered.how {
        Repair::Drop => cache.store.invalidate(&key).await?,
        Repair::Announce {
            intent,
            intent_ttl_ms,
        } => {
            let touched = [Touched {
                key: key.clone(),
                publication: None,
            }];
            cache.store.begin(&touched, intent, intent_ttl_ms).await?;
        }
    }
    cache.repairs.delivered(&key, remembered.generation);
    Ok(())
}

/// Drops every key of the cache's entities.
async fn sweep(cache: &Weak<cache::Inner>, everything: Everything) -> Result<(), StoreError> {
    let Some(strong) = cache.upgrade() else {
        return Ok(());
    };
    let prefixes = strong.repairs.lock().prefixes.clone();
    drop(strong);
    drop_all(cache, prefixes).await?;
    if let Some(cache) = cache.upgrade() {
        cache.repairs.swept(everything.generation);
    }
    Ok(())
}

/// Drops every key that begins with one of these. A key that is absent at the beginning needs no drop, because whatever is
/// stored at it later was loaded later; all others are named by a scan that is completed on one connection.
pub(crate) async fn drop_all(
    cache: &Weak<cache::Inner>,
    prefixes: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(), StoreError> {
    for (beginning, prefixes) in scans(prefixes) {
        scan_and_drop(cache, &beginning, &prefixes).await?;
    }
    Ok(())
}

/// As few scans as name all keys with these prefixes: each has what they all begin with. A scan looks at every key of the
/// server, so one for each of a thousand namespaces would keep it busy.
fn scans(prefixes: impl IntoIterator<Item = Vec<u8>>) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
    // Keys in one slot of a cluster have a brace in front, and nothing in common with the others.
    let (braced, plain): (Vec<_>, Vec<_>) = prefixes
        .into_iter()
        .partition(|prefix| prefix.starts_with(b"{"));
    [braced, plain]
        .into_iter()
        .filter_map(|mut prefixes| {
            prefixes.sort();
            prefixes.dedup_by(|longer, prefix| longer.starts_with(prefix));
            let (first, last) = (prefixes.first()?, prefixes.last()?);
            // They are in order: what these two share, all of them do.
            let same = first.iter().zip(last);
            let common = same.take_while(|(one, other)| one == other).count();
            Some((first[..common].to_vec(), prefixes))
        })
        .collect()
}

/// Scans once, for the keys that begin with one of the prefixes, which are in order and have this beginning.
async fn scan_and_drop(
    cache: &Weak<cache::Inner>,
    beginning: &[u8],
    prefixes: &[Vec<u8>],
) -> Result<(), StoreError> {
    let mut run = None;
    let mut cursor = 0;
    loop {
        // Only as long as somebody holds the cache.
        let Some(cache) = cache.upgrade() else {
            return Ok(());
        };
        let began_in = *run.get_or_insert_with(|| cache.store.run());
        // The server may turn out to have had a successor, in which all of this is still to be done.
        cache.repairs.announced_all();
        let (next, mut keys) = cache.store.scan(beginning, cursor).await?;
        keys.retain(|key| {
            let key = key.as_bytes();
            let before = prefixes.partition_point(|prefix| prefix.as_slice() <= key);
            before > 0 && key.starts_with(&prefixes[before - 1])
        });
        for chunk in keys.chunks(AT_ONCE) {
            let mut drops = JoinSet::new();
            for key in chunk {
                let (cache, key) = (Arc::clone(&cache), key.clone());
                drops.spawn(async move { cache.store.invalidate(&key).await });
            }
            if count_arrived(drops).await < chunk.len() {
                return Err(StoreError::new("a key could not be dropped"));
            }
        }
        if cache.store.run() != began_in {
            return Err(StoreError::new(
                "the connection was replaced while keys were dropped",
            ));
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

/// How many of these the store has acknowledged.
async fn count_arrived(mut commands: JoinSet<Result<(), StoreError>>) -> usize {
    let mut arrived = 0;
    while let Some(command) = commands.join_next().await {
        arrived += usize::from(matches!(command, Ok(Ok(()))));
    }
    arrived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_many_namespaces_are_named_by_one_scan() {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let tenants: Vec<_> = prefixes(&["shop-eu:Item:", "shop-us:Cart:", "shop-us:Item:"]);
        assert_eq!(
            scans(tenants.clone()),
            [(b"shop-".to_vec(), tenants.clone())]
        );
        let slots: Vec<_> = prefixes(&["{shop-eu:Item}:"]);
        let mut mixed = tenants.clone();
        mixed.extend(slots.clone());
        assert_eq!(
            scans(mixed),
            [
                (b"{shop-eu:Item}:".to_vec(), slots),
                (b"shop-".to_vec(), tenants)
            ]
        );
        assert_eq!(
            scans(prefixes(&["a:", "b:"])),
            [(Vec::new(), prefixes(&["a:", "b:"]))]
        );
        assert_eq!(
            scans(prefixes(&["b:", "a:b:", "a:", "a:b:"])),
            [(Vec::new(), prefixes(&["a:", "b:"]))]
        );
        assert_eq!(scans(Vec::new()), []);
    }

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
