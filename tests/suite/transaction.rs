//! Transactions: what they see, what others see, and what the cache holds after each way to end them.
//!
//! Most cases run for a cache-aside and for a write-through entity over one table. The two have different keys.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use larder::{
    Cache, Entity, ErrorKind, Origin, Repository, Transaction,
    store::{Mechanism, faulty::Operation},
    writes::{ById, ToDatabase},
};
use larder_testing::proxy::Point;
use sqlx::{Executor, MySql, Postgres, Sqlite};

use crate::{
    entities::{Item, Through, of_items},
    world::{
        Kind, Tested, World, eventually, everywhere, on_both_stores, on_postgres, on_servers,
        unique,
    },
    write::{held_up, lock_row},
};

everywhere!(
    a_transaction_sees_its_own_writes_and_nobody_else_does_before_the_commit,
    a_rollback_leaves_the_cache_as_if_nothing_had_happened,
    a_savepoint_takes_its_writes_along_when_it_is_rolled_back,
    a_reader_between_statement_and_commit_caches_no_old_row,
    raw_statements_are_seen_when_their_rows_are_marked,
    raw_statements_over_unknown_rows_are_seen_when_all_are_marked,
    a_batch_in_a_transaction_is_all_or_nothing,
);
on_both_stores!(
    without_the_intent_a_reader_before_the_commit_caches_the_old_row,
    callbacks_run_after_the_cache_was_updated,
    reads_in_a_transaction_fill_nothing_and_a_failed_statement_switches_nothing_off,
    a_transaction_that_is_dropped_is_rolled_back,
    a_commit_whose_caller_is_gone_runs_to_its_end,
    a_callback_that_panics_undoes_neither_the_commit_nor_the_next_callback,
    raw_statements_cancel_earlier_cache_updates,
);
on_postgres!(
    a_commit_that_postgres_answers_with_a_rollback_is_an_error,
    a_commit_whose_outcome_is_unknown_keeps_its_rows_uncached,
    intents_are_renewed_while_a_commit_takes_long,
    a_deferred_trigger_that_outlives_the_intent_fails_the_commit,
    a_statement_dropped_half_way_can_only_be_rolled_back,
);

on_servers!(
    a_transaction_that_is_idle_at_its_commit_is_given_up_by_the_database,
    a_session_is_as_it_was_after_a_commit,
);

/// A row of the table of items, with any strategy.
pub(crate) trait Row:
    Entity<Id = i64, Writes = ToDatabase, Deletes = ById> + PartialEq + fmt::Debug
{
    fn row(id: i64, name: &str) -> Self;
    fn name(&self) -> &str;
}

