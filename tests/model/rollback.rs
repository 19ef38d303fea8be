//! A server that comes back with data of an earlier moment: a lost tail of its log, an old copy, a lagging replica.
//!
//! Deletes are undone, leases and intents rise again. The history stamp in every entry makes what was written before the
//! restart unreadable, and a writer looks at it once more before it commits.

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
fn stamps_keep_every_hit_current_over_restarts() {
    holds("restarts with old data, crashes", restarted(), 40_000);
}

#[test]
fn without_stamps_a_resurrected_entry_goes_stale() {
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
fn without_stamps_a_resurrected_lease_is_filled() {
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
fn unchecked_stamp_is_stale_only_until_the_write_returns() {
    let model = Protocol {
        stamp_check: false,
        crashes: false,
        claims: &[ACKNOWLEDGED, FILL],
        ..restarted()
    };
    holds("stamp not checked before the commit", model, 20_000);
}

#[test]
fn unchecked_stamp_goes_stale_before_the_write_returns() {
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
fn unchecked_stamp_does_not_survive_a_crash() {
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
