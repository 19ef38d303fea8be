//! Writes that meet (`gather_writes`): they are committed together, and each has the result of its own row.
//!
//! The pool's connections are held, so that writes wait until the test lets them go, and meet.
//!
//! Not here: loads that meet (`loads`), batches of one caller (`batch`), and that a dropped write leaves nothing behind (`dropped`).

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use larder::{
    Cache, Cached, Error, ErrorKind, Origin,
    store::{Mechanism, faulty::Operation},
};
use larder_testing::cut::Cut;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres};
use tokio::task::JoinHandle;

use crate::{
    entities::{Item, made_of_id_and_name, of_items},
    world::{
        Tested, World, eventually, everywhere, on_all_databases, on_both_stores, on_postgres, until,
    },
};

everywhere!(
    writes_that_meet_are_committed_together_and_each_has_its_own_row,
    without_a_shared_statement_each_write_is_committed_by_itself,
    a_write_that_fails_takes_no_other_with_it,
    writes_of_one_row_and_of_others_all_happen,
    a_caller_that_leaves_takes_no_other_with_it,
    a_caller_that_leaves_at_any_poll_leaves_no_trace,
    writes_of_a_failing_group_happen_without_their_callers,
    what_was_written_together_is_written_through,
);
on_all_databases!(
    one_connection_is_enough,
    an_entity_can_ask_for_writes_of_its_own,
    each_has_the_version_that_it_wrote,
    spellings_of_a_text_id_are_different_rows,
    composite_ids_are_matched_by_all_their_parts,
);
on_both_stores!(writes_that_must_be_announced_and_cannot_be_are_refused_one_by_one);
on_postgres!(
    writes_of_postgres_are_gathered_unless_the_entity_says_otherwise,
    a_row_that_a_trigger_skips_is_refused_alone,
    a_trigger_that_changes_an_id_confuses_no_caller,
    rows_whose_ids_are_generated_are_inserted_together,
    a_generated_row_that_waits_for_a_lock_does_not_hold_its_neighbours,
);

mod a_locked_row_does_not_hold_its_neighbours {
    crate::world::case!(
        a_locked_row_does_not_hold_its_neighbours,
        postgres,
        Memory,
        Postgres
    );
    crate::world::case!(
        a_locked_row_does_not_hold_its_neighbours,
        mysql,
        Memory,
        MySql
    );
}

/// How many writes meet: more than run alone.
const TOGETHER: i64 = 60;
/// How many of them may be executed alone, because they came first.
const MAX_ALONE: u64 = 8;

of_items! {
    #[cached(gather_writes = true, ttl = "10m", lease(ttl = "20s", wait = "10s"))]
    struct Gathered
}

of_items! {
    #[cached(gather_writes = true, strategy = "write_through", ttl = "10m")]
    struct Passed
}

of_items! {
    #[cached(gather_writes = true, on_outage = "consistent")]
    struct Strict
}

of_items! {
    #[cached(gather_writes = false)]
    struct Single
}

made_of_id_and_name!(Gathered, Passed, Strict, Single);

type Writing<T> = JoinHandle<Result<T, Error>>;

/// Starts all writes while the gate is closed, opens it when each has begun, and returns their results.
async fn meet<DB: Tested, T: Send + 'static, F>(
    world: &World<DB>,
    writes: impl IntoIterator<Item = F>,
) -> Vec<Result<T, Error>>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let gate = world.close_gate().await;
    let writing = begin(writes).await;
    drop(gate);
    let mut results = Vec::new();
    for write in writing {
        results.push(write.await.expect("no panic"));
    }
    results
}

/// Starts writes, and returns when each waits.
async fn begin<T: Send + 'static, F>(writes: impl IntoIterator<Item = F>) -> Vec<Writing<T>>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let begun = Arc::new(AtomicUsize::new(0));
    let writing: Vec<_> = writes
        .into_iter()
        .map(|write| {
            let begun = Arc::clone(&begun);
            tokio::spawn(async move {
                let mut write = Box::pin(write);
                let first = poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
                begun.fetch_add(1, Ordering::AcqRel);
                match first {
                    Poll::Ready(done) => done,
                    Poll::Pending => write.await,
                }
            })
        })
        .collect();
    until("all writes have begun", || {
        begun.load(Ordering::Acquire) == writing.len()
    })
    .await;
    writing
}

