//! The state machine of one key: what a store holds there, and what each operation does to it. Pure functions, no I/O.
//!
//! The in-process store executes this code, and the model checker checks it. Property tests compare the Lua scripts with it.
//! So the rules exist once, and everything that executes them is compared with them.
//!
//! 1. A reader that finds nothing takes the fill lease ([`acquire`]) and loads the row from the database.
//! 2. It stores the row only if the key still holds that lease ([`fill`]).
//! 3. A writer announces its intent before its commit ([`begin`]), which replaces the entry or the lease at the key. It
//!    takes the intent back after the commit ([`end`]).
//! 4. A write-behind write is stored as pending ([`put`]), together with its queue position. It stays until it is known to
//!    be in the database ([`settle`]).
//!
//! Invariant: an accepted fill proves that no intent was open or placed between the lease and the fill. Every commit lies
//! between its `begin` and its `end`. So a served value contains every commit that finished before the read.
//! Invariant: losing a key at any time is safe. The only conclusion from an absent key is that the row must be loaded under
//! a new lease.
//!
//! A lease that an invalidation revokes is Facebook's memcache lease (Nishtala et al., NSDI 2013). Such a lease protects
//! readers after the writer has returned. Intents are placed before the commit, so they protect readers before that as well.

use crate::protocol::{
    queue_position::QueuePosition,
    tags::Stamp,
    token::{ProcessId, Token},
};

/// The remaining time of an entry without a time to live: a pending row stays until it is flushed.
pub const FOREVER: u64 = u64::MAX;

/// The largest number of intents that one key lists. With more, nothing is served or filled until the last intent has
/// expired.
pub const MAX_INTENTS: usize = 1_024;

/// The largest number of processes that one lease lists as waiting for its end. Others go on by themselves.
pub const MAX_WAITERS: usize = 4_096;

/// What one key of the store holds. An absent key is `None` wherever a state is optional.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State<P> {
    /// One reader is loading the row.
    Loading(Lease, Vec<ProcessId>),
    /// The row.
    Value(Meta, P),
    /// The row does not exist.
    Negative(Meta),
    /// Writers are between their announcement and the end of their write.
    Writing(Writers),
    /// A queued row or deletion that is not in the database yet. The payload is the row, or the id of the row to delete.
    Pending(Pending, P),
    /// An entry that this version cannot decode: of a later format, or damaged.
    Unreadable(Unreadable),
}

/// The permission to fill a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The token of the fill.
    pub token: Token,
    /// The history of the store and the layout of the entity that the fill belongs to.
    pub identity: Identity,
}

/// What an entry must have in common with a reader that uses it: the history of the store, the layout and the codec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// A hash of the store's identity, read at connect. Entries of another history may be restored old ones.
    pub history: u64,
    /// A hash of the entity's fields and their types.
    pub fingerprint: u32,
    /// The number of the payload codec.
    pub codec: u8,
}

/// What an entry says about its row, besides the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Meta {
    /// The fill that stored it.
    pub lease: Lease,
    /// When it was loaded, in milliseconds since 1970 by the loader's clock. For people only: no decision uses it.
    pub loaded_at_ms: u64,
    /// When its load began, by the clock of its entity. Only entries of entities with tags have one.
    pub stamp: Option<Stamp>,
}

/// What an entry says about a queued write, besides the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// The queue position of the write.
    pub position: QueuePosition,
    /// Whether it deletes the row.
    pub is_deletion: bool,
    /// As for a row. The lease contains the token of the write.
    pub meta: Meta,
}

/// What a queued write requires of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The row exists.
    Present,
    /// The row does not exist.
    Absent,
    /// The key holds the entry that the fill or the write with this token has left.
    Unchanged(Token),
}

/// Whether a key meets a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// The condition is met.
    Met,
    /// The condition is not met.
    ConditionFailed,
    /// The key does not say: the row must be loaded first.
    RowUnknown,
}

/// The open intents of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writers {
    /// One token per writer that has begun and not ended.
    pub intents: Vec<Token>,
    /// Whether two of them have overlapped. If so, no writer leaves a cache update.
    pub contended: bool,
    /// Whether there were too many to list. If so, no writer knows that it is the last one.
    pub saturated: bool,
}

/// Why a state cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreadable {
    /// Not an entry of larder, or a damaged one. It is ignored, and the next lease overwrites it.
    Damaged,
    /// An entry of a later format. Readers treat it as a write in progress. If it is one, writers leave the entry alone too:
    /// these intents belong to writers of a newer version.
    LaterFormat {
        /// Whether it is a write in progress.
        writing: bool,
    },
}

