//! The turns of loads: which run, which wait, which fail immediately, and which are given up.
//!
//! The pool's connections are held, so that no load comes to its statement before the test wants it to.
//!
//! Not here: which callers share a load (`stampede`), and that a dropped read leaves nothing behind (`dropped`).

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use larder::{Cache, Cached, ErrorKind, Origin, store::Mechanism};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    entities::{Item, ItemRepository},
    world::{Kind, Tested, World, everywhere, filled, on_both_stores, redis_url, unique, until},
};

on_both_stores!(
    loads_are_given_up_when_their_callers_have_left,
    a_load_is_given_up_only_when_its_last_caller_has_left,
    a_load_that_is_given_up_releases_its_lease,
    a_reader_that_has_left_waits_for_no_other_process,
    loads_beyond_those_that_may_wait_fail_at_once,
);
everywhere!(
    loads_that_meet_are_read_by_one_statement,
    without_a_shared_statement_each_load_has_its_own,
    a_row_that_is_wanted_twice_is_returned_twice,
    a_load_that_fails_takes_no_other_with_it,
    a_load_that_is_given_up_takes_no_other_with_it,
);

/// Returns the items through a cache of their own with these limits.
fn limited<DB: Tested>(world: &World<DB>, running: usize, waiting: usize) -> ItemRepository<DB> {
    let builder = Cache::builder()
        .namespace(unique("loads"))
        .max_concurrent_loads(running)
        .max_waiting_loads(waiting);
    let builder = match world.kind {
        Kind::Memory => builder,
        Kind::Redis | Kind::Sealed => builder.redis(redis_url()).listed(false),
    };
    Item::repository(&builder.build().unwrap(), world.pool.clone())
}

type Read = JoinHandle<Result<Option<String>, larder::Error>>;

fn read<DB: Tested>(items: &ItemRepository<DB>, id: i64) -> Read {
    let items = items.clone();
    tokio::spawn(async move { Ok(items.find(id).await?.map(|item| item.name.clone())) })
}

async fn loads_are_given_up_when_their_callers_have_left<DB: Tested>(world: &World<DB>) {
    const READS: u64 = 500;
    const RUNNING: u64 = 2;
    let items = limited(world, RUNNING as usize, 5_000);
    world.put(&Item::new(1, "one")).await;
    assert!(items.find(1).await.unwrap().is_some(), "it is bound");
    filled(|| items.stats()).await;
    let before = items.stats();
    let gate = world.close_gate().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let idle = tasks();
    let polled = Arc::new(AtomicU64::new(0));
    let reads: Vec<_> = (0..READS)
        .map(|number| {
            let (items, polled, id) = (items.clone(), Arc::clone(&polled), 10 + number as i64);
            tokio::spawn(async move {
                polled.fetch_add(1, Ordering::AcqRel);
                // Both sorts of reads load.
                match number % 2 {
                    0 => drop(items.find(id).await),
                    _ => drop(items.find_uncached(id).await),
                }
            })
        })
        .collect();
    until("all loads have begun", || {
        items.stats().misses - before.misses == READS / 2 && polled.load(Ordering::Acquire) == READS
    })
    .await;
    for read in &reads {
        read.abort();
    }
    // A link that has timed out on a busy machine has tasks of its own, which are no loads.
    let few = RUNNING as usize + 10;
    until("the loads that wait are given up", || {
        items.stats().abandoned_loads >= READS - RUNNING && tasks() <= idle + few
    })
    .await;
    let statements = world.database.statements();
    drop(gate);
    let row = items.find_uncached(1).await.unwrap();
    assert_eq!(row.unwrap().name, "one");
    until("the loads that had a turn are given up as well", || {
        items.stats().abandoned_loads == READS
    })
    .await;
    let after = items.stats();
    assert!(after.loads - before.loads <= 1 + RUNNING);
    assert_eq!(after.load_errors, before.load_errors);
    assert_eq!(world.database.statements() - statements, 1);
}