/// Returns the names in the table by id.
async fn stored<DB: Tested>(world: &World<DB>) -> BTreeMap<i64, String> {
    let items = Single::repository(&Cache::in_process(), world.pool.clone());
    let ids: Vec<_> = (0..=2 * TOGETHER).collect();
    let rows = items.find_many(&ids).await.unwrap();
    rows.into_iter()
        .flatten()
        .map(|row| (row.id, row.name.clone()))
        .collect()
}

async fn put_all<DB: Tested>(world: &World<DB>) {
    for id in 1..=TOGETHER {
        world.put(&Item::new(id, "old")).await;
    }
}

async fn all_kinds_meet<DB: Tested>(world: &World<DB>) -> u64 {
    put_all(world).await;
    let here = Gathered::repository(&world.cache, world.pool.clone());
    let there = Gathered::repository(&world.cache_elsewhere().await, world.pool.clone());
    for id in 1..=TOGETHER {
        assert_eq!(there.find(id).await.unwrap().unwrap().name, "old");
    }
    let name = |id: i64, verb: &str| format!("{verb} {id}");
    let updates = (1..=TOGETHER).map(|id| {
        let (here, row) = (here.clone(), Gathered::new(id, &name(id, "updated")));
        async move { here.update(&row).await }
    });
    for (id, row) in (1..).zip(meet(world, updates).await) {
        assert_eq!(row.unwrap().name, name(id, "updated"));
        let found = there.find(id).await.unwrap().unwrap();
        assert_eq!(found.name, name(id, "updated"), "nobody sees the old row");
    }
    // Half of them are new.
    let saves = (1..=TOGETHER).map(|id| {
        let (here, row) = (here.clone(), Gathered::new(2 * id, &name(2 * id, "saved")));
        async move { here.save(&row).await }
    });
    for (id, row) in (1..).zip(meet(world, saves).await) {
        assert_eq!(row.unwrap().name, name(2 * id, "saved"));
        let found = there.find(2 * id).await.unwrap().unwrap();
        assert_eq!(found.name, name(2 * id, "saved"));
    }
    let deletions = (1..=TOGETHER).map(|id| {
        let here = here.clone();
        async move { here.delete(2 * id).await }
    });
    for (id, deleted) in (1..).zip(meet(world, deletions).await) {
        deleted.unwrap();
        assert!(there.find(2 * id).await.unwrap().is_none());
    }
    let inserts = (1..=TOGETHER).map(|id| {
        let (here, row) = (
            here.clone(),
            Gathered::new(2 * id, &name(2 * id, "inserted")),
        );
        async move { here.insert(&row).await }
    });
    for (id, row) in (1..).zip(meet(world, inserts).await) {
        assert_eq!(row.unwrap().name, name(2 * id, "inserted"));
        let found = there.find(2 * id).await.unwrap().unwrap();
        assert_eq!(found.name, name(2 * id, "inserted"));
    }
    let stored = stored(world).await;
    for id in 1..=TOGETHER {
        assert_eq!(stored[&(2 * id)], name(2 * id, "inserted"));
        if id % 2 == 1 {
            assert_eq!(stored[&id], name(id, "updated"));
        }
    }
    let stats = here.stats();
    assert_eq!(stats.writes, 4 * TOGETHER as u64);
    assert_eq!(stats.write_errors, 0);
    stats.gathered_writes
}

async fn writes_that_meet_are_committed_together_and_each_has_its_own_row<DB: Tested>(
    world: &World<DB>,
) {
    let statements = world.database.statement_log().count_on("items");
    let gathered = all_kinds_meet(world).await;
    assert!(
        gathered >= 4 * (TOGETHER as u64 - MAX_ALONE),
        "only {gathered} writes were committed with others"
    );
    if DB::NAME == <Postgres as sqlx::Database>::NAME {
        let sent = world.database.statement_log().texts();
        let arrays = sent
            .iter()
            .filter(|sql| sql.contains("larder_bound"))
            .count();
        assert!((4..=40).contains(&arrays), "{arrays} of {statements}");
    }
}

async fn without_a_shared_statement_each_write_is_committed_by_itself<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::SharedStatement);
    assert_eq!(all_kinds_meet(world).await, 0);
}