/// The state of a key, and its remaining time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot<P> {
    /// The state.
    pub state: State<P>,
    /// The milliseconds until the store drops it.
    pub remaining_ms: u64,
}

/// What an operation does to a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change<P> {
    /// Nothing.
    Keep,
    /// Store a state for this many milliseconds.
    Put(State<P>, u64),
    /// Remove the key.
    Delete,
}

/// What an operation does to a key, what it returns, and which processes it wakes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step<P, R> {
    /// What happens to the key.
    pub change: Change<P>,
    /// What the caller gets.
    pub reply: R,
    /// The processes that were waiting for the lease that just ended.
    pub wake: Vec<ProcessId>,
}

/// What a reader may conclude from the state of a key. `P` is the row as the store keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<P> {
    /// The row is here: serve it.
    Value(Meta, P),
    /// The row does not exist: serve that.
    Negative(Meta),
    /// Nothing is known: take the lease.
    Absent,
    /// The entry belongs to another history or layout, or is damaged: take the lease, which overwrites it.
    Foreign {
        /// Whether the bytes could not be decoded.
        damaged: bool,
    },
    /// Another process is loading: wait.
    Loading,
    /// A tag of the entry was invalidated since it was loaded: take the lease, which overwrites the entry with this token.
    Outdated(Token),
    /// Nobody with a key has stored the entry with this token here (`seal`): drop it.
    NotAuthentic(Token),
    /// A write is in progress: read the database and store nothing.
    Writing,
    /// A queued write of another history or layout: find out whether it is in the database.
    StalePending,
}

impl<P> Lookup<P> {
    /// Returns the same result with the row in another form.
    pub fn map<Q>(self, change: impl FnOnce(P) -> Q) -> Lookup<Q> {
        match self {
            Self::Value(meta, row) => Lookup::Value(meta, change(row)),
            Self::Negative(meta) => Lookup::Negative(meta),
            Self::Absent => Lookup::Absent,
            Self::Foreign { damaged } => Lookup::Foreign { damaged },
            Self::Loading => Lookup::Loading,
            Self::Outdated(token) => Lookup::Outdated(token),
            Self::NotAuthentic(token) => Lookup::NotAuthentic(token),
            Self::Writing => Lookup::Writing,
            Self::StalePending => Lookup::StalePending,
        }
    }

    /// Returns the token of the fill or the write that has left a row or an absence here.
    pub(crate) fn token(&self) -> Option<Token> {
        match self {
            Self::Value(meta, _) | Self::Negative(meta) => Some(meta.lease.token),
            _ => None,
        }
    }

    /// Returns whether the fill lease may be taken: nothing is known of the row, and no load or write is in progress.
    #[must_use]
    pub fn is_free(&self) -> bool {
        matches!(self, Self::Absent | Self::Foreign { .. })
    }
}

/// Returns a slot as the operations on its key see it. A state that cannot stand there was not written by larder, and is damage:
/// a queued write at a key without a queue would never be flushed, and an entry that does not expire would keep its key from
/// being cached for ever.
#[must_use]
pub fn sound<P>(slot: Slot<P>, has_queue: bool) -> Slot<P> {
    let is_endless = slot.remaining_ms == FOREVER;
    let is_sound = match &slot.state {
        State::Pending(..) => has_queue,
        // A queued write of a later format may have no time to live either.
        State::Unreadable(Unreadable::LaterFormat { .. }) => has_queue || !is_endless,
        State::Unreadable(Unreadable::Damaged) => true,
        State::Loading(..) | State::Value(..) | State::Negative(_) | State::Writing(_) => {
            !is_endless
        }
    };
    match is_sound {
        true => slot,
        false => Slot {
            state: State::Unreadable(Unreadable::Damaged),
            ..slot
        },
    }
}

