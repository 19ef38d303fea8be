//! Queued writes: acknowledged by the store, visible at once, and in the database after a flush.

use std::time::Duration;

use larder::{
    ErrorKind, Origin,
    store::{
        Mechanism,
        faulty::{Faults, Operation},
    },
};
use larder_testing::redis_server::RedisServer;

use crate::{
    entities::{Behind, BehindRepository, Item, of_items},
    world::{Tested, World, eventually, everywhere, on_redis},
};

/// Returns the rows of a world, with a queue and its tables.
pub(crate) async fn behind<DB: Tested>(world: &World<DB>) -> BehindRepository<DB> {
    let rows = Behind::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows
}

async fn names<DB: Tested>(rows: &BehindRepository<DB>, ids: &[i64]) -> Vec<Option<String>> {
    let mut names = Vec::new();
    for id in ids {
        let row = rows.find_uncached(id).await.unwrap();
        names.push(row.map(|row| row.name.clone()));
    }
    names
}

async fn an_acknowledged_write_is_read_at_once_and_in_the_database_after_a_flush<DB: Tested>(
    world: &World<DB>,
) {
    let rows = behind(world).await;
    rows.save(&Behind::new(1, "one")).await.unwrap();
    rows.save(&Behind::new(2, "two")).await.unwrap();
    rows.save(&Behind::new(1, "uno")).await.unwrap();
    let outcome = rows.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    assert_eq!(outcome.row.unwrap().name, "uno");
    assert_eq!(names(&rows, &[1, 2]).await, [None, None]);
    assert_eq!(rows.pending().await.unwrap().count, 3);
    rows.flush().await.unwrap();
    assert_eq!(
        names(&rows, &[1, 2]).await,
        [Some("uno".to_owned()), Some("two".to_owned())]
    );
    assert_eq!(rows.pending().await.unwrap().count, 0);
    rows.delete(1).await.unwrap();
    assert_eq!(rows.find(1).await.unwrap(), None);
    rows.flush().await.unwrap();
    assert_eq!(names(&rows, &[1]).await, [None]);
    let stats = rows.stats();
    assert_eq!(
        (stats.flushed_writes, stats.dead_letters, stats.lost_writes),
        (4, 0, 0)
    );
}

async fn a_write_has_the_condition_that_its_name_says<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    world.put(&Item::new(1, "there")).await;
    let kind = |error: larder::Error| error.kind();
    let missing = rows.update(&Behind::new(2, "x")).await.map_err(kind);
    assert_eq!(missing.unwrap_err(), ErrorKind::NotFound);
    let missing = rows.delete(2).await.map_err(kind);
    assert_eq!(missing.unwrap_err(), ErrorKind::NotFound);
    let there = rows.insert(&Behind::new(1, "x")).await.map_err(kind);
    assert_eq!(there.unwrap_err(), ErrorKind::Duplicate);
    rows.update(&Behind::new(1, "changed")).await.unwrap();
    rows.insert(&Behind::new(2, "new")).await.unwrap();
    rows.delete(1).await.unwrap();
    let gone = rows.update(&Behind::new(1, "x")).await.map_err(kind);
    assert_eq!(gone.unwrap_err(), ErrorKind::NotFound);
    rows.flush().await.unwrap();
    assert_eq!(names(&rows, &[1, 2]).await, [None, Some("new".to_owned())]);
}

async fn no_modification_is_lost<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    world.put(&Item::new(1, "counter")).await;
    let elsewhere: BehindRepository<DB> =
        Behind::repository(&world.cache_elsewhere().await, world.pool.clone());
    let flusher = rows.start_flushing().await.unwrap();
    let each = [rows.clone(), elsewhere.clone()];
    let changed = crate::world::at_once(8, |task| {
        let rows = each[task % 2].clone();
        async move {
            for _ in 0..25 {
                rows.modify(1, |row| row.quantity += 1).await.unwrap();
            }
        }
    });
    changed.await;
    assert_eq!(rows.find(1).await.unwrap().unwrap().quantity, 201);
    flusher.shutdown(Duration::from_secs(30)).await.unwrap();
    let row = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(row.quantity, 201);
}

