//! A batch with refused writes, which is applied in parts: what it costs, and what its parts leave.
//!
//! Not here: which writes are refused (`refusals`).

use std::sync::atomic::{AtomicU64, Ordering};

use larder::behind::{
    Batch, Image,
    apply::{Applied, Hooks},
};
use sqlx::MySql;

use crate::{
    behind::desk::{
        Desk, MAX, PARCELS, Parcel, batch, dead, desk, desk_with, parcel, refusing, saves,
    },
    world::{Tested, World, on_all_databases},
};

on_all_databases!(
    a_batch_of_which_half_is_refused_costs_little_more_than_its_rows,
    without_a_bound_all_of_it_is_one_transaction,
    a_batch_of_refusals_alone_costs_little_more_than_its_rows,
    a_refusal_among_many_costs_few_statements,
    every_request_to_the_database_is_counted,
    a_flusher_that_dies_between_transactions_of_a_batch_leaves_the_rest_to_the_next,
    rows_that_are_written_and_refused_in_turn_end_as_if_one_by_one,
);

/// Applies writes. What became of them, and in how many transactions.
async fn applied_in<DB: Tested>(
    desk: &Desk<'_, DB>,
    images: Vec<Image<Parcel>>,
    max_statements: u64,
) -> (Applied, u64) {
    let transactions = AtomicU64::new(0);
    let counts = || {
        transactions.fetch_add(1, Ordering::SeqCst);
    };
    let hooks = Hooks {
        in_transaction: &counts,
        max_statements,
    };
    let writes = desk.queued(images);
    let applied = desk
        .parcels
        .apply_queued(&batch(&desk.place, &writes), &hooks)
        .await
        .unwrap();
    let count = writes.len();
    let dead = applied.dead.len();
    assert_eq!(applied.rows, (count - dead) as u64);
    assert_eq!(desk.audited().await.len(), count - dead, "each once");
    let letters = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(letters.await, [dead.to_string()]);
    let order = applied.dead.windows(2);
    assert!(order.into_iter().all(|two| two[0].number < two[1].number));
    assert_eq!(
        (applied.to, desk.position().await),
        (count as u64, count as u64)
    );
    (applied, transactions.into_inner())
}

async fn a_batch_of_which_half_is_refused_costs_little_more_than_its_rows<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let images = refusing(1_000, |id| id % 2 == 0);
    let (applied, transactions) = applied_in(&desk, images, MAX).await;
    assert_eq!(applied.dead.len(), 500);
    // Two for each write, and one more to read back a row that was made, since the table has triggers.
    assert!(applied.statements <= 2_800, "{}", applied.statements);
    assert!(
        applied.statements <= transactions * (MAX + 20),
        "{transactions}"
    );
}

/// The negative control.
async fn without_a_bound_all_of_it_is_one_transaction<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let images = refusing(1_000, |id| id % 2 == 0);
    let (applied, transactions) = applied_in(&desk, images, u64::MAX).await;
    assert_eq!((applied.dead.len(), transactions), (500, 1));
    assert!(applied.statements > 4 * MAX);
}

async fn a_batch_of_refusals_alone_costs_little_more_than_its_rows<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let (applied, transactions) = applied_in(&desk, refusing(600, |_| true), MAX).await;
    assert_eq!(applied.dead.len(), 600);
    assert!(
        applied.statements <= 600 * 22 / 10,
        "{}",
        applied.statements
    );
    assert!(
        applied.statements <= transactions * (MAX + 20),
        "{transactions}"
    );
}

async fn a_refusal_among_many_costs_few_statements<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let images = refusing(1_000, |id| id == 700);
    let (applied, _) = applied_in(&desk, images, MAX).await;
    assert_eq!(dead(&applied), [700]);
    assert!(applied.statements <= 150, "{}", applied.statements);
}