/// Returns what a reader with this identity may conclude from a state.
pub fn lookup<P>(state: Option<&State<P>>, identity: Identity) -> Lookup<&P> {
    match state {
        None => Lookup::Absent,
        Some(State::Writing(_) | State::Unreadable(Unreadable::LaterFormat { .. })) => {
            Lookup::Writing
        }
        Some(State::Unreadable(Unreadable::Damaged)) => Lookup::Foreign { damaged: true },
        Some(State::Loading(lease, _)) if lease.identity == identity => Lookup::Loading,
        Some(State::Value(meta, row)) if meta.lease.identity == identity => {
            Lookup::Value(*meta, row)
        }
        Some(State::Negative(meta)) if meta.lease.identity == identity => Lookup::Negative(*meta),
        Some(State::Pending(
            Pending {
                meta, is_deletion, ..
            },
            row,
        )) => match (meta.lease.identity == identity, is_deletion) {
            (true, false) => Lookup::Value(*meta, row),
            (true, true) => Lookup::Negative(*meta),
            (false, _) => Lookup::StalePending,
        },
        Some(State::Loading(..) | State::Value(..) | State::Negative(_)) => {
            Lookup::Foreign { damaged: false }
        }
    }
}

/// A reader asks for the fill lease. Grants it unless the row is known, or a load or a write is in progress.
pub fn acquire<P>(slot: Option<&Slot<P>>, lease: Lease, lease_ttl_ms: u64) -> Step<P, bool> {
    acquire_over(slot, lease, lease_ttl_ms, None)
}

/// As [`acquire`], for a reader that has found an entry which must not be served any more: the one with this token may be
/// overwritten as well.
pub fn acquire_over<P>(
    slot: Option<&Slot<P>>,
    lease: Lease,
    lease_ttl_ms: u64,
    outdated: Option<Token>,
) -> Step<P, bool> {
    let found = lookup(slot.map(|slot| &slot.state), lease.identity);
    let is_outdated = match slot.map(|slot| &slot.state) {
        Some(State::Value(meta, _) | State::Negative(meta)) => Some(meta.lease.token) == outdated,
        _ => false,
    };
    if found.is_free() || is_outdated {
        Step {
            change: Change::Put(State::Loading(lease, Vec::new()), lease_ttl_ms),
            reply: true,
            wake: waiters(slot),
        }
    } else {
        Step::unchanged(false)
    }
}

/// A process asks to be woken when the present load ends. Returns whether it will be. Drops a damaged entry.
pub fn wait<P: Clone>(
    slot: Option<&Slot<P>>,
    identity: Identity,
    process: ProcessId,
) -> Step<P, bool> {
    match slot {
        Some(Slot {
            state: State::Loading(lease, waiters),
            remaining_ms,
        }) if lease.identity == identity => {
            if waiters.contains(&process) {
                return Step::unchanged(true);
            }
            if waiters.len() >= MAX_WAITERS {
                return Step::unchanged(false);
            }
            let mut waiters = waiters.clone();
            waiters.push(process);
            Step {
                change: Change::Put(State::Loading(*lease, waiters), *remaining_ms),
                reply: true,
                wake: Vec::new(),
            }
        }
        Some(Slot {
            state: State::Unreadable(Unreadable::Damaged),
            ..
        }) => erase(slot, false),
        _ => Step::unchanged(false),
    }
}

/// The holder of a lease stores what it loaded. `ttl_ms` counts from the grant of the lease. Returns whether the lease was
/// still the current one. If not, nothing is stored.
pub fn fill<P>(
    slot: Option<&Slot<P>>,
    token: Token,
    entry: State<P>,
    ttl_ms: u64,
    lease_ttl_ms: u64,
) -> Step<P, bool> {
    let Some(remaining_ms) = held(slot, token) else {
        return Step::unchanged(false);
    };
    let lease_age_ms = lease_ttl_ms.saturating_sub(remaining_ms);
    let left_ms = ttl_ms.saturating_sub(lease_age_ms);
    Step {
        change: if left_ms == 0 {
            Change::Delete
        } else {
            Change::Put(entry, left_ms)
        },
        reply: true,
        wake: waiters(slot),
    }
}

/// The holder of a lease gives it back without storing anything. Returns whether it was still the current one.
pub fn release<P>(slot: Option<&Slot<P>>, token: Token) -> Step<P, bool> {
    if held(slot, token).is_none() {
        return Step::unchanged(false);
    }
    Step {
        change: Change::Delete,
        reply: true,
        wake: waiters(slot),
    }
}