/// The same rows, of which the table takes some only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "limits", gather_writes = true)]
struct Limit {
    #[cached(id)]
    id: i64,
    code: i64,
    quantity: i64,
}

async fn limits<DB: Tested>(world: &World<DB>) -> LimitRepository<DB> {
    world
        .sql("CREATE TABLE limits (id BIGINT NOT NULL PRIMARY KEY, code BIGINT NOT NULL UNIQUE, quantity BIGINT NOT NULL CHECK (quantity < 1000))")
        .await;
    Limit::repository(&world.cache, world.pool.clone())
}

fn limit(id: i64, quantity: i64) -> Limit {
    Limit {
        id,
        code: id,
        quantity,
    }
}

async fn a_write_that_fails_takes_no_other_with_it<DB: Tested>(world: &World<DB>) {
    let limits = limits(world).await;
    for id in 1..=TOGETHER {
        limits.insert(&limit(id, 1)).await.unwrap();
    }
    let kind = |result: Result<Arc<Limit>, Error>| result.map_or_else(|e| Some(e.kind()), |_| None);
    // Of the updates one row does not exist, one violates a constraint, and one takes the code of another row.
    let changed = |id: i64| match id % 20 {
        3 => limit(id + 1_000, 2),
        4 => limit(id, 1_000),
        5 => Limit {
            code: id - 1,
            ..limit(id, 2)
        },
        _ => limit(id, 2),
    };
    let updates = (1..=TOGETHER).map(|id| {
        let (limits, row) = (limits.clone(), changed(id));
        async move { limits.update(&row).await }
    });
    for (id, result) in (1..).zip(meet(world, updates).await) {
        let expected = match id % 20 {
            3 => Some(ErrorKind::NotFound),
            4 => Some(ErrorKind::Database),
            5 => Some(ErrorKind::Duplicate),
            _ => None,
        };
        if let Err(error) = &result {
            assert!(
                error.to_string().contains(&format!(":{}", changed(id).id)),
                "{error}"
            );
        }
        assert_eq!(kind(result), expected, "update of {id}");
        let found = limits.find(id).await.unwrap().unwrap();
        let quantity = if expected.is_some() { 1 } else { 2 };
        assert_eq!(*found, limit(id, quantity));
    }
    // Of the inserts some exist.
    let inserts = (1..=TOGETHER).map(|id| {
        let (limits, row) = (
            limits.clone(),
            limit(if id % 20 == 6 { id } else { id + 100 }, 3),
        );
        async move { limits.insert(&row).await }
    });
    for (id, result) in (1..).zip(meet(world, inserts).await) {
        let expected = (id % 20 == 6).then_some(ErrorKind::Duplicate);
        assert_eq!(kind(result), expected, "insert of {id}");
        let found = limits.find(id + 100).await.unwrap();
        assert_eq!(found.is_some(), expected.is_none());
    }
    let saves = (1..=TOGETHER).map(|id| {
        let quantity = if id % 20 == 7 { 1_000 } else { 4 };
        let (limits, row) = (limits.clone(), limit(id, quantity));
        async move { limits.save(&row).await }
    });
    for (id, result) in (1..).zip(meet(world, saves).await) {
        let expected = (id % 20 == 7).then_some(ErrorKind::Database);
        assert_eq!(kind(result), expected, "save of {id}");
        let found = limits.find(id).await.unwrap().unwrap();
        assert_eq!(found.quantity == 4, expected.is_none());
    }
    let deletions = (1..=TOGETHER).map(|id| {
        let (limits, id) = (limits.clone(), if id % 20 == 8 { id + 1_000 } else { id });
        async move { limits.delete(id).await }
    });
    for (id, result) in (1..).zip(meet(world, deletions).await) {
        let expected = (id % 20 == 8).then_some(ErrorKind::NotFound);
        assert_eq!(result.err().map(|error| error.kind()), expected, "{id}");
        assert_eq!(limits.find(id).await.unwrap().is_some(), expected.is_some());
    }
    assert!(limits.stats().gathered_writes > 0);
}