everywhere! {
    an_acknowledged_write_is_read_at_once_and_in_the_database_after_a_flush,
    a_write_has_the_condition_that_its_name_says,
    no_modification_is_lost,
}

async fn a_poison_row_holds_up_no_other_and_becomes_a_dead_letter<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    world
        .sql("CREATE UNIQUE INDEX one_note ON items (note)")
        .await;
    let noted = |id: i64, name: &str, note: &str| Behind {
        note: Some(note.to_owned()),
        ..Behind::new(id, name)
    };
    rows.save(&noted(1, "first", "taken")).await.unwrap();
    rows.save(&Behind::new(2, "good")).await.unwrap();
    rows.flush().await.unwrap();
    for id in 3..20 {
        rows.save(&Behind::new(id, "good")).await.unwrap();
    }
    rows.save(&noted(20, "poison", "taken")).await.unwrap();
    rows.save(&Behind::new(2, "better")).await.unwrap();
    let flusher = rows.start_flushing().await.unwrap();
    flusher.shutdown(Duration::from_secs(30)).await.unwrap();
    for id in 3..20 {
        assert_eq!(names(&rows, &[id]).await, [Some("good".to_owned())]);
    }
    assert_eq!(names(&rows, &[2]).await, [Some("better".to_owned())]);
    // The key of the rejected row is dropped from the cache.
    assert_eq!(rows.find(20).await.unwrap(), None);
    let letters = rows.dead_letters().list(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].row().unwrap().name, "poison");
    assert_eq!(rows.stats().dead_letters, 1);
    // A replay is rejected again while the note is taken, and applied when it is free.
    rows.dead_letters().replay(&letters[0]).await.unwrap();
    rows.flush().await.unwrap();
    let letters = rows.dead_letters().list(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    rows.modify(1, |row| row.note = None).await.unwrap();
    // The rows may be in different partitions.
    rows.flush().await.unwrap();
    rows.dead_letters().replay(&letters[0]).await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(names(&rows, &[20]).await, [Some("poison".to_owned())]);
    assert!(rows.dead_letters().list(10).await.unwrap().is_empty());
}

async fn a_database_that_fails_for_a_while_loses_no_write_and_no_order<DB: Tested>(
    world: &World<DB>,
) {
    let rows = behind(world).await;
    let flusher = rows.start_flushing().await.unwrap();
    rows.save(&Behind::new(1, "zero")).await.unwrap();
    rows.flush().await.unwrap();
    world.sql("ALTER TABLE items RENAME TO away").await;
    for name in ["one", "two", "three"] {
        rows.save(&Behind::new(1, name)).await.unwrap();
        rows.save(&Behind::new(2, name)).await.unwrap();
    }
    eventually("flushing has failed", async || {
        rows.stats().flush_retries > 1
    })
    .await;
    assert_eq!(rows.pending().await.unwrap().count, 6);
    assert!(rows.pending().await.unwrap().oldest.is_some());
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "three");
    world.sql("ALTER TABLE away RENAME TO items").await;
    flusher.shutdown(Duration::from_secs(30)).await.unwrap();
    let three = Some("three".to_owned());
    assert_eq!(names(&rows, &[1, 2]).await, [three.clone(), three]);
    assert!(rows.dead_letters().list(10).await.unwrap().is_empty());
}

async fn dropping_the_flusher_loses_nothing<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    let flusher = rows.start_flushing().await.unwrap();
    for id in 0..50 {
        rows.save(&Behind::new(id, "kept")).await.unwrap();
    }
    drop(flusher);
    for id in 50..100 {
        rows.save(&Behind::new(id, "kept")).await.unwrap();
    }
    let elsewhere = Behind::repository(&world.cache_elsewhere().await, world.pool.clone());
    elsewhere.flush().await.unwrap();
    for id in 0..100 {
        assert_eq!(names(&rows, &[id]).await, [Some("kept".to_owned())]);
    }
    assert_eq!(rows.pending().await.unwrap().count, 0);
}

