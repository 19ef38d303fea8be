//! The mutants: each leaves out one mechanism.
//!
//! They wrap the functions of the state machine. Without a mutant, every function here is the real one.

use larder::{
    state::{self, Change, Slot, State, Step, Writers},
    token::Token,
};

use crate::store::{Key, LONG_MS, SHORT_MS, is_leased};

/// The mechanism that a mutant leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A loaded row is stored over any entry.
    FillCompare,
    /// An intent does not revoke a lease.
    LeaseKill,
    /// All fills have one token.
    LeaseNames,
    /// The row is read before the lease is taken, as in a transaction that began earlier.
    FreshRead,
    /// A key lists only the latest intent.
    IntentSet,
    /// A writer stores its cache update although there was another writer.
    Contended,
    /// A writer stores its cache update although the key was dropped beside it.
    DroppedBeside,
    /// A writer stores its cache update although its intent is gone.
    LostIntent,
    /// A writer stores its cache update although it has announced again.
    AnnouncedOnce,
    /// A cache update gets the present history, and not the one that the writer has announced in.
    FirstStamp,
    /// A trigger changes the row after the statement that returned the cache update.
    CommittedRow,
}

pub(crate) fn fill(
    broken: Option<Broken>,
    key: &Key,
    token: Token,
    entry: State<u8>,
) -> Step<u8, bool> {
    if broken == Some(Broken::FillCompare) {
        return put(entry, LONG_MS, true);
    }
    state::fill(key.as_ref(), token, entry, LONG_MS, SHORT_MS)
}

pub(crate) fn begin(broken: Option<Broken>, key: &Key, intent: Token) -> Step<u8, ()> {
    match (broken, key) {
        (
            Some(Broken::LeaseKill),
            Some(Slot {
                state: State::Loading(..),
                ..
            }),
        ) => keep(()),
        (Some(Broken::IntentSet), _) => put(writing(vec![intent]), SHORT_MS, ()),
        _ => state::begin(key.as_ref(), intent, SHORT_MS),
    }
}

pub(crate) fn end(
    broken: Option<Broken>,
    key: &Key,
    intent: Token,
    update: Option<State<u8>>,
) -> Step<u8, bool> {
    let mut before = key.clone();
    let writers = match &mut before {
        Some(Slot {
            state: State::Writing(writers),
            ..
        }) => Some(writers),
        _ => None,
    };
    let mine = writers
        .as_ref()
        .is_some_and(|writers| writers.intents.contains(&intent));
    match (broken, writers, &update) {
        (Some(Broken::IntentSet), _, _) if !mine => return keep(false),
        (Some(Broken::LostIntent), None, Some(entry)) => {
            return put(entry.clone(), LONG_MS, true);
        }
        (Some(Broken::Contended), Some(writers), _) => writers.contended = false,
        _ => {}
    }
    state::end(before.as_ref(), intent, update, LONG_MS)
}

pub(crate) fn invalidate(broken: Option<Broken>, key: &Key) -> Step<u8, ()> {
    match key {
        Some(Slot {
            state: State::Writing(_),
            ..
        }) if broken == Some(Broken::DroppedBeside) => keep(()),
        _ => state::invalidate(key.as_ref()),
    }
}

/// Returns whether a fill with this token would be accepted.
pub(crate) fn is_current(broken: Option<Broken>, key: &Key, token: Token) -> bool {
    broken == Some(Broken::FillCompare) || is_leased(key, token)
}

fn writing(intents: Vec<Token>) -> State<u8> {
    State::Writing(Writers {
        intents,
        contended: false,
        saturated: false,
    })
}

fn put<R>(state: State<u8>, ttl_ms: u64, reply: R) -> Step<u8, R> {
    Step {
        change: Change::Put(state, ttl_ms),
        reply,
        wake: Vec::new(),
    }
}

fn keep<R>(reply: R) -> Step<u8, R> {
    Step {
        change: Change::Keep,
        reply,
        wake: Vec::new(),
    }
}
