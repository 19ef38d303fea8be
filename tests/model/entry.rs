//! The protocol of an entry on one server that keeps its data: leases, intents, crashes, expiry, eviction.

use crate::{
    broken::Broken,
    check::{breaks, holds, wide},
    claims::{ABSENCE, ACKNOWLEDGED, FILL, GONE, HIT, OVERLAP, REFUSED, STRICT},
    protocol::{Coherence, Protocol},
};

/// Every fault of a server that is never restarted, except intents that are lost without notice.
fn faulty() -> Protocol {
    Protocol {
        readers: 3,
        writers: if wide() { 3 } else { 2 },
        crashes: true,
        drops: true,
        expiry: true,
        scenes: &[HIT, REFUSED, OVERLAP, GONE],
        ..Protocol::INTENT
    }
}

/// Writes are not announced: the key is dropped after the commit.
fn lease() -> Protocol {
    Protocol {
        coherence: Coherence::Lease,
        readers: 3,
        writers: if wide() { 3 } else { 2 },
        drops: true,
        claims: &[ACKNOWLEDGED, FILL],
        ..Protocol::INTENT
    }
}

#[test]
fn intents_and_leases_keep_every_hit_current() {
    holds("intents, crashes, expiry, eviction", faulty(), 100_000);
}

#[test]
fn deleted_rows_are_absent_in_every_hit() {
    let model = Protocol {
        deletes: true,
        scenes: &[HIT, ABSENCE, REFUSED],
        ..faulty()
    };
    holds("intents, one writer deletes", model, 100_000);
}

#[test]
fn intents_placed_under_the_row_lock_keep_every_hit_current() {
    let model = Protocol {
        row_lock: true,
        ..faulty()
    };
    holds("intents under the row lock", model, 100_000);
}

#[test]
fn fill_that_compares_nothing_stays_stale() {
    let model = Protocol {
        broken: Some(Broken::FillCompare),
        ..lease()
    };
    breaks(
        "fill without comparing, delete after commit",
        &model,
        ACKNOWLEDGED,
    );
    let model = Protocol {
        broken: Some(Broken::FillCompare),
        ..Protocol::INTENT
    };
    breaks("fill without comparing, intents", &model, STRICT);
}

#[test]
fn fill_that_compares_nothing_is_seen_to_be_unfair() {
    let model = Protocol {
        broken: Some(Broken::FillCompare),
        ..Protocol::INTENT
    };
    breaks("fill without comparing, intents", &model, FILL);
}

#[test]
fn intent_that_does_not_revoke_a_lease_goes_stale() {
    let model = Protocol {
        broken: Some(Broken::LeaseKill),
        ..Protocol::INTENT
    };
    breaks("intent that spares the lease", &model, STRICT);
}

#[test]
fn leases_with_one_token_go_stale() {
    let model = Protocol {
        broken: Some(Broken::LeaseNames),
        ..Protocol::INTENT
    };
    breaks("one name for all leases", &model, STRICT);
}

#[test]
fn row_read_before_the_lease_goes_stale() {
    let model = Protocol {
        broken: Some(Broken::FreshRead),
        ..Protocol::INTENT
    };
    breaks("row read before the lease", &model, STRICT);
}

#[test]
fn leases_alone_are_stale_only_until_the_write_returns() {
    holds("leases alone", lease(), 40_000);
}

#[test]
fn leases_alone_go_stale_between_the_commit_and_its_end() {
    let model = Protocol {
        claims: &[STRICT],
        ..lease()
    };
    breaks("leases alone, before the write returns", &model, STRICT);
}

#[test]
fn leases_alone_do_not_survive_a_crash() {
    let model = Protocol {
        crashes: true,
        ..lease()
    };
    breaks("leases alone, crash", &model, ACKNOWLEDGED);
}

#[test]
fn unwatched_expiry_of_an_intent_is_stale_only_until_the_write_returns() {
    let model = Protocol {
        deadline_check: false,
        crashes: false,
        claims: &[ACKNOWLEDGED, FILL],
        ..faulty()
    };
    holds("intents expire unwatched", model, 50_000);
}

#[test]
fn unwatched_expiry_of_an_intent_does_not_survive_a_crash() {
    let model = Protocol {
        deadline_check: false,
        claims: &[ACKNOWLEDGED],
        ..faulty()
    };
    breaks("intents expire unwatched, crash", &model, ACKNOWLEDGED);
}

#[test]
fn evicted_intent_is_stale_only_until_the_write_returns() {
    let model = Protocol {
        losses: true,
        crashes: false,
        claims: &[ACKNOWLEDGED, FILL],
        ..faulty()
    };
    holds("intents are evicted", model, 50_000);
}

#[test]
fn evicted_intent_does_not_survive_a_crash() {
    let model = Protocol {
        losses: true,
        claims: &[ACKNOWLEDGED],
        ..faulty()
    };
    breaks("intents are evicted, crash", &model, ACKNOWLEDGED);
}