/// Whoever has begun a write may leave: it happens, also if its group has failed because of another one.
async fn writes_of_a_failing_group_happen_without_their_callers<DB: Tested>(world: &World<DB>) {
    let limits = limits(world).await;
    for id in 1..=TOGETHER {
        limits.insert(&limit(id, 1)).await.unwrap();
    }
    let gate = world.close_gate().await;
    let updates = (1..=TOGETHER).map(|id| {
        let quantity = if id == 20 || id == 50 { 1_000 } else { 2 };
        let (limits, row) = (limits.clone(), limit(id, quantity));
        async move { limits.update(&row).await }
    });
    for write in begin(updates).await {
        write.abort();
    }
    drop(gate);
    until("all writes have ended", || {
        let stats = limits.stats();
        stats.writes + stats.write_errors == 2 * TOGETHER as u64
    })
    .await;
    assert_eq!(limits.stats().write_errors, 2);
    for id in 1..=TOGETHER {
        let quantity = if id == 20 || id == 50 { 1 } else { 2 };
        let found = limits.find(id).await.unwrap().unwrap();
        assert_eq!(found.quantity, quantity);
        let stored = limits.find_uncached(id).await.unwrap().unwrap();
        assert_eq!(stored.quantity, quantity);
    }
}

async fn writes_of_one_row_and_of_others_all_happen<DB: Tested>(world: &World<DB>) {
    put_all(world).await;
    let rows = Gathered::repository(&world.cache, world.pool.clone());
    let updates = (0..2 * TOGETHER).map(|number| {
        let id = if number % 2 == 0 { 1 } else { 2 + number / 2 };
        let id = id.min(TOGETHER);
        let (rows, row) = (rows.clone(), Gathered::new(id, &format!("by {number}")));
        async move { rows.update(&row).await }
    });
    for (number, row) in meet(world, updates).await.into_iter().enumerate() {
        assert_eq!(row.unwrap().name, format!("by {number}"));
    }
    let stored = stored(world).await;
    for (id, name) in stored {
        let number: i64 = name.strip_prefix("by ").unwrap().parse().unwrap();
        assert_eq!(number % 2 == 0, id == 1, "{id}: {name}");
        assert_eq!(rows.find(id).await.unwrap().unwrap().name, name);
    }
}

async fn a_caller_that_leaves_takes_no_other_with_it<DB: Tested>(world: &World<DB>) {
    put_all(world).await;
    let here = Gathered::repository(&world.cache, world.pool.clone());
    let there = Gathered::repository(&world.cache_elsewhere().await, world.pool.clone());
    let gate = world.close_gate().await;
    let updates = (1..=TOGETHER).map(|id| {
        let (here, row) = (here.clone(), Gathered::new(id, "new"));
        async move { here.update(&row).await }
    });
    let writing = begin(updates).await;
    for write in writing.iter().step_by(3) {
        write.abort();
    }
    drop(gate);
    for (number, write) in writing.into_iter().enumerate() {
        match write.await {
            Ok(written) => drop(written.unwrap()),
            Err(left) => assert!(left.is_cancelled() && number % 3 == 0),
        }
    }
    for (id, name) in agreed(world, &there).await {
        if (id - 1) % 3 != 0 {
            assert_eq!(name, "new");
        }
        here.update(&Gathered::new(id, "again")).await.unwrap();
        assert_eq!(there.find(id).await.unwrap().unwrap().name, "again");
    }
}

async fn a_caller_that_leaves_at_any_poll_leaves_no_trace<DB: Tested>(world: &World<DB>) {
    put_all(world).await;
    world.faults.leave_out(Mechanism::LoneWrite);
    let here = Gathered::repository(&world.cache, world.pool.clone());
    let there = Gathered::repository(&world.cache_elsewhere().await, world.pool.clone());
    for late in [false, true] {
        for polls in 0.. {
            let name = format!("after {polls}, late: {late}");
            let neighbours = (2..=6).map(|id| {
                let (here, row) = (here.clone(), Gathered::new(id, &name));
                async move { here.update(&row).await }
            });
            let neighbours = begin(neighbours).await;
            let row = Gathered::new(1, &name);
            let ended = Cut { polls, late }.run(here.update(&row)).await;
            for neighbour in neighbours {
                neighbour.await.unwrap().unwrap();
            }
            for (id, stored) in agreed(world, &there).await.into_iter().take(6) {
                assert!(id == 1 || stored == name, "{id}: {stored}, {name}");
            }
            here.update(&Gathered::new(1, "next")).await.unwrap();
            assert_eq!(there.find(1).await.unwrap().unwrap().name, "next");
            if let Some(ended) = ended {
                assert_eq!(ended.unwrap().name, name);
                break;
            }
        }
    }
    assert!(here.stats().gathered_writes > 0);
}