async fn a_shutdown_past_its_deadline_returns_an_error_and_loses_no_write<DB: Tested>(
    world: &World<DB>,
) {
    let rows = behind(world).await;
    let flusher = rows.start_flushing().await.unwrap();
    let gate = world.close_gate().await;
    // Acknowledged while the database is unreachable.
    rows.save(&Behind::new(2, "kept")).await.unwrap();
    let shutdown = flusher.shutdown(Duration::from_millis(50)).await;
    assert_eq!(shutdown.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    drop(gate);
    rows.flush().await.unwrap();
    assert_eq!(names(&rows, &[2]).await, [Some("kept".to_owned())]);
}

async fn an_invalidation_drops_no_pending_row<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    world.put(&Item::new(1, "old")).await;
    rows.save(&Behind::new(1, "new")).await.unwrap();
    rows.invalidate(1).await.unwrap();
    rows.invalidate_all().await.unwrap();
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "new");
    assert_eq!(rows.refresh(1).await.unwrap().unwrap().name, "new");
    rows.flush().await.unwrap();
    rows.invalidate(1).await.unwrap();
    assert_eq!(rows.find_outcome(1).await.unwrap().origin, Origin::Database);
}

async fn without_its_tables_a_write_is_refused_and_the_error_says_what_to_do<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Behind::repository(&world.cache, world.pool.clone());
    for error in [
        rows.save(&Behind::new(1, "x")).await.unwrap_err(),
        rows.start_flushing().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert!(error.to_string().contains("install"), "{error}");
    }
}

/// As [`Behind`], but with a short queue.
macro_rules! short {
    ($name:ident, $on_full:literal) => {
        of_items! {
            #[cached(strategy = "write_behind", durability = "memory")]
            #[cached(partitions = 1, max_pending = 10, batch = 3, on_full = $on_full, ttl = "10m")]
            pub(crate) struct $name
        }

        impl $name {
            pub(crate) fn new(id: i64) -> Self {
                Self {
                    id,
                    name: "x".to_owned(),
                    note: None,
                    quantity: 1,
                }
            }
        }
    };
}

short!(Refusing, "refuse");
short!(Waiting, "flush");

async fn a_full_queue_refuses_a_write_and_takes_it_when_there_is_room<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Refusing::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    for id in 0..10 {
        rows.save(&Refusing::new(id)).await.unwrap();
    }
    let full = rows.save(&Refusing::new(10)).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Backpressure);
    assert_eq!(rows.find(10).await.unwrap(), None);
    assert_eq!(rows.pending().await.unwrap().count, 10);
    rows.flush().await.unwrap();
    rows.save(&Refusing::new(11)).await.unwrap();
    assert_eq!(rows.pending().await.unwrap().count, 1);
    assert_eq!(rows.stats().backpressure, 1);
}

async fn a_full_queue_makes_a_write_go_through_to_the_database<DB: Tested>(world: &World<DB>) {
    let rows = Waiting::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    let written = crate::world::at_once(8, |task| {
        let rows = rows.clone();
        async move {
            for turn in 0..10 {
                let id = i64::try_from(task).unwrap();
                let row = Waiting {
                    quantity: turn,
                    ..Waiting::new(id)
                };
                rows.save(&row).await.unwrap();
            }
        }
    });
    written.await;
    // Only the writes themselves flush.
    assert!(rows.stats().flushes > 0);
    assert!(rows.stats().backpressure > 0);
    assert!(rows.pending().await.unwrap().count <= 10);
    rows.flush().await.unwrap();
    for id in 0..8 {
        let row = rows.find_uncached(id).await.unwrap().unwrap();
        assert_eq!(row.quantity, 9);
    }
}

everywhere! {
    a_poison_row_holds_up_no_other_and_becomes_a_dead_letter,
    a_database_that_fails_for_a_while_loses_no_write_and_no_order,
    dropping_the_flusher_loses_nothing,
    a_shutdown_past_its_deadline_returns_an_error_and_loses_no_write,
    an_invalidation_drops_no_pending_row,
    without_its_tables_a_write_is_refused_and_the_error_says_what_to_do,
    a_full_queue_refuses_a_write_and_takes_it_when_there_is_room,
    a_full_queue_makes_a_write_go_through_to_the_database,
}

