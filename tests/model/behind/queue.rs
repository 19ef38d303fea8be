//! One server that loses rows but not its queue: evictions, crashes, several flushers, rows that the database rejects.

use crate::{
    behind::{
        broken::Broken,
        claims::{
            ALL, BUILT, CURRENT, DEAD, END, FAIR, FOLD, HIT, KEPT, LATE, LEASED, ONCE, ORDER,
            OVERTAKEN, RESTORED, SEEN, UPDATES,
        },
        protocol::Behind,
        write::Write,
    },
    check::{breaks, holds, wide},
};

/// One row, saved and deleted, read, evicted.
const ONE_ROW: Behind = Behind {
    writers: &[&[Write::Save(0)], &[Write::Delete(0)]],
    readers: 1,
    rounds: 1,
    flushers: 2,
    begun: true,
    crashes: false,
    drops: true,
    faults: &[],
    most_faults: 0,
    broken: None,
    claims: ALL,
    scenes: &[],
};

/// Two that modify the same row.
const MODIFIED: Behind = Behind {
    writers: &[&[Write::Modify(0)], &[Write::Modify(0)]],
    flushers: 1,
    ..ONE_ROW
};

/// Two rows. One write between two good ones is rejected.
const REFUSED: Behind = Behind {
    writers: &[
        &[Write::Save(0), Write::Poison(0), Write::Save(0)],
        &[Write::Save(1)],
    ],
    readers: 0,
    flushers: 1,
    drops: false,
    ..ONE_ROW
};

#[test]
fn queued_writes_are_applied_once_and_seen_at_once() {
    let model = Behind {
        writers: if wide() {
            &[&[Write::Save(0), Write::Save(0)], &[Write::Delete(0)]]
        } else {
            ONE_ROW.writers
        },
        crashes: true,
        scenes: &[RESTORED, OVERTAKEN, LATE, HIT, LEASED],
        ..ONE_ROW
    };
    holds("write-behind, crashes, eviction", model, 20_000);
}

#[test]
fn three_flushers_apply_no_write_twice() {
    let model = Behind {
        writers: &[&[Write::Save(0), Write::Save(1)], &[Write::Delete(0)]],
        readers: 0,
        flushers: 3,
        crashes: wide(),
        drops: false,
        scenes: &[OVERTAKEN],
        ..ONE_ROW
    };
    holds("write-behind, three flushers, two rows", model, 10_000);
}

#[test]
fn modifications_build_on_each_other() {
    let model = Behind {
        flushers: if wide() { 2 } else { 1 },
        crashes: true,
        scenes: &[BUILT, RESTORED, HIT],
        ..MODIFIED
    };
    holds("write-behind, two modifications", model, 5_000);
}

#[test]
fn only_refused_writes_are_dead_letters() {
    let model = Behind {
        flushers: if wide() { 2 } else { 1 },
        crashes: true,
        scenes: &[DEAD],
        ..REFUSED
    };
    holds("write-behind, a refused write", model, 500);
}

#[test]
fn position_that_is_not_compared_applies_writes_twice() {
    let model = Behind {
        broken: Some(Broken::Compare),
        ..ONE_ROW
    };
    for claim in [ONCE, ORDER, FOLD] {
        breaks("position not compared", &only(&model, claim), claim);
    }
}

#[test]
fn evicted_row_without_an_index_is_read_from_the_database() {
    let model = Behind {
        broken: Some(Broken::Marks),
        ..ONE_ROW
    };
    for claim in [SEEN, CURRENT] {
        breaks("no index of pending rows", &only(&model, claim), claim);
    }
}

#[test]
fn consumer_group_applies_writes_out_of_order() {
    let model = Behind {
        broken: Some(Broken::Group),
        ..ONE_ROW
    };
    for claim in [ORDER, FOLD] {
        breaks("consumer group", &only(&model, claim), claim);
    }
}

#[test]
fn log_that_is_trimmed_before_the_commit_loses_writes() {
    let model = Behind {
        broken: Some(Broken::TrimFirst),
        ..ONE_ROW
    };
    breaks("log trimmed before the commit", &only(&model, KEPT), KEPT);
}

#[test]
fn row_that_is_settled_without_comparing_is_taken_for_flushed() {
    let model = Behind {
        broken: Some(Broken::SettleCompare),
        ..ONE_ROW
    };
    for claim in [CURRENT, SEEN] {
        breaks("settled without comparing", &only(&model, claim), claim);
    }
}

#[test]
fn committed_writes_that_are_not_settled_stay_forever() {
    let model = Behind {
        broken: Some(Broken::Leftovers),
        crashes: true,
        ..ONE_ROW
    };
    breaks("committed writes not settled", &only(&model, END), END);
}

#[test]
fn batch_coalesced_before_it_is_split_makes_dead_letters_of_good_writes() {
    let model = Behind {
        broken: Some(Broken::Coalesce),
        ..REFUSED
    };
    breaks("coalesced before the split", &only(&model, FAIR), FAIR);
}

#[test]
fn modification_that_compares_nothing_loses_an_update() {
    let model = Behind {
        broken: Some(Broken::Unchanged),
        ..MODIFIED
    };
    breaks("modification not compared", &only(&model, UPDATES), UPDATES);
}

/// Returns the same model with one claim.
pub(crate) fn only(model: &Behind, claim: &'static str) -> Behind {
    Behind {
        claims: ALL
            .iter()
            .position(|other| *other == claim)
            .map_or(&[], |at| &ALL[at..=at]),
        scenes: &[],
        ..model.clone()
    }
}
