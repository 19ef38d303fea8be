//! Flushing a long queue: each batch is settled while the next one is applied. No write is skipped, lost or applied twice,
//! whatever is stopped when.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
    mpsc,
};

use crate::{
    behind::put::{Refusing, RefusingRepository, Waiting},
    world::{Tested, World, eventually, everywhere, on_redis},
};
use larder::{
    ErrorKind, Origin,
    store::{Mechanism, Point, faulty::Operation, queue::QueueStore},
};

/// The number of writes in a batch of the short queues.
const BATCH: i64 = 3;
/// The number of writes in a short queue: three batches and one more.
const MAX: i64 = 10;

async fn refusing<DB: Tested>(world: &World<DB>) -> RefusingRepository<DB> {
    let rows = Refusing::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows
}

async fn fill<DB: Tested>(rows: &RefusingRepository<DB>, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        rows.save(&Refusing::new(id)).await.unwrap();
    }
}

async fn in_database<DB: Tested>(rows: &RefusingRepository<DB>, id: i64) -> Option<String> {
    let row = rows.find_uncached(id).await.unwrap();
    row.map(|row| row.name.clone())
}

/// Fails if the store still has a row as pending.
async fn assert_settled<DB: Tested>(world: &World<DB>, rows: &RefusingRepository<DB>) {
    for id in 1..=MAX {
        let key = rows.inner().key(id).unwrap();
        let queued = world.cache.store().queued(&key).await.unwrap();
        assert!(queued.is_none(), "row {id} is not settled");
    }
}

/// Changes a row without larder, so that a write that is applied again becomes visible.
async fn change_by_hand<DB: Tested>(world: &World<DB>, id: i64) {
    let change = format!("UPDATE items SET name = 'by hand' WHERE id = {id}");
    world.sql(change).await;
}

async fn a_flush_that_is_stopped_before_it_settles_leaves_that_to_the_next<DB: Tested>(
    world: &World<DB>,
) {
    let rows = refusing(world).await;
    fill(&rows, 1..=MAX).await;
    // The first batch would be settled while the second one is applied.
    let settling = world.faults.pause(Operation::Settle);
    let flush = tokio::spawn({
        let rows = rows.clone();
        async move { rows.flush().await }
    });
    settling.reached().await;
    // The flusher must also know of the commit. After a commit whose reply was lost, it would ask the database.
    eventually("the second batch is committed", async || {
        rows.stats().flushed_writes == u64::try_from(2 * BATCH).unwrap()
    })
    .await;
    flush.abort();
    assert!(flush.await.unwrap_err().is_cancelled());
    change_by_hand(world, 1).await;
    change_by_hand(world, 2 * BATCH).await;
    rows.flush().await.unwrap();
    let by_hand = Some("by hand".to_owned());
    assert_eq!(in_database(&rows, 1).await, by_hand);
    assert_eq!(in_database(&rows, 2 * BATCH).await, by_hand);
    assert_settled(world, &rows).await;
    for id in 1..=MAX {
        // The row was pending all the time, so it is still served.
        let outcome = rows.find_outcome(id).await.unwrap();
        assert_eq!(outcome.origin, Origin::Cache, "row {id}");
    }
    let stats = rows.stats();
    let most = u64::try_from(MAX).unwrap();
    assert_eq!((stats.flushed_writes, stats.flush_conflicts), (most, 0));
    // The queue is empty, so it accepts exactly as many writes as `max_pending` allows.
    fill(&rows, 1..=MAX).await;
    let full = rows.save(&Refusing::new(1)).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Backpressure);
}

async fn a_flush_returns_when_the_last_batch_is_settled_too<DB: Tested>(world: &World<DB>) {
    let rows = refusing(world).await;
    // The last batch is full, so the flusher must look for more.
    fill(&rows, 1..=BATCH).await;
    let settling = world.faults.pause(Operation::Settle);
    let mut flush = tokio::spawn({
        let rows = rows.clone();
        async move { rows.flush().await }
    });
    tokio::select! {
        () = settling.reached() => {}
        _ = &mut flush => panic!("it has returned before the last batch was settled"),
    }
    assert!(in_database(&rows, BATCH).await.is_some());
    assert!(!flush.is_finished());
    settling.resume();
    flush.await.unwrap().unwrap();
    // The store has nothing left to settle.
    fill(&rows, 1..=MAX).await;
    rows.flush().await.unwrap();
    assert_settled(world, &rows).await;
}