async fn only_one_of_two_flushers_applies_a_batch<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    for id in 0..40 {
        rows.save(&Behind::new(id, "once")).await.unwrap();
    }
    let elsewhere = Behind::repository(&world.cache_elsewhere().await, world.pool.clone());
    let (here, there) = tokio::join!(rows.flush(), elsewhere.flush());
    here.unwrap();
    there.unwrap();
    assert_eq!(
        rows.stats().flushed_writes + elsewhere.stats().flushed_writes,
        40
    );
    assert_eq!(rows.pending().await.unwrap().count, 0);
}

everywhere!(only_one_of_two_flushers_applies_a_batch);

async fn a_queued_row_is_found_by_a_write_after_the_store_has_failed_once<DB: Tested>(
    world: &World<DB>,
) {
    let rows = behind(world).await;
    let key = rows.inner().key(1).unwrap();
    rows.insert(&Behind::new(1, "queued")).await.unwrap();
    // The store has lost the row and fails when it is asked for a queued write. The database has no row.
    world.cache.store().force(&key, None).await.unwrap();
    world.faults.fail(Operation::Acquire, 1);
    rows.modify(1, |row| row.quantity += 1).await.unwrap();
    world.cache.store().force(&key, None).await.unwrap();
    world.faults.fail(Operation::Acquire, 1);
    rows.update(&Behind::new(1, "changed")).await.unwrap();
    world.cache.store().force(&key, None).await.unwrap();
    world.faults.fail(Operation::Acquire, 1);
    rows.delete(1).await.unwrap();
    assert_eq!(rows.find(1).await.unwrap(), None);
}

on_redis!(a_queued_row_is_found_by_a_write_after_the_store_has_failed_once);

/// After a restart without a loss, the store does not know whether its queued writes are in the database.
async fn a_row_queued_before_a_restart_of_the_store_can_be_changed_at_once<DB: Tested>(
    world: &World<DB>,
) {
    let mut server = RedisServer::start_with(&["--appendonly", "yes"]).await;
    let cache = larder::Cache::builder()
        .redis(server.url())
        .listed(false)
        .connect()
        .await;
    let rows: BehindRepository<DB> = Behind::repository(&cache.unwrap(), world.pool.clone());
    rows.install().await.unwrap();
    for id in 1..=3 {
        rows.insert(&Behind::new(id, "queued")).await.unwrap();
    }
    server.kill().await;
    server.restart().await;
    eventually("the store is back", async || {
        rows.save(&Behind::new(4, "back")).await.is_ok()
    })
    .await;
    rows.modify(1, |row| row.quantity += 1).await.unwrap();
    rows.update(&Behind::new(2, "changed")).await.unwrap();
    rows.delete(3).await.unwrap();
    rows.flush().await.unwrap();
    let row = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!((&*row.name, row.quantity), ("queued", 2));
    let left = names(&rows, &[2, 3]).await;
    assert_eq!(left, [Some("changed".to_owned()), None]);
}

on_redis!(a_row_queued_before_a_restart_of_the_store_can_be_changed_at_once);

/// No write was queued and no flusher runs, so no row is cached yet.
async fn a_write_finds_the_row_before_a_queue_was_begun<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    world.put(&Item::new(1, "there")).await;
    let missing = rows.modify(2, |row| row.quantity += 1).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    rows.modify(1, |row| row.name.push('!')).await.unwrap();
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "there!");
}

everywhere!(a_write_finds_the_row_before_a_queue_was_begun);

