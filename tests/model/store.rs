//! One key of a store, as all models keep it: a slot of the real state machine, whose payload is the version of the row.
//!
//! Tokens are small fixed numbers. Values that no step compares (who filled an entry, and when) are zero, so that states
//! that differ in nothing else are one state.

use larder::{
    state::{Change, Identity, Lease, Lookup, Meta, Slot, State, Step, lookup},
    token::Token,
};

/// The version of a row, or `None` if there is no row.
pub(crate) type Row = Option<u8>;

/// The state of the key.
pub(crate) type Key<P = u8> = Option<Slot<P>>;

/// The time to live of leases and intents. No clock is modelled, and they may end at any time.
pub(crate) const SHORT_MS: u64 = 1;
/// The time to live of rows, likewise.
pub(crate) const LONG_MS: u64 = 2;

/// Returns the identity of entries in one history of the store.
pub(crate) fn identity(stamp: u8) -> Identity {
    Identity {
        history: stamp.into(),
        fingerprint: 0,
        codec: 0,
    }
}

/// Returns a lease in one history.
pub(crate) fn lease(token: Token, stamp: u8) -> Lease {
    Lease {
        token,
        identity: identity(stamp),
    }
}

/// Returns the entry for a row, or for its absence.
pub(crate) fn entry<P>(row: Option<P>, stamp: u8) -> State<P> {
    let meta = Meta {
        // No step compares which fill has stored an entry.
        lease: lease(Token::numbered(0), stamp),
        loaded_at_ms: 0,
        stamp: None,
    };
    row.map_or(State::Negative(meta), |row| State::Value(meta, row))
}

/// Returns what a reader of this history is served, if anything.
pub(crate) fn served<P: Copy>(key: &Key<P>, stamp: u8) -> Option<Option<P>> {
    let state = key.as_ref().map(|slot| &slot.state);
    match (lookup(state, identity(stamp)), state) {
        (Lookup::Value(..), Some(State::Value(_, row))) => Some(Some(*row)),
        (Lookup::Negative(_), _) => Some(None),
        _ => None,
    }
}

/// Returns the intents at a key.
pub(crate) fn intents<P>(key: &Key<P>) -> &[Token] {
    match key {
        Some(Slot {
            state: State::Writing(writers),
            ..
        }) => &writers.intents,
        _ => &[],
    }
}

/// Returns whether writers are at work.
pub(crate) fn is_writing<P>(key: &Key<P>) -> bool {
    matches!(
        key,
        Some(Slot {
            state: State::Writing(_),
            ..
        })
    )
}

/// Returns whether the key has the lease with this token.
pub(crate) fn is_leased<P>(key: &Key<P>, token: Token) -> bool {
    matches!(key, Some(Slot { state: State::Loading(lease, _), .. }) if lease.token == token)
}

/// Applies a step to the key. Returns the reply of the step.
pub(crate) fn apply<P, R>(key: &mut Key<P>, step: impl FnOnce(&Key<P>) -> Step<P, R>) -> R {
    let step = step(key);
    match step.change {
        Change::Keep => {}
        Change::Put(state, remaining_ms) => {
            *key = Some(Slot {
                state,
                remaining_ms,
            });
        }
        Change::Delete => *key = None,
    }
    step.reply
}
