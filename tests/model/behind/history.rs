//! A server that restarts, is rolled back or emptied: a queue has several incarnations.
//!
//! Numbers are never assigned twice, because a queue that may have lost some is not written to again. The database decides
//! about the writes of earlier incarnations. Rows are cached again only when none of them can be flushed any more: a flusher
//! may hold writes that the server has lost, and commit them much later.

use crate::{
    behind::{
        broken::Broken,
        claims::{
            ALL, BUILT, CLOSED, CURRENT, DUE, FAIR, HIT, KEPT, LOST, ORDER, REVIVED, RIVALS, SEEN,
            STALE_PENDING, TOLD,
        },
        protocol::Behind,
        queue::only,
        world::Fault,
        write::Write,
    },
    check::{breaks, holds, wide},
};

/// One row on a server that has one fault.
const ONE_FAULT: Behind = Behind {
    writers: &[&[Write::Save(0), Write::Save(0)]],
    readers: 1,
    rounds: 1,
    flushers: 1,
    begun: true,
    crashes: false,
    drops: false,
    faults: &[Fault::Rollback],
    most_faults: 1,
    broken: None,
    claims: ALL,
    scenes: &[],
};

/// Two writers use a queue that was never begun.
const FIRST_USE: Behind = Behind {
    writers: &[&[Write::Save(0)], &[Write::Save(0)]],
    readers: 0,
    begun: false,
    faults: &[],
    most_faults: 0,
    ..ONE_FAULT
};

#[test]
fn rollbacks_neither_skip_nor_repeat_writes() {
    let model = Behind {
        flushers: if wide() { 2 } else { 1 },
        crashes: true,
        scenes: &[STALE_PENDING, CLOSED, LOST, REVIVED, HIT],
        ..ONE_FAULT
    };
    holds("write-behind, rollback", model, 10_000);
}

#[test]
fn restarts_that_lose_nothing_are_not_noticed() {
    let model = Behind {
        flushers: if wide() { 2 } else { 1 },
        crashes: true,
        drops: true,
        faults: &[Fault::Restart],
        scenes: &[STALE_PENDING, CLOSED, HIT],
        ..ONE_FAULT
    };
    holds("write-behind, restart", model, 10_000);
}

#[test]
fn emptied_servers_neither_skip_nor_repeat_writes() {
    let model = Behind {
        flushers: if wide() { 2 } else { 1 },
        crashes: true,
        faults: &[Fault::Empty, Fault::Flushall],
        scenes: &[CLOSED, LOST, HIT],
        ..ONE_FAULT
    };
    holds("write-behind, emptied server", model, 10_000);
}

#[test]
fn consecutive_faults_lose_no_write_uncounted() {
    let model = Behind {
        readers: usize::from(wide()),
        faults: &[Fault::Restart, Fault::Rollback, Fault::Empty],
        most_faults: 2,
        scenes: &[CLOSED, LOST],
        ..ONE_FAULT
    };
    holds("write-behind, two faults", model, 10_000);
}

#[test]
fn modifications_are_not_lost_over_a_restart() {
    let model = Behind {
        writers: &[&[Write::Modify(0)], &[Write::Modify(0)]],
        readers: 0,
        faults: if wide() {
            &[Fault::Restart, Fault::Rollback, Fault::Empty]
        } else {
            &[Fault::Restart, Fault::Rollback]
        },
        scenes: &[CLOSED, BUILT],
        ..ONE_FAULT
    };
    holds("write-behind, modifications and a fault", model, 5_000);
}

#[test]
fn rivals_begin_one_incarnation() {
    let model = Behind {
        readers: 1,
        crashes: true,
        flushers: if wide() { 2 } else { 1 },
        scenes: &[RIVALS],
        ..FIRST_USE
    };
    holds("write-behind, first use", model, 5_000);
}

#[test]
fn put_that_ignores_a_rollback_gives_a_number_twice() {
    let model = Behind {
        broken: Some(Broken::Stamp),
        ..ONE_FAULT
    };
    breaks("put without the history", &only(&model, KEPT), KEPT);
}

#[test]
fn position_of_another_incarnation_skips_writes() {
    let model = Behind {
        broken: Some(Broken::Positions),
        ..ONE_FAULT
    };
    breaks("one position for all", &only(&model, KEPT), KEPT);
}

#[test]
fn incarnations_flushed_out_of_turn_reorder_writes() {
    let model = Behind {
        broken: Some(Broken::Epochs),
        faults: &[Fault::Restart],
        ..ONE_FAULT
    };
    breaks("incarnations out of turn", &only(&model, ORDER), ORDER);
}

#[test]
fn queued_row_served_after_a_rollback_is_stale() {
    let model = Behind {
        broken: Some(Broken::Believe),
        ..ONE_FAULT
    };
    breaks("stale pending row served", &only(&model, SEEN), SEEN);
}

#[test]
fn queued_row_dropped_after_a_restart_is_invisible() {
    let model = Behind {
        broken: Some(Broken::Dismiss),
        faults: &[Fault::Restart],
        ..ONE_FAULT
    };
    breaks("stale pending row dropped", &only(&model, SEEN), SEEN);
}

#[test]
fn closing_the_current_incarnation_makes_dead_letters_of_good_writes() {
    let model = Behind {
        broken: Some(Broken::CloseCurrent),
        ..FIRST_USE
    };
    breaks("current incarnation closed", &only(&model, FAIR), FAIR);
}

#[test]
fn closing_before_any_is_begun_makes_dead_letters_of_good_writes() {
    let model = Behind {
        broken: Some(Broken::CloseUnused),
        ..FIRST_USE
    };
    breaks("closed before any is begun", &only(&model, FAIR), FAIR);
}

#[test]
fn incarnation_that_is_begun_in_a_later_history_may_be_closed() {
    let model = Behind {
        broken: Some(Broken::LateSwitch),
        begun: true,
        faults: &[Fault::Restart, Fault::Rollback],
        most_faults: 2,
        ..FIRST_USE
    };
    breaks("begun in a later history", &only(&model, FAIR), FAIR);
}

#[test]
fn acknowledgement_that_is_forgotten_early_is_not_counted() {
    let model = Behind {
        broken: Some(Broken::Forget),
        faults: &[Fault::Restart, Fault::Rollback],
        most_faults: 2,
        ..ONE_FAULT
    };
    breaks("acknowledgement forgotten", &only(&model, TOLD), TOLD);
}

#[test]
fn row_kept_while_an_earlier_incarnation_is_open_stays_stale() {
    let model = Behind {
        broken: Some(Broken::EarlyFill),
        ..ONE_FAULT
    };
    for claim in [CURRENT, SEEN] {
        breaks("row kept early", &only(&model, claim), claim);
    }
}

#[test]
fn row_kept_early_and_dropped_by_the_flush_is_stale_only_until_it_is_settled() {
    let model = Behind {
        broken: Some(Broken::DropInstead),
        claims: &[DUE],
        ..ONE_FAULT
    };
    holds("row kept early, dropped by the flush", model, 1_000);
}

#[test]
fn row_kept_early_and_dropped_by_the_flush_does_not_survive_a_crash() {
    let model = Behind {
        broken: Some(Broken::DropInstead),
        crashes: true,
        claims: &[DUE],
        ..ONE_FAULT
    };
    breaks("row kept early, dropped by the flush, crash", &model, DUE);
}