/// Returns the names in the table when the cache has the same: a write whose caller has left may still be under way.
async fn agreed<DB: Tested>(
    world: &World<DB>,
    there: &GatheredRepository<DB>,
) -> BTreeMap<i64, String> {
    let mut names = BTreeMap::new();
    eventually("the cache agrees with the table", async || {
        names = stored(world).await;
        for (id, name) in &names {
            if there
                .find(*id)
                .await
                .unwrap()
                .is_none_or(|row| row.name != *name)
            {
                return false;
            }
        }
        true
    })
    .await;
    names
}

async fn what_was_written_together_is_written_through<DB: Tested>(world: &World<DB>) {
    put_all(world).await;
    let here = Passed::repository(&world.cache, world.pool.clone());
    let there = Passed::repository(&world.cache_elsewhere().await, world.pool.clone());
    let saves = (1..=TOGETHER).map(|id| {
        let (here, row) = (here.clone(), Passed::new(id, &format!("row {id}")));
        async move { here.save(&row).await }
    });
    for row in meet(world, saves).await {
        row.unwrap();
    }
    for id in 1..=TOGETHER {
        let outcome = there.find_outcome(id).await.unwrap();
        assert_eq!(outcome.origin, Origin::Cache, "row {id}");
        assert_eq!(outcome.row.unwrap().name, format!("row {id}"));
    }
}

async fn one_connection_is_enough<DB: Tested>(world: &World<DB>) {
    put_all(world).await;
    let options = sqlx::pool::PoolOptions::<DB>::new().max_connections(1);
    let pool = options
        .connect_with((*world.pool.connect_options()).clone())
        .await
        .unwrap();
    let rows = Gathered::repository(&world.cache, pool);
    let updates = (1..=TOGETHER).map(|id| {
        // One does not exist.
        let id = if id == 30 { 1_000 } else { id };
        let (rows, row) = (rows.clone(), Gathered::new(id, "new"));
        async move { rows.update(&row).await }
    });
    for (id, written) in (1..).zip(meet(world, updates).await) {
        assert_eq!(written.is_ok(), id != 30);
    }
    assert!(rows.stats().gathered_writes > 0);
}

async fn an_entity_can_ask_for_writes_of_its_own<DB: Tested>(world: &World<DB>) {
    put_all(world).await;
    let rows = Single::repository(&world.cache, world.pool.clone());
    let updates = (1..=TOGETHER).map(|id| {
        let (rows, row) = (rows.clone(), Single::new(id, "new"));
        async move { rows.update(&row).await }
    });
    for written in meet(world, updates).await {
        written.unwrap();
    }
    assert_eq!(rows.stats().gathered_writes, 0);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "accounts", gather_writes = true)]
struct Account {
    #[cached(id)]
    id: i64,
    balance: i64,
    #[cached(version)]
    version: i64,
}

async fn each_has_the_version_that_it_wrote<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE accounts (id BIGINT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)")
        .await;
    let accounts = Account::repository(&world.cache, world.pool.clone());
    let account = |id, balance, version| Account {
        id,
        balance,
        version,
    };
    let inserts = (1..=TOGETHER).map(|id| {
        let (accounts, row) = (accounts.clone(), account(id, id, 1));
        async move { accounts.insert(&row).await }
    });
    for (id, row) in (1..).zip(meet(world, inserts).await) {
        assert_eq!(*row.unwrap(), account(id, id, 1));
    }
    // Every fifth has an old version.
    let version = |id: i64| if id % 5 == 0 { 0 } else { 1 };
    let updates = (1..=TOGETHER).map(|id| {
        let (accounts, row) = (accounts.clone(), account(id, 2 * id, version(id)));
        async move {
            match id % 2 {
                0 => accounts.update(&row).await,
                _ => accounts.save(&row).await,
            }
        }
    });
    for (id, row) in (1..).zip(meet(world, updates).await) {
        match row {
            Ok(row) => assert_eq!(*row, account(id, 2 * id, 2)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                let current = error.current::<Account>();
                assert_eq!(current.as_deref(), Some(&account(id, id, 1)));
                assert_eq!(version(id), 0);
            }
        }
    }
    let deletions = (1..=TOGETHER).map(|id| {
        let (accounts, row) = (accounts.clone(), account(id, 0, 2));
        async move { accounts.delete(&row).await }
    });
    for (id, deleted) in (1..).zip(meet(world, deletions).await) {
        let kind = deleted.err().map(|error| error.kind());
        assert_eq!(kind, (version(id) == 0).then_some(ErrorKind::Conflict));
        let left = accounts.find(id).await.unwrap();
        assert_eq!(left.is_some(), version(id) == 0);
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "words", gather_writes = true)]
struct Word {
    #[cached(id)]
    word: String,
    count: i64,
}