impl Row for Item {
    fn row(id: i64, name: &str) -> Self {
        Self::new(id, name)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Row for Through {
    fn row(id: i64, name: &str) -> Self {
        Self::new(id, name)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The rows as this process and as another one sees them.
pub(crate) struct Both<R: Row, DB: Tested> {
    pub(crate) here: Repository<R, DB>,
    pub(crate) there: Repository<R, DB>,
}

impl<R: Row, DB: Tested> Both<R, DB> {
    pub(crate) async fn of(world: &World<DB>) -> Self {
        world.sql("DELETE FROM items").await;
        // In one namespace, a new entity over the table would not be cached until all processes have heard of it.
        Self {
            here: Self::repository(world, &world.cache),
            there: Self::repository(world, &world.cache_elsewhere().await),
        }
    }

    /// Returns a repository that shares its rows with both.
    pub(crate) fn repository(world: &World<DB>, cache: &Cache) -> Repository<R, DB> {
        let namespace = format!("{}-{}", world.namespace, R::SPEC.name);
        let cache = cache.with_namespace(&namespace).unwrap();
        Repository::new(&cache, world.pool.clone())
    }

    /// Checks that both processes read this name, or that the row does not exist.
    pub(crate) async fn see(&self, id: i64, name: Option<&str>) {
        for rows in [&self.here, &self.there] {
            let row = rows.find(id).await.unwrap();
            assert_eq!(row.as_deref().map(Row::name), name, "row {id}");
        }
    }

    /// Returns the name in the database. Checks that both processes read it.
    pub(crate) async fn agree(&self, id: i64) -> Option<String> {
        let row = self.here.find_uncached(id).await.unwrap();
        let held = row.map(|row| row.name().to_owned());
        self.see(id, held.as_deref()).await;
        held
    }

    /// Waits until both processes have this row from the cache.
    pub(crate) async fn are_warm(&self, id: i64) {
        for rows in [&self.here, &self.there] {
            eventually("the row is cached", async || {
                rows.find_outcome(id).await.unwrap().origin == Origin::Cache
            })
            .await;
        }
    }
}

async fn a_transaction_sees_its_own_writes_and_nobody_else_does_before_the_commit<DB: Tested>(
    world: &World<DB>,
) {
    own_writes::<Item, DB>(world).await;
    own_writes::<Through, DB>(world).await;
}

async fn own_writes<R: Row, DB: Tested>(world: &World<DB>) {
    let rows = Both::<R, DB>::of(world).await;
    rows.here.insert(&R::row(1, "old")).await.unwrap();
    rows.here.insert(&R::row(2, "doomed")).await.unwrap();
    rows.see(3, None).await;
    rows.see(1, Some("old")).await;
    rows.are_warm(1).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    assert_eq!(
        within.update(&R::row(1, "new")).await.unwrap().name(),
        "new"
    );
    within.delete_row(&R::row(2, "doomed")).await.unwrap();
    within.insert(&R::row(3, "born")).await.unwrap();
    assert_eq!(within.find(1).await.unwrap().unwrap().name(), "new");
    assert_eq!(within.find(2).await.unwrap(), None);
    assert!(within.exists(3).await.unwrap());
    if DB::NAME != <Sqlite as sqlx::Database>::NAME {
        // SQLite allows readers during a write too, but not on one connection.
        rows.see(2, Some("doomed")).await;
    }
    rows.see(1, Some("old")).await;
    transaction.commit().await.unwrap();
    rows.see(1, Some("new")).await;
    rows.see(2, None).await;
    rows.see(3, Some("born")).await;
}

async fn a_rollback_leaves_the_cache_as_if_nothing_had_happened<DB: Tested>(world: &World<DB>) {
    rolled_back::<Item, DB>(world).await;
    rolled_back::<Through, DB>(world).await;
}

async fn rolled_back<R: Row, DB: Tested>(world: &World<DB>) {
    let rows = Both::<R, DB>::of(world).await;
    rows.here.insert(&R::row(1, "old")).await.unwrap();
    rows.see(1, Some("old")).await;
    rows.are_warm(1).await;
    let begun = world.faults.calls(Operation::Begin);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    within.update(&R::row(1, "new")).await.unwrap();
    within.insert(&R::row(2, "other")).await.unwrap();
    transaction.rollback().await.unwrap();
    let outcome = rows.here.find_outcome(1).await.unwrap();
    assert_eq!(outcome.row.unwrap().name(), "old");
    assert_eq!(outcome.origin, Origin::Cache, "the entry is still there");
    assert_eq!(
        world.faults.calls(Operation::Begin),
        begun,
        "nothing was announced"
    );
    rows.see(2, None).await;
}

async fn a_savepoint_takes_its_writes_along_when_it_is_rolled_back<DB: Tested>(world: &World<DB>) {
    savepoints::<Item, DB>(world).await;
    savepoints::<Through, DB>(world).await;
}

async fn savepoints<R: Row, DB: Tested>(world: &World<DB>) {
    let rows = Both::<R, DB>::of(world).await;
    for id in 1..=3 {
        rows.here.insert(&R::row(id, "old")).await.unwrap();
        rows.see(id, Some("old")).await;
        rows.are_warm(id).await;
    }
    // A savepoint that is rolled back, and one that is dropped, in a transaction that is committed.
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&R::row(1, "outer"))
        .await
        .unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    rows.here
        .within(&mut savepoint)
        .update(&R::row(1, "inner"))
        .await
        .unwrap();
    rows.here
        .within(&mut savepoint)
        .update(&R::row(2, "inner"))
        .await
        .unwrap();
    savepoint.rollback().await.unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    rows.here
        .within(&mut savepoint)
        .update(&R::row(2, "inner"))
        .await
        .unwrap();
    drop(savepoint);
    let mut savepoint = transaction.savepoint().await.unwrap();
    rows.here
        .within(&mut savepoint)
        .update(&R::row(3, "inner"))
        .await
        .unwrap();
    savepoint.commit().await.unwrap();
    transaction.commit().await.unwrap();
    let kept = rows.here.find_outcome(2).await.unwrap();
    assert_eq!(
        kept.origin,
        Origin::Cache,
        "what was rolled back was never announced"
    );
    rows.see(1, Some("outer")).await;
    rows.see(2, Some("old")).await;
    rows.see(3, Some("inner")).await;
    // A savepoint that is committed, in a transaction that is rolled back.
    rows.are_warm(1).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    rows.here
        .within(&mut savepoint)
        .update(&R::row(1, "never"))
        .await
        .unwrap();
    savepoint.commit().await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(
        rows.here.find_outcome(1).await.unwrap().origin,
        Origin::Cache
    );
    rows.see(1, Some("outer")).await;
}

async fn a_reader_between_statement_and_commit_caches_no_old_row<DB: Tested>(world: &World<DB>) {
    assert_eq!(read_before_commit::<Item, DB>(world).await, "new");
    assert_eq!(read_before_commit::<Through, DB>(world).await, "new");
}

async fn without_the_intent_a_reader_before_the_commit_caches_the_old_row<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::Intent);
    world.faults.leave_out(Mechanism::End);
    assert_eq!(read_before_commit::<Item, DB>(world).await, "old");
}

/// Without intents, a reader reads the old row after the statement and caches it before the commit.
async fn read_before_commit<R: Row, DB: Tested>(world: &World<DB>) -> String {
    let rows = Both::<R, DB>::of(world).await;
    world.put(&Item::new(1, "old")).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&R::row(1, "new"))
        .await
        .unwrap();
    rows.see(1, Some("old")).await;
    rows.are_warm(1).await;
    transaction.commit().await.unwrap();
    let row = rows.there.find(1).await.unwrap().unwrap();
    row.name().to_owned()
}