async fn a_load_is_given_up_only_when_its_last_caller_has_left<DB: Tested>(world: &World<DB>) {
    let items = limited(world, 1, 10);
    world.put(&Item::new(1, "one")).await;
    world.put(&Item::new(2, "two")).await;
    let gate = world.close_gate().await;
    let _first = read(&items, 9);
    until("it has its turn", || items.stats().misses == 1).await;
    let mut reads = Vec::new();
    for (misses, id) in [(2, 1), (3, 1), (4, 2), (5, 2)] {
        reads.push(read(&items, id));
        until("it waits", || items.stats().misses == misses).await;
    }
    let [leader, follower, other_leader, other_follower] = reads.try_into().unwrap();
    leader.abort();
    other_follower.abort();
    other_leader.abort();
    until("the load without callers is given up", || {
        items.stats().abandoned_loads == 1
    })
    .await;
    drop(gate);
    assert_eq!(follower.await.unwrap().unwrap().as_deref(), Some("one"));
    assert_eq!(items.stats().abandoned_loads, 1);
    let row = items.find(2).await.unwrap().unwrap();
    assert_eq!(row.name, "two", "who comes later has a load of its own");
}

async fn a_load_that_is_given_up_releases_its_lease<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    world.put(&Item::new(1, "one")).await;
    let gate = world.close_gate().await;
    let reader = read(&items, 1);
    // A load takes the lease first, then its turn. It waits for a connection.
    until("it has the lease", || items.stats().loads == 1).await;
    reader.abort();
    // Only a caller that has been dropped has left.
    assert!(reader.await.is_err_and(|error| error.is_cancelled()));
    drop(gate);
    until("the load is given up", || {
        items.stats().abandoned_loads == 1
    })
    .await;
    let elsewhere = world.items_elsewhere().await;
    let found = elsewhere.find_outcome(1).await.unwrap();
    assert_eq!(found.origin, Origin::Database);
    assert_eq!(elsewhere.stats().lease_waits, 0, "the lease is free");
}

async fn a_reader_that_has_left_waits_for_no_other_process<DB: Tested>(world: &World<DB>) {
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    world.put(&Item::new(1, "one")).await;
    let gate = world.close_gate().await;
    let loading = read(&elsewhere, 1);
    until("another process has the lease", || {
        elsewhere.stats().loads == 1
    })
    .await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let waiting = read(&items, 1);
    until("it waits for the lease", || items.stats().lease_waits == 1).await;
    let with_it = tasks();
    waiting.abort();
    until("its task ends", || {
        items.stats().abandoned_loads == 1 && tasks() < with_it
    })
    .await;
    drop(gate);
    assert_eq!(loading.await.unwrap().unwrap().as_deref(), Some("one"));
}

async fn loads_beyond_those_that_may_wait_fail_at_once<DB: Tested>(world: &World<DB>) {
    const READS: u64 = 20;
    let items = limited(world, 1, 3);
    world.put(&Item::new(1, "one")).await;
    let gate = world.close_gate().await;
    let reads: Vec<_> = (1..=READS as i64).map(|id| read(&items, id)).collect();
    until(
        "all but one that runs and three that wait have failed",
        || items.stats().rejected_loads == READS - 4,
    )
    .await;
    drop(gate);
    let mut rejected = 0;
    for read in reads {
        if let Err(error) = read.await.unwrap() {
            rejected += 1;
            assert_eq!(error.kind(), ErrorKind::Overloaded);
            let text = error.to_string();
            assert!(text.starts_with("failed to load Item with key "), "{text}");
            assert!(text.contains("`max_waiting_loads`"), "{text}");
        }
    }
    assert_eq!(rejected, READS - 4);
    assert!(items.find(1).await.unwrap().is_some(), "it recovers");
}

/// How many rows are read at the same time.
const TOGETHER: i64 = 60;

/// Starts a read of each row, and lets them to the database when all of them wait. Returns how many statements read them.
async fn meet<DB: Tested>(world: &World<DB>) -> u64 {
    for id in 1..=TOGETHER {
        world.put(&Item::new(id, &format!("row {id}"))).await;
    }
    let items = world.items();
    let gate = world.close_gate().await;
    let statements = || world.database.statement_log().count_on("items");
    let before = statements();
    // Some rows do not exist.
    let reads: Vec<_> = (1..=TOGETHER + 5).map(|id| read(&items, id)).collect();
    let all = reads.len() as u64;
    until("all reads are on their way", || items.stats().misses == all).await;
    drop(gate);
    for (id, read) in (1..).zip(reads) {
        let name = (id <= TOGETHER).then(|| format!("row {id}"));
        assert_eq!(read.await.unwrap().unwrap(), name);
    }
    assert_eq!(items.stats().loads, all);
    let sent = items.stats().load_statements;
    // Each has filled its own key.
    until("all are cached", || items.stats().fills_accepted == all).await;
    let read = statements() - before;
    assert_eq!(read, sent, "as the repository counts them");
    let again = items.find_outcome(TOGETHER).await.unwrap();
    assert_eq!(again.origin, Origin::Cache);
    read
}

