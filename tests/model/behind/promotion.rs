//! A replica is promoted while some processes are still connected to the old server, and write, flush and settle there.
//!
//! There is no claim about reads from the old server, or that writes there survive. Such a write is applied while its
//! incarnation is open, is a dead letter when it is closed, and is otherwise counted as lost.

use crate::{
    behind::{
        broken::Broken,
        claims::{ALL, CLOSED, DUE, FAIR, LATE_DEAD, LOST, REVIVED},
        protocol::Behind,
        queue::only,
        world::Fault,
        write::Write,
    },
    check::{breaks, holds, wide},
};

/// One row that is written and flushed on both servers.
const PROMOTED: Behind = Behind {
    writers: &[&[Write::Save(0), Write::Save(0)]],
    readers: 0,
    rounds: 1,
    flushers: 2,
    begun: true,
    crashes: false,
    drops: false,
    faults: &[Fault::Promote],
    most_faults: 1,
    broken: None,
    claims: ALL,
    scenes: &[],
};

#[test]
fn cut_off_server_changes_nothing_on_the_new_one() {
    let model = Behind {
        readers: usize::from(wide()),
        scenes: &[CLOSED, LOST, REVIVED, LATE_DEAD],
        ..PROMOTED
    };
    holds("write-behind, promotion", model, 10_000);
}

#[test]
fn writers_on_two_servers_lose_no_write_uncounted() {
    let model = Behind {
        writers: &[&[Write::Save(0)], &[Write::Save(0)]],
        flushers: if wide() { 2 } else { 1 },
        scenes: &[LOST],
        ..PROMOTED
    };
    holds("write-behind, promotion, two writers", model, 5_000);
}

#[test]
fn incarnation_that_a_cut_off_flusher_closes_is_in_use() {
    let model = Behind {
        writers: &[&[Write::Save(0)]],
        broken: Some(Broken::CloseLater),
        ..PROMOTED
    };
    breaks("closed from an earlier one", &only(&model, FAIR), FAIR);
}

#[test]
fn cut_off_queue_that_begins_again_overtakes_the_new_one() {
    let model = Behind {
        writers: &[&[Write::Save(0)]],
        broken: Some(Broken::Reopen),
        ..PROMOTED
    };
    breaks("begun on a cut-off server", &only(&model, FAIR), FAIR);
}

#[test]
fn row_kept_early_goes_stale_on_the_new_server() {
    let model = Behind {
        writers: &[&[Write::Save(0)]],
        readers: 1,
        broken: Some(Broken::DropInstead),
        claims: &[DUE],
        ..PROMOTED
    };
    breaks("row kept early, promotion", &model, DUE);
}