async fn spellings_of_a_text_id_are_different_rows<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE words (word VARCHAR(40) NOT NULL PRIMARY KEY, count BIGINT NOT NULL)")
        .await;
    let words = Word::repository(&world.cache, world.pool.clone());
    let word = |number: i64, count| Word {
        word: format!("Word {number}"),
        count,
    };
    let inserts = (1..=TOGETHER).map(|number| {
        let (words, row) = (words.clone(), word(number, 1));
        async move { words.insert(&row).await }
    });
    for row in meet(world, inserts).await {
        row.unwrap();
    }
    let updates = (1..=TOGETHER).map(|number| {
        let mut row = word(number, 2);
        if number % 7 == 0 {
            row.word = row.word.to_lowercase();
        }
        let words = words.clone();
        async move { words.update(&row).await }
    });
    for (number, row) in (1..).zip(meet(world, updates).await) {
        assert_eq!(row.is_ok(), number % 7 != 0, "{row:?}");
        let found = words.find(format!("Word {number}")).await.unwrap();
        assert_eq!(found.unwrap().count, if number % 7 == 0 { 1 } else { 2 });
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", gather_writes = true)]
struct Seat {
    #[cached(id)]
    flight: i64,
    #[cached(id)]
    row: i64,
    guest: String,
}

async fn composite_ids_are_matched_by_all_their_parts<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE seats (flight BIGINT NOT NULL, `row` BIGINT NOT NULL, guest VARCHAR(40) NOT NULL, PRIMARY KEY (flight, `row`))".replace('`', if DB::NAME == <MySql as sqlx::Database>::NAME { "`" } else { "\"" }))
        .await;
    let seats = Seat::repository(&world.cache, world.pool.clone());
    let seat = |number: i64, guest: &str| Seat {
        flight: number % 6,
        row: number / 6,
        guest: format!("{guest} {number}"),
    };
    let inserts = (0..TOGETHER).map(|number| {
        let (seats, row) = (seats.clone(), seat(number, "first"));
        async move { seats.insert(&row).await }
    });
    for row in meet(world, inserts).await {
        row.unwrap();
    }
    let updates = (0..TOGETHER).map(|number| {
        let (seats, row) = (seats.clone(), seat(number, "second"));
        async move { seats.update(&row).await }
    });
    for row in meet(world, updates).await {
        row.unwrap();
    }
    for number in 0..TOGETHER {
        let found = seats.find((number % 6, number / 6)).await.unwrap();
        assert_eq!(*found.unwrap(), seat(number, "second"));
    }
}

/// The neighbours end while the lock is held. The write of the locked row ends when it is free.
async fn a_locked_row_does_not_hold_its_neighbours<DB: Tested>(world: &World<DB>) {
    put_all(world).await;
    let rows = Gathered::repository(&world.cache, world.pool.clone());
    rows.update(&Gathered::new(1, "old")).await.unwrap();
    let mut locking = larder::Transaction::begin(&world.pool).await.unwrap();
    let single = Single::repository(&Cache::in_process(), world.pool.clone());
    let mut within = single.within(&mut locking);
    within.update(&Single::new(30, "locked")).await.unwrap();
    let pool = sqlx::pool::PoolOptions::<DB>::new().max_connections(4);
    let pool = pool
        .connect_with((*world.pool.connect_options()).clone())
        .await
        .unwrap();
    let rows = Gathered::repository(&world.cache, pool);
    let updates = (1..=TOGETHER).map(|id| {
        let (rows, row) = (rows.clone(), Gathered::new(id, "new"));
        async move { rows.update(&row).await }
    });
    let mut writing = begin(updates).await;
    let locked = writing.remove(29);
    for write in writing {
        write.await.unwrap().unwrap();
    }
    assert!(!locked.is_finished());
    // Those that come later do not meet it.
    let later = (31..=TOGETHER).map(|id| {
        let (rows, row) = (rows.clone(), Gathered::new(id, "newer"));
        async move { rows.update(&row).await }
    });
    for write in begin(later).await {
        write.await.unwrap().unwrap();
    }
    assert!(rows.stats().gathered_writes > 0);
    assert_eq!(stored(world).await[&30], "old");
    locking.commit().await.unwrap();
    locked.await.unwrap().unwrap();
    assert_eq!(stored(world).await[&30], "new");
}

async fn writes_that_must_be_announced_and_cannot_be_are_refused_one_by_one<DB: Tested>(
    world: &World<DB>,
) {
    put_all(world).await;
    let rows = Strict::repository(&world.cache, world.pool.clone());
    rows.update(&Strict::new(1, "old")).await.unwrap();
    world.faults.fail(Operation::Begin, u64::MAX);
    let updates = (1..=TOGETHER).map(|id| {
        let (rows, row) = (rows.clone(), Strict::new(id, "new"));
        async move { rows.update(&row).await }
    });
    for (id, written) in (1..).zip(meet(world, updates).await) {
        let error = written.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CacheUnavailable, "{error}");
        assert!(error.to_string().contains(&format!(":{id}")), "{error}");
    }
    assert!(stored(world).await.values().all(|name| name == "old"));
}

async fn writes_of_postgres_are_gathered_unless_the_entity_says_otherwise(world: &World<Postgres>) {
    put_all(world).await;
    let items = world.items();
    let updates = (1..=TOGETHER).map(|id| {
        let (items, row) = (items.clone(), Item::new(id, "new"));
        async move { items.update(&row).await }
    });
    for written in meet(world, updates).await {
        written.unwrap();
    }
    assert!(items.stats().gathered_writes >= TOGETHER as u64 - MAX_ALONE);
}

/// Makes the database skip or change each row with such an id, before it is written by such a statement.
async fn trigger(world: &World<Postgres>, statement: &str, what: &str) {
    world
        .raw(format!(
            "CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what} RETURN NEW; END $$; \
             CREATE TRIGGER meddle BEFORE {statement} ON items FOR EACH ROW EXECUTE FUNCTION meddle()"
        ))
        .await;
}

async fn a_row_that_a_trigger_skips_is_refused_alone(world: &World<Postgres>) {
    let skip = "IF NEW.id % 10 = 3 THEN RETURN NULL; END IF;";
    trigger(world, "INSERT OR UPDATE", skip).await;
    let rows = Gathered::repository(&world.cache, world.pool.clone());
    for verb in ["inserted", "updated", "saved"] {
        let writes = (1..=TOGETHER).map(|id| {
            let (rows, row) = (rows.clone(), Gathered::new(id, verb));
            async move {
                match verb {
                    "inserted" => rows.insert(&row).await,
                    "updated" => rows.update(&row).await,
                    _ => rows.save(&row).await,
                }
            }
        });
        for (id, written) in (1..).zip(meet(world, writes).await) {
            assert_eq!(written.is_err(), id % 10 == 3, "{verb} {id}: {written:?}");
            let found = rows.find(id).await.unwrap();
            let expected = (id % 10 != 3).then_some(verb);
            assert_eq!(found.as_ref().map(|row| &*row.name), expected);
        }
    }
}

async fn a_trigger_that_changes_an_id_confuses_no_caller(world: &World<Postgres>) {
    let change = "IF NEW.id % 10 = 3 THEN NEW.id := NEW.id + 1000; END IF; IF NEW.id % 20 = 5 THEN RETURN NULL; END IF;";
    trigger(world, "INSERT", change).await;
    let rows = Passed::repository(&world.cache, world.pool.clone());
    for id in 1..=TOGETHER {
        let changed = id + if id % 10 == 3 { 1000 } else { 0 };
        assert_eq!(rows.find(changed).await.unwrap(), None, "it is cached");
    }
    let inserts = (1..=TOGETHER).map(|id| {
        let (rows, row) = (rows.clone(), Passed::new(id, &format!("row {id}")));
        async move { rows.insert(&row).await }
    });
    for (id, written) in (1..).zip(meet(world, inserts).await) {
        match written {
            Ok(row) => assert_eq!(row.name, format!("row {id}")),
            // Whoever cannot be told what became of its row is told so.
            Err(error) => assert!(
                id % 10 == 3 && error.kind() == ErrorKind::OutcomeUnknown || id % 20 == 5,
                "{id}: {error}"
            ),
        }
    }
    // Whatever the callers know, the cache does not hide what was inserted.
    for id in 1..=TOGETHER {
        let changed = id + if id % 10 == 3 { 1000 } else { 0 };
        let found = rows.find(changed).await.unwrap();
        assert_eq!(found.is_some(), id % 20 != 5, "{changed}");
        assert_eq!(found, rows.find_uncached(changed).await.unwrap());
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "tickets", strategy = "write_through")]
struct Ticket {
    #[cached(id, generated)]
    id: i64,
    #[cached(unique)]
    code: i64,
    #[cached(version)]
    version: i64,
}

async fn tickets(world: &World<Postgres>) -> TicketRepository<Postgres> {
    world
        .sql("CREATE TABLE tickets (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code BIGINT NOT NULL UNIQUE, version BIGINT NOT NULL)")
        .await;
    Ticket::repository(&world.cache, world.pool.clone())
}

fn ticket(code: i64) -> Ticket {
    Ticket {
        id: 0,
        code,
        version: 1,
    }
}

async fn rows_whose_ids_are_generated_are_inserted_together(world: &World<Postgres>) {
    let tickets = tickets(world).await;
    tickets.insert(&ticket(1_030)).await.unwrap();
    for round in 0..2 {
        // In the second round one of them is refused. Its absence was cached before.
        let code = |number: i64| match (round, number) {
            (1, 30) => 1_030,
            _ => 100 * (round + 1) + number,
        };
        for number in 1..=TOGETHER {
            assert!(number == 30 || tickets.find_by_code(code(number)).await.unwrap().is_none());
        }
        let before = tickets.stats().gathered_writes;
        let inserts = (1..=TOGETHER).map(|number| {
            let (tickets, row) = (tickets.clone(), ticket(code(number)));
            async move { tickets.insert(&row).await }
        });
        let mut ids = std::collections::HashSet::new();
        for (number, row) in (1..).zip(meet(world, inserts).await) {
            match row {
                Ok(row) => {
                    assert_eq!((row.code, row.version), (code(number), 1));
                    assert!(ids.insert(row.id), "{}", row.id);
                    let outcome = tickets.find_outcome(row.id).await.unwrap();
                    assert_eq!(outcome.row.as_deref(), Some(&*row));
                    assert_eq!(outcome.origin, Origin::Cache);
                    let found = tickets.find_by_code(code(number)).await.unwrap();
                    assert_eq!(found.as_deref(), Some(&*row));
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
                    assert_eq!(code(number), 1_030);
                }
            }
        }
        assert_eq!(ids.len() as i64, TOGETHER - round);
        let gathered = tickets.stats().gathered_writes - before;
        assert_eq!(gathered > 0, round == 0, "{gathered}");
    }
    let stats = tickets.stats();
    assert_eq!(stats.writes, 2 * TOGETHER as u64);
    assert_eq!(stats.write_errors, 1);
}

async fn a_generated_row_that_waits_for_a_lock_does_not_hold_its_neighbours(
    world: &World<Postgres>,
) {
    let tickets = tickets(world).await;
    tickets.insert(&ticket(1)).await.unwrap();
    let mut locking = larder::Transaction::begin(&world.pool).await.unwrap();
    let single = Ticket::repository(&Cache::in_process(), world.pool.clone());
    let inserted = single.within(&mut locking).insert(&ticket(130)).await;
    inserted.unwrap();
    let inserts = (101..=100 + TOGETHER).map(|code| {
        let (tickets, row) = (tickets.clone(), ticket(code));
        async move { tickets.insert(&row).await }
    });
    let mut writing = begin(inserts).await;
    let locked = writing.remove(29);
    for write in writing {
        write.await.unwrap().unwrap();
    }
    assert!(!locked.is_finished());
    locking.rollback().await.unwrap();
    assert_eq!(locked.await.unwrap().unwrap().code, 130);
}