async fn loads_that_meet_are_read_by_one_statement<DB: Tested>(world: &World<DB>) {
    let statements = meet(world).await;
    // Those that come late, because their lease took longer, may be read alone.
    assert!(statements <= TOGETHER as u64 / 2, "{statements} statements");
}

async fn without_a_shared_statement_each_load_has_its_own<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::SharedStatement);
    assert!(meet(world).await >= TOGETHER as u64);
}

/// Reads past the cache share no flight, so one statement may read a row for several of them.
async fn a_row_that_is_wanted_twice_is_returned_twice<DB: Tested>(world: &World<DB>) {
    for id in [1, 2] {
        world.put(&Item::new(id, "a row")).await;
    }
    let items = world.items();
    let gate = world.close_gate().await;
    let begun = Arc::new(AtomicI64::new(0));
    let reads: Vec<_> = (0..TOGETHER)
        .map(|number| {
            let (items, begun) = (items.clone(), Arc::clone(&begun));
            tokio::spawn(async move {
                begun.fetch_add(1, Ordering::AcqRel);
                let id = number % 3 + 1;
                let found = match number % 5 {
                    0 => items.find(id).await,
                    1 => items.find(id).refresh().await,
                    _ => items.find_uncached(id).await,
                };
                (id, found.unwrap().map(|item| item.id))
            })
        })
        .collect();
    until("all reads have begun", || {
        begun.load(Ordering::Acquire) == TOGETHER
    })
    .await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(gate);
    for read in reads {
        let (id, found) = read.await.unwrap();
        assert_eq!(found, (id < 3).then_some(id));
    }
}

/// The same row, of which some values cannot be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items", name = "Narrow")]
struct Narrow {
    #[cached(id)]
    id: i64,
    name: String,
    #[sqlx(try_from = "i64")]
    quantity: u8,
}

async fn a_load_that_fails_takes_no_other_with_it<DB: Tested>(world: &World<DB>) {
    for id in 1..=TOGETHER {
        let quantity = if id % 20 == 7 { 1_000 } else { id };
        let item = Item::new(id, "a row");
        world.put(&Item { quantity, ..item }).await;
    }
    let narrow = Narrow::repository(&world.cache, world.pool.clone());
    let gate = world.close_gate().await;
    let reads: Vec<_> = (1..=TOGETHER)
        .map(|id| {
            let narrow = narrow.clone();
            tokio::spawn(async move { narrow.find(id).await })
        })
        .collect();
    until("all reads are on their way", || {
        narrow.stats().misses == TOGETHER as u64
    })
    .await;
    drop(gate);
    for (id, read) in (1..).zip(reads) {
        let found = read.await.unwrap();
        if id % 20 == 7 {
            let error = found.unwrap_err();
            assert!(error.to_string().contains(&format!(":{id}")), "{error}");
        } else {
            assert_eq!(i64::from(found.unwrap().unwrap().quantity), id);
        }
    }
}

async fn a_load_that_is_given_up_takes_no_other_with_it<DB: Tested>(world: &World<DB>) {
    for id in 1..=TOGETHER {
        world.put(&Item::new(id, "a row")).await;
    }
    let items = world.items();
    let gate = world.close_gate().await;
    let reads: Vec<_> = (1..=TOGETHER).map(|id| read(&items, id)).collect();
    until("all reads are on their way", || {
        items.stats().misses == TOGETHER as u64
    })
    .await;
    let half = |id: &i64| id % 2 == 0;
    for (_, read) in (1..).zip(&reads).filter(|(id, _)| half(id)) {
        read.abort();
    }
    // A load that has its turn is given up when it has a connection.
    const WITH_A_TURN: u64 = 6;
    let few = TOGETHER as u64 / 2 - WITH_A_TURN;
    until("those that wait are given up", || {
        items.stats().abandoned_loads >= few
    })
    .await;
    drop(gate);
    for (_, read) in (1..).zip(reads).filter(|(id, _)| !half(id)) {
        assert_eq!(read.await.unwrap().unwrap().as_deref(), Some("a row"));
    }
    let loads = items.stats().loads;
    assert!(loads <= TOGETHER as u64 / 2 + WITH_A_TURN, "{loads} loads");
    // What was given up can be read at once: it has no lease any more.
    assert!(items.find(2).await.unwrap().is_some());
}