/// The count bounds the length of a transaction, so none may be missing.
async fn every_request_to_the_database_is_counted<DB: Tested>(world: &World<DB>) {
    let desk = desk_with(world, PARCELS).await;
    let reset = u64::from(DB::NAME == <MySql as sqlx::Database>::NAME);
    // It begins, moves the position, and rolls back, because a row is refused. A refused statement is not counted.
    let whole = 3 + reset;
    // It decides one write: begin, position, savepoint, back to the savepoint, the position again because it is cut short, a
    // savepoint and a look at the row, the letter, commit.
    let first = 9 + reset;
    // The same for the other write, after which nothing is cut off.
    let second = 8 + reset;
    let refused = [1, 2].map(|id| Parcel {
        weight: -1,
        ..parcel(id, &format!("name {id}"))
    });
    let writes = desk.queued(saves(refused));
    let hooks = Hooks {
        max_statements: 1,
        ..Hooks::default()
    };
    let batch = batch(&desk.place, &writes);
    let applied = desk.parcels.apply_queued(&batch, &hooks).await.unwrap();
    assert_eq!(dead(&applied), [1, 2]);
    assert_eq!(applied.statements, whole + first + second);
}

/// Every second number is lost as well, and is counted once.
async fn a_flusher_that_dies_between_transactions_of_a_batch_leaves_the_rest_to_the_next<
    DB: Tested,
>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let mut writes = desk.queued(refusing(400, |id| id % 2 == 0));
    for write in &mut writes {
        write.number *= 2;
    }
    let (parcels, place) = (desk.parcels.clone(), desk.place.clone());
    let dying = tokio::spawn({
        let writes = writes.clone();
        async move {
            let transactions = AtomicU64::new(0);
            let dies = || assert!(transactions.fetch_add(1, Ordering::SeqCst) < 2, "killed");
            let hooks = Hooks {
                in_transaction: &dies,
                max_statements: MAX,
            };
            let whole = Batch {
                lost: 400,
                ..batch(&place, &writes)
            };
            parcels.apply_queued(&whole, &hooks).await
        }
    });
    assert!(dying.await.unwrap_err().is_panic());
    let from = desk.position().await;
    assert!(from > 0 && from < 800, "{from}");
    let made = desk.audited().await.len() as u64;
    assert_eq!(made, from / 4 + from % 4 / 2);
    let listed = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(listed.await, [(from / 4).to_string()]);
    let rest: Vec<_> = writes
        .into_iter()
        .filter(|write| write.number > from)
        .collect();
    let next = Batch {
        from,
        lost: (800 - from) / 2,
        ..batch(&desk.place, &rest)
    };
    let applied = desk.parcels.apply_queued(&next, &Hooks::default()).await;
    assert_eq!(applied.unwrap().to, 800);
    assert_eq!(desk.audited().await.len(), 200, "each was applied once");
    let listed = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(listed.await, ["200"]);
    let lost = desk.listed("SELECT CONCAT(lost, '') FROM larder_offsets");
    assert_eq!(lost.await, ["400"], "each was counted once");
}

/// Of a row the last write that the database takes is what it is in the end, however the batch was divided.
async fn rows_that_are_written_and_refused_in_turn_end_as_if_one_by_one<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let named = |write: i64| match write % 7 {
        0 | 3 | 4 => "forbidden".to_owned(),
        _ => format!("write {write}"),
    };
    let mut expected = [const { String::new() }; 5];
    let images = (0..600).map(|write| {
        let row = usize::try_from(write % 5).unwrap();
        if named(write) != "forbidden" {
            expected[row] = format!("{row} {}", named(write));
        }
        parcel(write % 5, &named(write))
    });
    let writes = desk.queued(saves(images));
    let hooks = Hooks {
        max_statements: 40,
        ..Hooks::default()
    };
    let batch = batch(&desk.place, &writes);
    let applied = desk.parcels.apply_queued(&batch, &hooks).await.unwrap();
    assert_eq!(applied.to, 600);
    assert_eq!(desk.rows().await, expected);
}
