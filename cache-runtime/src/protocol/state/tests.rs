//! The rules that one history and one layout never meet. The model checker runs in one layout, and an in-process store has
//! one history, so only these tests and the property tests of the Lua scripts see an entry of another one.

use super::*;
use crate::protocol::queue_position::Incarnation;

const OWN: Identity = Identity {
    history: 1,
    fingerprint: 2,
    codec: 3,
};
/// Each differs from [`OWN`] in one part.
const OTHERS: [Identity; 3] = [
    Identity { history: 9, ..OWN },
    Identity {
        fingerprint: 9,
        ..OWN
    },
    Identity { codec: 9, ..OWN },
];
const INTENT: Token = Token([7; 16]);

fn meta(identity: Identity) -> Meta {
    Meta {
        lease: Lease {
            token: Token::numbered(5),
            identity,
        },
        loaded_at_ms: 0,
        stamp: None,
    }
}

fn pending(identity: Identity, is_deletion: bool) -> Pending {
    Pending {
        position: QueuePosition {
            incarnation: Incarnation::from_bytes([1; 16]),
            number: 1,
        },
        is_deletion,
        meta: meta(identity),
    }
}

fn slot(state: State<u8>) -> Slot<u8> {
    Slot {
        state,
        remaining_ms: 100,
    }
}

fn writing(intents: usize) -> Slot<u8> {
    let intents = (1..=intents as u64).map(Token::numbered).collect();
    slot(State::Writing(Writers {
        intents,
        ..Writers::none()
    }))
}

fn later_format(writing: bool) -> Slot<u8> {
    slot(State::Unreadable(Unreadable::LaterFormat { writing }))
}

#[test]
fn reader_uses_entries_of_its_own_history_and_layout_only() {
    let found = |identity| {
        [
            State::Loading(meta(identity).lease, Vec::new()),
            State::Value(meta(identity), 1),
            State::Negative(meta(identity)),
            State::Pending(pending(identity, false), 1),
            State::Pending(pending(identity, true), 1),
        ]
        .map(|state| lookup(Some(&state), OWN).map(|row| *row))
    };
    let own = meta(OWN);
    assert_eq!(
        found(OWN),
        [
            Lookup::Loading,
            Lookup::Value(own, 1),
            Lookup::Negative(own),
            Lookup::Value(own, 1),
            Lookup::Negative(own),
        ]
    );
    for other in OTHERS {
        let foreign = Lookup::Foreign { damaged: false };
        let stale = Lookup::StalePending;
        assert_eq!(found(other), [foreign, foreign, foreign, stale, stale]);
    }
}

#[test]
fn lease_is_granted_over_a_foreign_entry_and_never_over_ones_own() {
    for (identity, granted) in [(OWN, false), (OTHERS[0], true), (OTHERS[1], true)] {
        for state in [
            State::Loading(meta(identity).lease, Vec::new()),
            State::Value(meta(identity), 1),
            State::Negative(meta(identity)),
        ] {
            let step = acquire(Some(&slot(state)), meta(OWN).lease, 100);
            assert_eq!(step.reply, granted, "{identity:?}");
        }
    }
}

#[test]
fn only_a_load_of_the_same_layout_is_waited_for() {
    let process = ProcessId::current();
    let waits = |identity| {
        let loading = slot(State::Loading(meta(identity).lease, Vec::new()));
        wait(Some(&loading), OWN, process).reply
    };
    assert!(waits(OWN));
    assert!(OTHERS.into_iter().all(|other| !waits(other)));
}

#[test]
fn condition_is_decided_by_what_is_known_in_this_history() {
    let judged = |state: State<u8>| {
        [
            Condition::Any,
            Condition::Present,
            Condition::Absent,
            Condition::Unchanged(Token::numbered(5)),
            Condition::Unchanged(Token::numbered(6)),
        ]
        .map(|condition| evaluate(Some(&slot(state.clone())), OWN, condition))
    };
    use Judgement::{ConditionFailed as No, Met as Yes, RowUnknown as Unknown};
    let exists = [Yes, Yes, No, Yes, No];
    let is_absent = [Yes, No, Yes, Yes, No];
    let unknown = [Yes, Unknown, Unknown, Unknown, Unknown];
    assert_eq!(judged(State::Value(meta(OWN), 1)), exists);
    assert_eq!(judged(State::Negative(meta(OWN))), is_absent);
    for other in OTHERS {
        assert_eq!(judged(State::Value(meta(other), 1)), unknown);
        assert_eq!(judged(State::Negative(meta(other))), unknown);
        // A queued write is known in whatever layout, but not in another history.
        let is_known = other.history == OWN.history;
        for (is_deletion, known) in [(false, exists), (true, is_absent)] {
            let judged = judged(State::Pending(pending(other, is_deletion), 1));
            assert_eq!(judged, if is_known { known } else { unknown });
        }
    }
    let loading = State::Loading(meta(OWN).lease, Vec::new());
    assert_eq!(judged(loading), unknown);
}

#[test]
fn key_lists_so_many_intents_and_then_only_that_there_are_more() {
    for (before, listed, saturated) in [
        (MAX_INTENTS - 1, MAX_INTENTS, false),
        (MAX_INTENTS, MAX_INTENTS, true),
    ] {
        let Change::Put(State::Writing(writers), _) =
            begin(Some(&writing(before)), INTENT, 100).change
        else {
            panic!("an intent was placed");
        };
        assert_eq!(
            (writers.intents.len(), writers.saturated),
            (listed, saturated)
        );
        assert!(writers.contended, "they overlap");
    }
}

#[test]
fn invalidation_beside_writers_keeps_their_intents_and_takes_their_updates() {
    let before = writing(1);
    let marked = invalidate(Some(&before)).change;
    let Change::Put(State::Writing(writers), 100) = marked else {
        panic!("the intent stays as long as it would: {marked:?}");
    };
    assert_eq!(writers.intents, [Token::numbered(1)]);
    assert!(writers.contended);
}

#[test]
fn writers_of_a_newer_version_are_left_alone() {
    let (slot, position) = (later_format(true), pending(OWN, false).position);
    assert_eq!(begin(Some(&slot), INTENT, 100).change, Change::Keep);
    assert_eq!(invalidate(Some(&slot)).change, Change::Keep);
    let update = Some(State::Value(meta(OWN), 1));
    assert_eq!(
        end(Some(&slot), INTENT, update, 100),
        Step::unchanged(false)
    );
    let queued = put(Some(&slot), pending(OWN, false), 1, Condition::Any);
    assert_eq!(queued, Step::unchanged(Judgement::RowUnknown));
    assert_eq!(settle(Some(&slot), position, 0).change, Change::Keep);

    // A row of a newer version gives way to every write.
    let slot = later_format(false);
    assert_ne!(begin(Some(&slot), INTENT, 100).change, Change::Keep);
    assert_eq!(invalidate(Some(&slot)).change, Change::Delete);
    let queued = put(Some(&slot), pending(OWN, false), 1, Condition::Any);
    assert_eq!(queued.reply, Judgement::Met);
}

#[test]
fn queued_write_is_left_alone_by_intents() {
    let slot = slot(State::Pending(pending(OWN, false), 1));
    assert_eq!(begin(Some(&slot), INTENT, 100).change, Change::Keep);
    assert_eq!(end(Some(&slot), INTENT, None, 100).change, Change::Keep);
    assert_eq!(invalidate(Some(&slot)).change, Change::Keep);
}