async fn raw_statements_are_seen_when_their_rows_are_marked<DB: Tested>(world: &World<DB>) {
    let rows = Both::<Item, DB>::of(world).await;
    for id in 1..=4 {
        rows.here.insert(&Item::new(id, "old")).await.unwrap();
        rows.see(id, Some("old")).await;
        rows.are_warm(id).await;
    }
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    raw(&mut transaction, "UPDATE items SET name = 'raw'").await;
    let mut within = rows.here.within(&mut transaction);
    within.mark_changed(1).unwrap();
    within.mark_many_changed(&[2, 3]).unwrap();
    transaction.commit().await.unwrap();
    for id in 1..=3 {
        rows.see(id, Some("raw")).await;
    }
    // This row was not marked.
    rows.see(4, Some("old")).await;
}

/// A statement changes unknown rows, in a transaction and without larder. Rows of other entities stay.
async fn raw_statements_over_unknown_rows_are_seen_when_all_are_marked<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Both::<Item, DB>::of(world).await;
    // In the same namespace, another entity over the table would be told.
    let apart = world.cache.with_namespace(unique("apart")).unwrap();
    let others = Repository::<Through, DB>::new(&apart, world.pool.clone());
    let old: Vec<_> = (1..=3).map(|id| Item::new(id, "old")).collect();
    rows.here.insert_many(&old).await.unwrap();
    rows.see(4, None).await;
    for id in 1..=3 {
        rows.see(id, Some("old")).await;
        rows.are_warm(id).await;
    }
    others.find(1).await.unwrap().unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .mark_all_changed()
        .unwrap();
    raw(
        &mut transaction,
        "UPDATE items SET name = 'raw' WHERE id < 3",
    )
    .await;
    raw(
        &mut transaction,
        "INSERT INTO items (id, name, quantity) VALUES (4, 'raw', 1)",
    )
    .await;
    transaction.commit().await.unwrap();
    for (id, name) in [(1, "raw"), (2, "raw"), (3, "old"), (4, "raw")] {
        rows.see(id, Some(name)).await;
        rows.are_warm(id).await;
    }
    let other = others.find_outcome(1).await.unwrap();
    assert_eq!(
        (other.origin, other.row.unwrap().name.as_str()),
        (Origin::Cache, "old")
    );
    world.sql("UPDATE items SET name = 'past larder'").await;
    rows.see(1, Some("raw")).await;
    rows.here.invalidate_all().await.unwrap();
    rows.see(1, Some("past larder")).await;
}