/// A writer announces that it is about to commit. The intent replaces the entry, or revokes the lease. Announcing an intent
/// again only prolongs it.
pub fn begin<P>(slot: Option<&Slot<P>>, intent: Token, intent_ttl_ms: u64) -> Step<P, ()> {
    if is_off_limits(slot) {
        return Step::unchanged(());
    }
    let (mut writers, remaining_ms) = match slot {
        Some(Slot {
            state: State::Writing(writers),
            remaining_ms,
        }) => (writers.clone(), *remaining_ms),
        _ => (Writers::none(), 0),
    };
    if !writers.intents.contains(&intent) {
        writers.contended |= !writers.intents.is_empty() || writers.saturated;
        if writers.intents.len() < MAX_INTENTS {
            writers.intents.push(intent);
        } else {
            writers.saturated = true;
        }
    }
    Step {
        change: Change::Put(State::Writing(writers), remaining_ms.max(intent_ttl_ms)),
        reply: (),
        wake: waiters(slot),
    }
}

/// A writer takes its intent back. Stores its cache update for `ttl_ms`, if there is one and this writer was alone from
/// begin to end. Otherwise the last writer leaves the key empty. Returns whether the cache update was stored.
pub fn end<P>(
    slot: Option<&Slot<P>>,
    intent: Token,
    update: Option<State<P>>,
    ttl_ms: u64,
) -> Step<P, bool> {
    if is_off_limits(slot) {
        return Step::unchanged(false);
    }
    let Some(Slot {
        state: State::Writing(writers),
        remaining_ms,
    }) = slot
    else {
        // The intent was lost, so another process may have filled the key with the row from before the commit.
        return erase(slot, false);
    };
    let mut writers = writers.clone();
    let listed = writers.intents.iter().position(|token| *token == intent);
    match listed {
        Some(position) => {
            writers.intents.remove(position);
        }
        // The intent was lost, and others began since. Their cache updates may be older than this commit.
        None => writers.contended = true,
    }
    if writers.saturated || !writers.intents.is_empty() {
        return Step {
            change: Change::Put(State::Writing(writers), *remaining_ms),
            reply: false,
            wake: Vec::new(),
        };
    }
    match update {
        Some(entry) if !writers.contended => Step {
            change: Change::Put(entry, ttl_ms),
            reply: true,
            wake: Vec::new(),
        },
        _ => Step {
            change: Change::Delete,
            reply: false,
            wake: Vec::new(),
        },
    }
}

/// Drops the entry of a key. If writers are at work, marks them as contended, so that none leaves a cache update.
pub fn invalidate<P>(slot: Option<&Slot<P>>) -> Step<P, ()> {
    if is_off_limits(slot) {
        return Step::unchanged(());
    }
    match slot {
        Some(Slot {
            state: State::Writing(writers),
            remaining_ms,
        }) => Step {
            change: Change::Put(
                State::Writing(Writers {
                    contended: true,
                    ..writers.clone()
                }),
                *remaining_ms,
            ),
            reply: (),
            wake: Vec::new(),
        },
        _ => erase(slot, ()),
    }
}

/// Drops an entry that is damaged, or the row, absence or queued write with this token, which a reader has found to be forged. A
/// queued write in the place of the forged one is restored from its log by the next lease.
pub fn drop_damaged<P>(slot: Option<&Slot<P>>, forged: Option<Token>) -> Step<P, ()> {
    let token = match slot.map(|slot| &slot.state) {
        Some(State::Unreadable(Unreadable::Damaged)) => return erase(slot, ()),
        Some(State::Value(meta, _) | State::Negative(meta)) => Some(meta.lease.token),
        Some(State::Pending(pending, _)) => Some(pending.meta.lease.token),
        _ => None,
    };
    match token {
        Some(_) if token == forged => erase(slot, ()),
        _ => Step::unchanged(()),
    }
}

/// A reader has found that no tag of an entry was invalidated until this time. The entry with this token gets it as its stamp.
pub fn restamp<P: Clone>(slot: Option<&Slot<P>>, token: Token, stamp: Stamp) -> Step<P, bool> {
    let Some(Slot {
        state: State::Value(meta, payload),
        remaining_ms,
    }) = slot
    else {
        return Step::unchanged(false);
    };
    let is_later = meta
        .stamp
        .is_some_and(|old| old.incarnation == stamp.incarnation && old.time < stamp.time);
    if meta.lease.token != token || !is_later {
        return Step::unchanged(false);
    }
    let meta = Meta {
        stamp: Some(stamp),
        ..*meta
    };
    Step {
        change: Change::Put(State::Value(meta, payload.clone()), *remaining_ms),
        reply: true,
        wake: Vec::new(),
    }
}