/// The longest name fits, whatever characters it has.
async fn a_queue_whose_name_its_tables_cannot_hold_is_refused<DB: Tested>(world: &World<DB>) {
    let own = crate::world::unique("long");
    let open = async |length: usize| {
        let filled = own.clone() + &"ä".repeat(length - own.len());
        let builder = larder::Cache::builder().namespace(filled);
        let builder = builder.redis(crate::world::redis_url()).listed(false);
        let cache = builder.connect().await.unwrap();
        larder::Repository::<Behind, DB>::try_new(&cache, world.pool.clone())
    };
    let longest = 190 - ":Behind/4".len();
    let error = open(longest + 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    for told in ["191 characters", "190", "`namespace`"] {
        assert!(error.to_string().contains(told), "{error}");
    }
    let rows = open(longest).await.unwrap();
    rows.install().await.unwrap();
    rows.save(&Behind::new(1, "kept")).await.unwrap();
    rows.flush().await.unwrap();
    assert!(rows.find_uncached(1).await.unwrap().is_some());
}

crate::world::on_all_databases!(a_queue_whose_name_its_tables_cannot_hold_is_refused);

async fn only_a_put_without_an_answer_may_or_may_not_be_queued<DB: Tested>(world: &World<DB>) {
    let rows = Waiting::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    let unanswered = async |operation| {
        world.faults.leave_unanswered(operation, 1);
        rows.save(&Waiting::new(1)).await.unwrap_err().kind()
    };
    // The first write begins the queue.
    assert_eq!(
        unanswered(Operation::StartIncarnation).await,
        ErrorKind::CacheUnavailable
    );
    assert_eq!(unanswered(Operation::Put).await, ErrorKind::OutcomeUnknown);
    for id in 0..10 {
        rows.save(&Waiting::new(id)).await.unwrap();
    }
    // The queue is full, so the write has to make room.
    assert_eq!(
        unanswered(Operation::Fetch).await,
        ErrorKind::CacheUnavailable
    );
    assert_eq!(
        unanswered(Operation::Settle).await,
        ErrorKind::CacheUnavailable
    );
    world.faults.leave_unanswered(Operation::Get, 1);
    let modified = rows.modify(1, |row| row.quantity += 1).await;
    assert_eq!(modified.unwrap_err().kind(), ErrorKind::CacheUnavailable);
    rows.flush().await.unwrap();
    let row = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(row.quantity, 1, "nothing but the ten rows was queued");
}

everywhere!(only_a_put_without_an_answer_may_or_may_not_be_queued);

of_items! {
    /// As [`Behind`], but absences are not cached for readers.
    #[cached(
        strategy = "write_behind",
        durability = "memory",
        negative_ttl = false
    )]
    struct NoAbsence
}

async fn a_row_is_inserted_where_absences_are_not_cached<DB: Tested>(world: &World<DB>) {
    let rows = NoAbsence::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    let row = NoAbsence {
        id: 1,
        name: "new".to_owned(),
        note: None,
        quantity: 1,
    };
    rows.insert(&row).await.unwrap();
    let again = rows.insert(&row).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Duplicate);
    rows.flush().await.unwrap();
    assert!(rows.find_uncached(1).await.unwrap().is_some());
}

/// Two programs in one process: each has an in-process store, and so its own queue. Returns the names of the queues in the
/// database, and the number of dead letters.
async fn two_stores_take_turns<DB: Tested>(
    world: &World<DB>,
    faults: &Faults,
) -> (Vec<Option<String>>, usize) {
    let open = || {
        let cache = larder::Cache::builder().faults(faults).build().unwrap();
        Behind::repository(&cache, world.pool.clone())
    };
    let rows = [open(), open()];
    rows[0].install().await.unwrap();
    for turn in 0..3 {
        for (at, rows) in rows.iter().enumerate() {
            let id = i64::try_from(at).unwrap();
            let row = Behind::new(id, &format!("turn {turn}"));
            rows.save(&row).await.unwrap();
            rows.flush().await.unwrap();
        }
    }
    let mut dead = 0;
    for rows in &rows {
        dead += rows.dead_letters().list(10).await.unwrap().len();
    }
    (names(&rows[0], &[0, 1]).await, dead)
}

async fn queues_of_two_stores_in_one_process_do_not_end_each_other<DB: Tested>(world: &World<DB>) {
    let left = two_stores_take_turns(world, &Faults::new()).await;
    let last = Some("turn 2".to_owned());
    assert_eq!(left, (vec![last.clone(), last], 0));
}

async fn without_names_of_their_own_queues_of_two_stores_end_each_other<DB: Tested>(
    world: &World<DB>,
) {
    let faults = Faults::new();
    faults.leave_out(Mechanism::OwnQueue);
    let (left, dead) = two_stores_take_turns(world, &faults).await;
    let last = Some("turn 2".to_owned());
    assert!(left != [last.clone(), last] && dead > 0, "{left:?}, {dead}");
}

everywhere! {
    a_row_is_inserted_where_absences_are_not_cached,
    queues_of_two_stores_in_one_process_do_not_end_each_other,
    without_names_of_their_own_queues_of_two_stores_end_each_other,
}
