//! A server that comes back with older data: a lost tail of its log, an old copy, or a replica that lags.
//!
//! Deletes are undone, and leases and intents reappear. Every entry contains its history, so entries from before the restart
//! are not readable. A writer checks the history again before it commits.

use crate::{
    check::{breaks, holds, wide},
    claims::{ACKNOWLEDGED, FILL, FOREIGN, GONE, HIT, OVERLAP, REFUSED, STRICT},
    protocol::Protocol,
};

fn restarted() -> Protocol {
    Protocol {
        readers: if wide() { 3 } else { 2 },
        rounds: 1,
        drops: wide(),
        crashes: true,
        expiry: true,
        restarts: if wide() { 2 } else { 1 },
        scenes: &[HIT, REFUSED, OVERLAP, GONE, FOREIGN],
        ..Protocol::INTENT
    }
}

#[test]
fn histories_keep_every_hit_current_over_restarts() {
    holds("restarts with old data, crashes", restarted(), 40_000);
}

#[test]
fn without_histories_a_restored_entry_goes_stale() {
    let model = Protocol {
        stamps: false,
        crashes: false,
        expiry: false,
        claims: &[ACKNOWLEDGED],
        restarts: 1,
        ..restarted()
    };
    breaks("no stamps", &model, ACKNOWLEDGED);
}

#[test]
fn without_histories_a_restored_lease_is_filled() {
    let model = Protocol {
        stamps: false,
        crashes: false,
        expiry: false,
        claims: &[FILL],
        restarts: 1,
        ..restarted()
    };
    breaks("no stamps, resurrected lease", &model, FILL);
}

#[test]
fn unchecked_history_is_stale_only_until_the_write_returns() {
    let model = Protocol {
        stamp_check: false,
        crashes: false,
        claims: &[ACKNOWLEDGED, FILL],
        ..restarted()
    };
    holds("stamp not checked before the commit", model, 20_000);
}

#[test]
fn unchecked_history_goes_stale_before_the_write_returns() {
    let model = Protocol {
        stamp_check: false,
        crashes: false,
        claims: &[STRICT],
        ..restarted()
    };
    breaks(
        "stamp not checked, before the write returns",
        &model,
        STRICT,
    );
}

#[test]
fn unchecked_history_does_not_survive_a_crash() {
    let model = Protocol {
        stamp_check: false,
        claims: &[ACKNOWLEDGED],
        ..restarted()
    };
    breaks("stamp not checked, crash", &model, ACKNOWLEDGED);
}

#[test]
fn window_between_check_and_commit_is_stale_only_until_the_write_returns() {
    let model = Protocol {
        check_apart: true,
        crashes: false,
        claims: &[ACKNOWLEDGED, FILL],
        ..restarted()
    };
    holds("check and commit apart", model, 20_000);
}

#[test]
fn window_between_check_and_commit_does_not_survive_a_crash() {
    let model = Protocol {
        check_apart: true,
        claims: &[ACKNOWLEDGED],
        ..restarted()
    };
    breaks("check and commit apart, crash", &model, ACKNOWLEDGED);
}