async fn a_failed_settle_is_repeated<DB: Tested>(world: &World<DB>) {
    let rows = refusing(world).await;
    fill(&rows, 1..=MAX).await;
    world.faults.fail(Operation::Settle, 1);
    assert_eq!(
        rows.flush().await.unwrap_err().kind(),
        ErrorKind::CacheUnavailable,
        "the failure is told"
    );
    rows.flush().await.unwrap();
    // The rows of the batch were settled with the right results.
    assert_settled(world, &rows).await;
    assert_eq!(rows.find_outcome(1).await.unwrap().origin, Origin::Cache);
    fill(&rows, 1..=MAX).await;
    assert_eq!(rows.stats().flushed_writes, u64::try_from(MAX).unwrap());
    for id in 1..=MAX {
        assert_eq!(in_database(&rows, id).await.as_deref(), Some("x"));
    }
}

async fn a_write_that_makes_room_finds_it_at_once<DB: Tested>(world: &World<DB>) {
    let rows = Waiting::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    for id in 1..=MAX + 1 {
        rows.save(&Waiting::new(id)).await.unwrap();
    }
    assert_eq!(rows.stats().backpressure, 1);
    rows.flush().await.unwrap();
    let row = rows.find_uncached(MAX + 1).await.unwrap();
    assert_eq!(row.unwrap().name, "x");
}

everywhere! {
    a_flush_that_is_stopped_before_it_settles_leaves_that_to_the_next,
    a_flush_returns_when_the_last_batch_is_settled_too,
    a_failed_settle_is_repeated,
    a_write_that_makes_room_finds_it_at_once,
}

/// Stops a flusher that has prefetched its second batch. Lets another one flush everything, changes a row of that batch, and
/// lets the first one continue. Returns the row after that.
async fn overtaken<DB: Tested>(world: &World<DB>) -> (RefusingRepository<DB>, Option<String>) {
    let rows = refusing(world).await;
    let elsewhere = Refusing::repository(&world.cache_elsewhere().await, world.pool.clone());
    fill(&rows, 1..=MAX).await;
    let (tell, told) = mpsc::channel();
    let (resume, resumed) = mpsc::channel::<()>();
    let (batches, resumed) = (AtomicU64::new(0), Arc::new(Mutex::new(resumed)));
    world.faults.at(Point::BeforeFlush, move || {
        if batches.fetch_add(1, Ordering::SeqCst) == 1 {
            tell.send(()).unwrap();
            let resumed = Arc::clone(&resumed);
            tokio::task::block_in_place(move || resumed.lock().unwrap().recv().unwrap());
        }
    });
    let flush = tokio::spawn({
        let rows = rows.clone();
        async move { rows.flush().await }
    });
    tokio::task::spawn_blocking(move || told.recv().unwrap())
        .await
        .unwrap();
    elsewhere.flush().await.unwrap();
    change_by_hand(world, BATCH + 1).await;
    resume.send(()).unwrap();
    // Without the comparison of positions, the rest of the flush may fail or succeed.
    let flushed = flush.await.unwrap();
    let left = in_database(&rows, BATCH + 1).await;
    if left.as_deref() == Some("by hand") {
        flushed.unwrap();
        let all = rows.stats().flushed_writes + elsewhere.stats().flushed_writes;
        assert_eq!(all, u64::try_from(MAX).unwrap());
        elsewhere.flush().await.unwrap();
        assert_eq!(rows.pending().await.unwrap().count, 0);
    }
    (rows, left)
}

async fn a_prefetched_batch_is_not_applied_after_another_flusher<DB: Tested>(world: &World<DB>) {
    let (rows, left) = overtaken(world).await;
    assert_eq!(left.as_deref(), Some("by hand"));
    assert_eq!(rows.stats().flush_conflicts, 1);
}

/// The negative control: the prefetched batch is applied again.
async fn without_the_comparison_of_positions_it_is_applied_again<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::OffsetCompare);
    let (_, left) = overtaken(world).await;
    assert_eq!(left.as_deref(), Some("x"));
}

on_redis! {
    a_prefetched_batch_is_not_applied_after_another_flusher,
    without_the_comparison_of_positions_it_is_applied_again,
}