pub(crate) async fn raw<DB: Tested>(transaction: &mut Transaction<'_, DB>, text: &'static str) {
    DB::run(transaction.connection(), sqlx::SqlStr::from_static(text))
        .await
        .unwrap();
}

/// A raw statement changes the row after larder's write, which larder does not see.
async fn raw_statements_cancel_earlier_cache_updates<DB: Tested>(world: &World<DB>) {
    let rows = Both::<Through, DB>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Through::new(1, "written"))
        .await
        .unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    raw(&mut savepoint, "UPDATE items SET name = 'raw'").await;
    savepoint.commit().await.unwrap();
    transaction.commit().await.unwrap();
    rows.see(1, Some("raw")).await;
}

async fn callbacks_run_after_the_cache_was_updated<DB: Tested>(world: &World<DB>) {
    let rows = Both::<Item, DB>::of(world).await;
    rows.here.insert(&Item::new(1, "old")).await.unwrap();
    rows.see(1, Some("old")).await;
    let (seen, seeing) = tokio::sync::oneshot::channel();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Item::new(1, "new"))
        .await
        .unwrap();
    let ends = world.faults.calls(Operation::End);
    let (there, faults) = (rows.there.clone(), world.faults.clone());
    let mut savepoint = transaction.savepoint().await.unwrap();
    savepoint.after_commit(async move {
        let ended = faults.calls(Operation::End) - ends;
        seen.send((ended, there.find(1).await.unwrap().unwrap().name.clone()))
            .unwrap();
    });
    savepoint.commit().await.unwrap();
    let forgotten = Arc::new(AtomicUsize::new(0));
    let mut savepoint = transaction.savepoint().await.unwrap();
    let counter = Arc::clone(&forgotten);
    savepoint.after_commit(async move {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(seeing.await.unwrap(), (1, "new".to_owned()));
    assert_eq!(
        forgotten.load(Ordering::SeqCst),
        0,
        "what was rolled back calls nobody"
    );
}

async fn a_callback_that_panics_undoes_neither_the_commit_nor_the_next_callback<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Both::<Item, DB>::of(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .insert(&Item::new(1, "kept"))
        .await
        .unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&called);
    transaction.after_commit(async { panic!("on purpose") });
    transaction.after_commit(async move {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    transaction.commit().await.unwrap();
    rows.see(1, Some("kept")).await;
    assert_eq!(called.load(Ordering::SeqCst), 1);
}

async fn reads_in_a_transaction_fill_nothing_and_a_failed_statement_switches_nothing_off<
    DB: Tested,
>(
    world: &World<DB>,
) {
    let rows = Both::<Item, DB>::of(world).await;
    world.put(&Item::new(1, "one")).await;
    world.put(&Item::new(2, "two")).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    within.find(1).await.unwrap().unwrap();
    assert_eq!(within.find(3).await.unwrap(), None);
    let error = within.insert(&Item::new(2, "again")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    let error = within.update(&Item::new(9, "nobody")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(within.find(2).await.unwrap().unwrap().name, "two");
    transaction.commit().await.unwrap();
    let stats = rows.here.stats();
    assert_eq!(
        (stats.loads, stats.fills_accepted),
        (0, 0),
        "the cache was neither asked nor filled"
    );
    rows.see(1, Some("one")).await;
    rows.are_warm(1).await;
    rows.see(2, Some("two")).await;
    rows.are_warm(2).await;
}

async fn a_transaction_that_is_dropped_is_rolled_back<DB: Tested>(world: &World<DB>) {
    let rows = Both::<Item, DB>::of(world).await;
    rows.here.insert(&Item::new(1, "old")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Item::new(1, "new"))
        .await
        .unwrap();
    drop(transaction);
    rows.see(1, Some("old")).await;
    rows.are_warm(1).await;
}

async fn a_commit_whose_caller_is_gone_runs_to_its_end<DB: Tested>(world: &World<DB>) {
    // Dropped while the intents are placed, and while they are ended.
    for operation in [Operation::Begin, Operation::End] {
        let rows = Both::<Item, DB>::of(world).await;
        rows.here.insert(&Item::new(1, "old")).await.unwrap();
        rows.see(1, Some("old")).await;
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        rows.here
            .within(&mut transaction)
            .update(&Item::new(1, "new"))
            .await
            .unwrap();
        let (done, ended) = tokio::sync::oneshot::channel();
        transaction.after_commit(async move { done.send(()).unwrap() });
        let pause = world.faults.pause(operation);
        let commit = tokio::spawn(transaction.commit());
        pause.reached().await;
        commit.abort();
        assert!(commit.await.unwrap_err().is_cancelled());
        pause.resume();
        ended.await.expect("the commit was carried out");
        rows.see(1, Some("new")).await;
        rows.are_warm(1).await;
    }
}

/// It is unknown whether the statement was executed, and so which key it has changed. To continue could leave an old row
/// cached.
async fn a_statement_dropped_half_way_can_only_be_rolled_back(world: &World<Postgres>) {
    let rows = Both::<Item, Postgres>::of(world).await;
    rows.here.insert(&Item::new(1, "old")).await.unwrap();
    rows.see(1, Some("old")).await;
    let outside = world.database.outside_pool().await;
    let lock = lock_row(&outside).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    tokio::select! {
        biased;
        written = async {
            let mut within = rows.here.within(&mut transaction);
            within.update(&Item::new(1, "new")).await
        } => panic!("the row is locked: {written:?}"),
        () = held_up(&outside) => {}
    }
    let error = rows
        .here
        .within(&mut transaction)
        .find(1)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransactionAborted, "{error}");
    assert!(
        error.to_string().contains("roll the transaction back"),
        "{error}"
    );
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransactionAborted);
    lock.rollback().await.unwrap();
    rows.see(1, Some("old")).await;
}

async fn a_batch_in_a_transaction_is_all_or_nothing<DB: Tested>(world: &World<DB>) {
    let rows = Both::<Item, DB>::of(world).await;
    let old: Vec<_> = (1..=3).map(|id| Item::new(id, "old")).collect();
    rows.here.insert_many(&old).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    let changed = [
        Item::new(1, "new"),
        Item::new(9, "nobody"),
        Item::new(2, "new"),
    ];
    let error = within.update_many(&changed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    within.update_many(&[Item::new(3, "new")]).await.unwrap();
    transaction.commit().await.unwrap();
    rows.see(1, Some("old")).await;
    rows.see(2, Some("old")).await;
    rows.see(3, Some("new")).await;
}

/// After a failed statement, Postgres answers a commit with a rollback, and with no error.
async fn a_commit_that_postgres_answers_with_a_rollback_is_an_error(world: &World<Postgres>) {
    let rows = Both::<Through, Postgres>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    within.update(&Through::new(1, "new")).await.unwrap();
    within.insert(&Through::new(1, "again")).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    rows.see(1, Some("old")).await;
}

async fn a_commit_whose_outcome_is_unknown_keeps_its_rows_uncached(world: &World<Postgres>) {
    let rows = Both::<Through, Postgres>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    rows.see(1, Some("old")).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Through::new(1, "new"))
        .await
        .unwrap();
    let cut = world.database.proxy().cut(Point::BeforeReply, "COMMIT");
    let error = transaction.commit().await.unwrap_err();
    cut.sprung().await;
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
    let key = rows.here.key(1).unwrap();
    let left = world.cache.store().remaining_ms(&key).await.unwrap();
    assert!(left.expect("the intent stands") <= 10_000);
    for _ in 0..3 {
        let outcome = rows.there.find_outcome(1).await.unwrap();
        assert_eq!(outcome.origin, Origin::Database);
    }
}

of_items! {
    #[cached(intent(ttl = "2s"))]
    struct Hasty
}

impl Row for Hasty {
    fn row(id: i64, name: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            note: None,
            quantity: 1,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// If a process stops between its intents and its commit, the database ends the transaction before the intents expire.
async fn a_transaction_that_is_idle_at_its_commit_is_given_up_by_the_database<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Both::<Hasty, DB>::of(world).await;
    rows.here.insert(&Hasty::row(1, "old")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Hasty::row(1, "new"))
        .await
        .unwrap();
    // As long as the intent TTL. This sleep is the fault itself.
    world.faults.at(larder::store::Point::BeforeCommit, || {
        std::thread::sleep(Duration::from_secs(2));
    });
    let error = transaction.commit().await.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Database | ErrorKind::OutcomeUnknown
        ),
        "{error:?}"
    );
    assert_eq!(
        rows.here.find_uncached(1).await.unwrap().unwrap().name,
        "old"
    );
}

/// The settings of the session for a commit are reset before the connection returns to its pool.
async fn a_session_is_as_it_was_after_a_commit<DB: Tested>(world: &World<DB>) {
    let limits = if DB::NAME == <Postgres as sqlx::Database>::NAME {
        "SELECT current_setting('idle_in_transaction_session_timeout') || current_setting('statement_timeout')"
    } else {
        "SELECT CAST(@@SESSION.wait_timeout AS CHAR)"
    };
    let rows = Both::<Item, DB>::of(world).await;
    let before = world.text(limits).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .insert(&Item::new(1, "one"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    for _ in 0..world.pool.options().get_max_connections() {
        assert_eq!(world.text(limits).await, before);
    }
    rows.see(1, Some("one")).await;
}

/// The reply to the commit is held for longer than the intent TTL.
async fn intents_are_renewed_while_a_commit_takes_long(world: &World<Postgres>) {
    let rows = Both::<Hasty, Postgres>::of(world).await;
    rows.here.insert(&Hasty::row(1, "old")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Hasty::row(1, "new"))
        .await
        .unwrap();
    let begun = world.faults.calls(Operation::Begin);
    let held = world.database.proxy().hold(Point::BeforeReply, "COMMIT");
    let commit = tokio::spawn(transaction.commit());
    held.sprung().await;
    eventually("the intent is placed and renewed", async || {
        world.faults.calls(Operation::Begin) >= begun + 3
    })
    .await;
    held.release();
    commit.await.unwrap().unwrap();
    rows.see(1, Some("new")).await;
}

/// On Postgres a commit has no time-out. So deferred triggers run before it, in a statement that has one.
async fn a_deferred_trigger_that_outlives_the_intent_fails_the_commit(world: &World<Postgres>) {
    world.sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; END'").await;
    world.sql("CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()").await;
    let rows = Both::<Hasty, Postgres>::of(world).await;
    rows.here.insert(&Hasty::row(1, "old")).await.unwrap();
    let outside = world.database.outside_pool().await;
    let mut holder = outside.acquire().await.unwrap();
    holder
        .execute("SELECT pg_advisory_lock(4711)")
        .await
        .unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Hasty::row(1, "new"))
        .await
        .unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    holder
        .execute("SELECT pg_advisory_unlock(4711)")
        .await
        .unwrap();
    rows.see(1, Some("old")).await;
}

/// A deadlock rolls back the whole transaction. Later statements would commit one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_mysql_has_rolled_back_cannot_continue() {
    let world = World::<MySql>::open(Kind::Memory).await;
    let rows = Both::<Item, MySql>::of(&world).await;
    rows.here
        .insert_many(&[Item::new(1, "old"), Item::new(2, "old")])
        .await
        .unwrap();
    let mut first = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut first)
        .update(&Item::new(1, "first"))
        .await
        .unwrap();
    let mut second = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut second)
        .update(&Item::new(2, "second"))
        .await
        .unwrap();
    let other = rows.here.clone();
    let crossing = tokio::spawn(async move {
        let written = other
            .within(&mut first)
            .update(&Item::new(2, "first"))
            .await;
        (first, written)
    });
    let written = rows
        .here
        .within(&mut second)
        .update(&Item::new(1, "second"))
        .await;
    // The database rolls back one of the two, and grants the lock of the other.
    let (victim, survivor) = match written {
        Err(_) => (second, crossing.await.unwrap().0),
        Ok(_) => (crossing.await.unwrap().0, second),
    };
    let mut victim = victim;
    let error = rows.here.within(&mut victim).find(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransactionAborted, "{error}");
    assert!(error.to_string().contains("deadlock"), "{error}");
    assert_eq!(
        victim.commit().await.unwrap_err().kind(),
        ErrorKind::TransactionAborted
    );
    survivor.commit().await.unwrap();
    let (one, two) = (
        rows.here.find(1).await.unwrap(),
        rows.here.find(2).await.unwrap(),
    );
    assert_eq!(one.unwrap().name, two.unwrap().name, "the survivor's");
    world.database.close().await;
}
