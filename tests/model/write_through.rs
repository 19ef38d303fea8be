//! The cache update of a writer when it takes its intent back.
//!
//! The written row is the committed one only if no other writer could commit since. The only proof is an intent that was
//! alone at the key from begin to end. So a writer stores its cache update only if it was never contended, its intent is
//! still there, and it has announced only once. An intent that was lost and placed again looks as if it had been alone, but
//! other writers may have come and gone in between.

use crate::{
    broken::Broken,
    check::{breaks, holds, wide},
    claims::{
        ABSENCE, ACKNOWLEDGED, FILL, FOREIGN, GONE, HIT, OVERLAP, PUBLISHED, REFUSED, SOLE, STRICT,
    },
    protocol::Protocol,
};

fn with_cache_updates() -> Protocol {
    Protocol {
        readers: if wide() { 2 } else { 3 },
        rounds: if wide() { 2 } else { 1 },
        writers: if wide() { 3 } else { 2 },
        write_through: true,
        claims: &[STRICT, FILL, SOLE],
        scenes: &[HIT, PUBLISHED, REFUSED, OVERLAP],
        ..Protocol::INTENT
    }
}

fn faulty() -> Protocol {
    Protocol {
        crashes: true,
        drops: true,
        expiry: true,
        scenes: &[HIT, PUBLISHED, REFUSED, OVERLAP, GONE],
        ..with_cache_updates()
    }
}

fn restarted() -> Protocol {
    Protocol {
        readers: 2,
        rounds: 1,
        writers: 2,
        drops: false,
        restarts: if wide() { 2 } else { 1 },
        scenes: &[HIT, PUBLISHED, REFUSED, OVERLAP, GONE, FOREIGN],
        ..faulty()
    }
}

#[test]
fn cache_updates_are_current() {
    holds("write-through, crashes, expiry, eviction", faulty(), 40_000);
}

#[test]
fn cache_update_with_an_absence_is_current() {
    let model = Protocol {
        deletes: true,
        scenes: &[HIT, ABSENCE, PUBLISHED],
        ..faulty()
    };
    holds("write-through, one writer deletes", model, 40_000);
}

#[test]
fn cache_updates_are_current_over_restarts() {
    holds("write-through, restarts with old data", restarted(), 20_000);
}

#[test]
fn evicted_intent_with_a_cache_update_is_stale_only_until_the_write_returns() {
    let model = Protocol {
        losses: true,
        crashes: false,
        claims: &[ACKNOWLEDGED, SOLE],
        ..faulty()
    };
    holds("write-through, intents are evicted", model, 40_000);
}

#[test]
fn contended_writers_leave_updates_out_of_order() {
    let model = Protocol {
        broken: Some(Broken::Contended),
        ..with_cache_updates()
    };
    breaks("contended writers leave cache updates", &model, STRICT);
    breaks("contended writers leave cache updates", &model, SOLE);
}

/// A writer with a cache update, beside raw SQL whose key is dropped after its commit.
fn beside_raw_sql() -> Protocol {
    Protocol {
        raw_sql: true,
        drops: true,
        claims: &[ACKNOWLEDGED, FILL, SOLE],
        scenes: &[HIT, PUBLISHED, REFUSED],
        ..with_cache_updates()
    }
}

#[test]
fn row_changed_by_raw_sql_is_stale_only_until_it_is_announced() {
    holds("write-through beside raw SQL", beside_raw_sql(), 5_000);
}

#[test]
fn writer_beside_a_dropped_key_caches_an_old_row() {
    let model = Protocol {
        broken: Some(Broken::DroppedBeside),
        ..beside_raw_sql()
    };
    breaks(
        "a cache update is stored beside a dropped key",
        &model,
        ACKNOWLEDGED,
    );
}

#[test]
fn writer_without_an_intent_caches_an_old_row() {
    let model = Protocol {
        broken: Some(Broken::LostIntent),
        ..faulty()
    };
    breaks(
        "writers leave cache updates without their intent",
        &model,
        STRICT,
    );
    breaks(
        "writers leave cache updates without their intent",
        &model,
        SOLE,
    );
}

#[test]
fn writer_announced_twice_caches_an_old_row() {
    let model = Protocol {
        broken: Some(Broken::AnnouncedOnce),
        crashes: false,
        claims: &[ACKNOWLEDGED, SOLE],
        ..faulty()
    };
    breaks(
        "writers leave cache updates after a renewal",
        &model,
        ACKNOWLEDGED,
    );
    breaks("writers leave cache updates after a renewal", &model, SOLE);
}

#[test]
fn cache_update_in_the_present_history_goes_stale() {
    let model = Protocol {
        broken: Some(Broken::FirstStamp),
        ..restarted()
    };
    breaks("cache updates in the present history", &model, STRICT);
    breaks("cache updates in the present history", &model, SOLE);
}

#[test]
fn row_that_a_trigger_changed_must_not_be_cached() {
    let model = Protocol {
        broken: Some(Broken::CommittedRow),
        ..with_cache_updates()
    };
    breaks(
        "a trigger changes the row of a cache update",
        &model,
        STRICT,
    );
    let model = Protocol {
        broken: Some(Broken::CommittedRow),
        write_through: false,
        claims: &[STRICT, FILL],
        scenes: &[HIT],
        ..with_cache_updates()
    };
    holds(
        "a trigger changes a row without a cache update",
        model,
        1_000,
    );
}

#[test]
fn latest_intent_alone_leaves_updates_out_of_order() {
    let model = Protocol {
        broken: Some(Broken::IntentSet),
        claims: &[ACKNOWLEDGED],
        ..with_cache_updates()
    };
    breaks("only the latest intent counts", &model, ACKNOWLEDGED);
}

#[test]
fn latest_intent_is_enough_under_the_row_lock() {
    let model = Protocol {
        broken: Some(Broken::IntentSet),
        row_lock: true,
        crashes: true,
        claims: &[STRICT],
        scenes: &[HIT, PUBLISHED],
        ..with_cache_updates()
    };
    holds(
        "only the latest intent counts, under the row lock",
        model,
        500,
    );
}
