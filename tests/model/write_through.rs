//! What a writer publishes when it takes its intent back.
//!
//! The row it wrote is the committed one only if nobody else could commit since, and the only proof of that is an intent
//! that stood at the key alone from begin to end. So a writer publishes only if it was never contended, its intent was
//! still there, and it had to announce itself only once: an intent that was lost and placed again looks as if it had been
//! alone, but others may have come and gone in between.

use crate::{
    broken::Broken,
    check::{breaks, holds, wide},
    claims::{
        ABSENCE, ACKNOWLEDGED, FILL, FOREIGN, GONE, HIT, OVERLAP, PUBLISHED, REFUSED, SOLE, STRICT,
    },
    protocol::Protocol,
};

fn publishing() -> Protocol {
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
        ..publishing()
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
fn published_rows_are_current() {
    holds("write-through, crashes, expiry, eviction", faulty(), 40_000);
}

#[test]
fn published_absence_is_current() {
    let model = Protocol {
        deletes: true,
        scenes: &[HIT, ABSENCE, PUBLISHED],
        ..faulty()
    };
    holds("write-through, one writer deletes", model, 40_000);
}

#[test]
fn published_rows_are_current_over_restarts() {
    holds("write-through, restarts with old data", restarted(), 20_000);
}

#[test]
fn evicted_intent_of_a_publisher_is_stale_only_until_the_write_returns() {
    let model = Protocol {
        losses: true,
        crashes: false,
        claims: &[ACKNOWLEDGED, SOLE],
        ..faulty()
    };
    holds("write-through, intents are evicted", model, 40_000);
}

#[test]
fn contended_writers_publish_out_of_order() {
    let model = Protocol {
        broken: Some(Broken::Contended),
        ..publishing()
    };
    breaks("contended writers publish", &model, STRICT);
    breaks("contended writers publish", &model, SOLE);
}

/// A publisher beside raw SQL, whose row is announced after its commit.
fn beside_raw_sql() -> Protocol {
    Protocol {
        raw_sql: true,
        drops: true,
        claims: &[ACKNOWLEDGED, FILL, SOLE],
        scenes: &[HIT, PUBLISHED, REFUSED],
        ..publishing()
    }
}

#[test]
fn row_changed_by_raw_sql_is_stale_only_until_it_is_announced() {
    holds("write-through beside raw SQL", beside_raw_sql(), 10_000);
}

#[test]
fn writer_beside_a_dropped_key_publishes_an_old_row() {
    let model = Protocol {
        broken: Some(Broken::DroppedBeside),
        ..beside_raw_sql()
    };
    breaks("writers publish beside a dropped key", &model, ACKNOWLEDGED);
    breaks("writers publish beside a dropped key", &model, SOLE);
}

#[test]
fn writer_without_an_intent_publishes_an_old_row() {
    let model = Protocol {
        broken: Some(Broken::LostIntent),
        ..faulty()
    };
    breaks("writers publish without their intent", &model, STRICT);
    breaks("writers publish without their intent", &model, SOLE);
}

#[test]
fn writer_announced_twice_publishes_an_old_row() {
    let model = Protocol {
        broken: Some(Broken::AnnouncedOnce),
        crashes: false,
        claims: &[ACKNOWLEDGED, SOLE],
        ..faulty()
    };
    breaks("writers publish after a renewal", &model, ACKNOWLEDGED);
    breaks("writers publish after a renewal", &model, SOLE);
}

#[test]
fn entry_published_under_the_present_stamp_goes_stale() {
    let model = Protocol {
        broken: Some(Broken::FirstStamp),
        ..restarted()
    };
    breaks("writers publish under the present stamp", &model, STRICT);
    breaks("writers publish under the present stamp", &model, SOLE);
}

#[test]
fn row_that_a_trigger_changed_must_not_be_published() {
    let model = Protocol {
        broken: Some(Broken::CommittedRow),
        ..publishing()
    };
    breaks("a trigger changes the published row", &model, STRICT);
    let model = Protocol {
        broken: Some(Broken::CommittedRow),
        write_through: false,
        claims: &[STRICT, FILL],
        scenes: &[HIT],
        ..publishing()
    };
    holds(
        "a trigger changes a row that is not published",
        model,
        1_000,
    );
}

#[test]
fn latest_intent_alone_publishes_out_of_order() {
    let model = Protocol {
        broken: Some(Broken::IntentSet),
        claims: &[ACKNOWLEDGED],
        ..publishing()
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
        ..publishing()
    };
    holds(
        "only the latest intent counts, under the row lock",
        model,
        500,
    );
}