/// Evaluates a condition on the row of a key. An entry of another history proves nothing.
pub fn evaluate<P>(slot: Option<&Slot<P>>, identity: Identity, condition: Condition) -> Judgement {
    let known = match slot.map(|slot| &slot.state) {
        Some(State::Value(meta, _)) if meta.lease.identity == identity => {
            Some((true, meta.lease.token))
        }
        Some(State::Negative(meta)) if meta.lease.identity == identity => {
            Some((false, meta.lease.token))
        }
        // The layout does not matter here.
        Some(State::Pending(pending, _))
            if pending.meta.lease.identity.history == identity.history =>
        {
            Some((!pending.is_deletion, pending.meta.lease.token))
        }
        _ => None,
    };
    let met = match (condition, known) {
        (Condition::Any, _) => true,
        (_, None) => return Judgement::RowUnknown,
        (Condition::Present, Some((exists, _))) => exists,
        (Condition::Absent, Some((exists, _))) => !exists,
        (Condition::Unchanged(wanted), Some((_, token))) => token == wanted,
    };
    if met {
        Judgement::Met
    } else {
        Judgement::ConditionFailed
    }
}

/// Stores a queued write until it is flushed, if its condition is met. It replaces the entry, or revokes the lease. The
/// caller appends the write to the queue in the same atomic step.
pub fn put<P>(
    slot: Option<&Slot<P>>,
    pending: Pending,
    payload: P,
    condition: Condition,
) -> Step<P, Judgement> {
    if newer_writers(slot) {
        return Step::unchanged(Judgement::RowUnknown);
    }
    match evaluate(slot, pending.meta.lease.identity, condition) {
        Judgement::Met => Step {
            change: Change::Put(State::Pending(pending, payload), FOREVER),
            reply: Judgement::Met,
            wake: waiters(slot),
        },
        judgement => Step::unchanged(judgement),
    }
}

/// Ends a queued write that is in the database, or will never be. Its entry becomes an ordinary one for `keep_ms`, or is
/// dropped if that is zero. A later write of the same key is left alone. Returns whether the write was the latest.
pub fn settle<P: Clone>(
    slot: Option<&Slot<P>>,
    position: QueuePosition,
    keep_ms: u64,
) -> Step<P, bool> {
    let Some(State::Pending(pending, payload)) = slot.map(|slot| &slot.state) else {
        return Step::unchanged(false);
    };
    if pending.position != position {
        return Step::unchanged(false);
    }
    let change = match (keep_ms, pending.is_deletion) {
        (0, _) => Change::Delete,
        (_, false) => Change::Put(State::Value(pending.meta, payload.clone()), keep_ms),
        (_, true) => Change::Put(State::Negative(pending.meta), keep_ms),
    };
    Step {
        change,
        reply: true,
        wake: Vec::new(),
    }
}

impl Writers {
    fn none() -> Self {
        Self {
            intents: Vec::new(),
            contended: false,
            saturated: false,
        }
    }
}

impl<P, R> Step<P, R> {
    fn unchanged(reply: R) -> Self {
        Self {
            change: Change::Keep,
            reply,
            wake: Vec::new(),
        }
    }
}

fn erase<P, R>(slot: Option<&Slot<P>>, reply: R) -> Step<P, R> {
    Step {
        change: if slot.is_some() {
            Change::Delete
        } else {
            Change::Keep
        },
        reply,
        wake: waiters(slot),
    }
}

/// Returns whether intents must leave a key alone: a queued write is newer than the database.
fn is_off_limits<P>(slot: Option<&Slot<P>>) -> bool {
    newer_writers(slot) || matches!(slot.map(|slot| &slot.state), Some(State::Pending(..)))
}

/// Returns whether writers of a newer version are at work. This version cannot read their intents.
fn newer_writers<P>(slot: Option<&Slot<P>>) -> bool {
    matches!(
        slot,
        Some(Slot {
            state: State::Unreadable(Unreadable::LaterFormat { writing: true }),
            ..
        })
    )
}

/// Returns the milliseconds left of the lease with this token, if it is the current one.
fn held<P>(slot: Option<&Slot<P>>, token: Token) -> Option<u64> {
    match slot {
        Some(Slot {
            state: State::Loading(lease, _),
            remaining_ms,
        }) if lease.token == token => Some(*remaining_ms),
        _ => None,
    }
}

fn waiters<P>(slot: Option<&Slot<P>>) -> Vec<ProcessId> {
    match slot {
        Some(Slot {
            state: State::Loading(_, waiters),
            ..
        }) => waiters.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
