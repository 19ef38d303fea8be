//! The mutants: each leaves out one mechanism, as a cache written by hand does.
//!
//! They stand between the model and the state machine. Without a mutant, every function here is the real one.

use larder::{
    state::{self, Change, Slot, State, Step, Writers},
    token::Token,
};

use crate::store::{Key, LONG_MS, SHORT_MS, is_leased};

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A loaded row is stored whatever is at the key.
    FillCompare,
    /// An intent leaves a lease in flight alone.
    LeaseKill,
    /// All fills have one name.
    LeaseNames,
    /// The row is read before the lease is taken, as in a transaction that began earlier.
    FreshRead,
    /// Only the latest intent is remembered, instead of all.
    IntentSet,
    /// A writer publishes although another one was there.
    Contended,
    /// A writer publishes although the key was dropped beside it.
    DroppedBeside,
    /// A writer publishes although its intent is gone.
    LostIntent,
    /// A writer publishes although it had to announce itself again.
    AnnouncedOnce,
    /// A writer publishes under the present stamp, instead of the one it announced itself under.
    FirstStamp,
    /// A trigger changes the row after the statement whose result is published.
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
    publish: Option<State<u8>>,
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
    match (broken, writers, &publish) {
        (Some(Broken::IntentSet), _, _) if !mine => return keep(false),
        (Some(Broken::LostIntent), None, Some(entry)) => {
            return put(entry.clone(), LONG_MS, true);
        }
        (Some(Broken::Contended), Some(writers), _) => writers.contended = false,
        _ => {}
    }
    state::end(before.as_ref(), intent, publish, LONG_MS)
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

/// Whether a fill would be accepted by its name.
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
