//! Lost transactions: the database has rolled them back, or it is unknown which statements were executed.
//!
//! Later statements would commit by themselves, one by one, without a rollback. So larder refuses them. If larder cannot
//! know (a raw statement failed), the cache must at least agree with the database.
//!
//! Not here: a lost connection (`transaction`), and a lost process (`crash`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use larder::{Backend, Cached, Error, ErrorKind, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, SqlStr, Sqlite};

use crate::{
    entities::Through,
    transaction::{Both, raw},
    world::{Tested, World, everywhere, on_both_stores, on_mysql, on_postgres},
};

everywhere!(a_savepoint_dropped_before_it_began_ends_its_transaction,);
on_postgres!(
    a_savepoint_that_is_refused_ends_its_transaction,
    a_commit_of_raw_statements_that_is_answered_with_a_rollback_is_an_error,
    a_commit_after_nothing_but_a_failed_statement_is_an_error,
    a_write_whose_row_cannot_be_read_drops_its_entry,
);
on_both_stores!(
    a_transaction_that_a_trigger_has_rolled_back_cannot_continue,
    a_connection_whose_transaction_a_trigger_has_rolled_back_is_as_good_as_before,
    a_row_that_cannot_be_read_by_index_was_written_all_the_same,
);
on_mysql!(
    a_transaction_that_its_snapshot_has_ended_cannot_continue,
    a_beginning_that_is_dropped_leaves_no_transaction,
    a_deadlock_of_a_raw_statement_leaves_no_row_that_the_database_does_not_hold,
);

mod a_batch_dropped_half_way_is_undone_and_nothing_commits_by_itself {
    crate::world::case!(
        a_batch_dropped_half_way_is_undone_and_nothing_commits_by_itself,
        postgres,
        Memory,
        Postgres
    );
    crate::world::case!(
        a_batch_dropped_half_way_is_undone_and_nothing_commits_by_itself,
        sqlite,
        Memory,
        Sqlite
    );
    crate::world::case!(
        a_batch_dropped_half_way_is_undone_and_nothing_commits_by_itself,
        mysql,
        Memory,
        MySql
    );
}

/// Runs a future, and drops it when it has waited `waits` times. Returns `None` if it was dropped.
pub(crate) async fn dropped_after<T>(waits: u32, future: impl Future<Output = T>) -> Option<T> {
    let patience = async {
        for _ in 0..waits {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = future => Some(done),
        () = patience => None,
    }
}

fn is_aborted<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::TransactionAborted)
}

/// Inserts three rows after `base`. Returns a transaction that has changed the first one.
async fn begun<DB: Tested>(
    world: &World<DB>,
    rows: &Both<Through, DB>,
    base: i64,
) -> Transaction<'static, DB> {
    rows.here
        .insert_many(&[1, 2, 3].map(|id| Through::new(base + id, "old")))
        .await
        .unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Through::new(base + 1, "first"))
        .await
        .unwrap();
    transaction
}

/// After a failed statement, Postgres rejects all others. The batch begins a savepoint, which fails, and sqlx rolls back.
async fn a_savepoint_that_is_refused_ends_its_transaction(world: &World<Postgres>) {
    let rows = Both::<Through, Postgres>::of(world).await;
    let mut transaction = begun(world, &rows, 0).await;
    let mut within = rows.here.within(&mut transaction);
    let error = within.insert(&Through::new(2, "again")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
    within
        .insert_many(&[Through::new(4, "new")])
        .await
        .unwrap_err();
    let written = within.update(&Through::new(2, "second")).await;
    assert!(is_aborted(&written), "{written:?}");
    transaction.rollback().await.unwrap();
    for id in 1..=3 {
        assert_eq!(rows.agree(id).await.as_deref(), Some("old"));
    }
}

async fn a_savepoint_dropped_before_it_began_ends_its_transaction<DB: Tested>(world: &World<DB>) {
    for commits in [true, false] {
        // SQLite may answer before the first wait. Then the savepoint has begun, and there is another round.
        while !savepoint_is_dropped(world, commits).await {}
    }
}

/// Begins a savepoint, drops its future at the first wait, and continues. Returns whether it was dropped before it began.
async fn savepoint_is_dropped<DB: Tested>(world: &World<DB>, commits: bool) -> bool {
    let rows = Both::<Through, DB>::of(world).await;
    let mut transaction = begun(world, &rows, 0).await;
    let was_dropped = dropped_after(0, transaction.savepoint()).await.is_none();
    let mut within = rows.here.within(&mut transaction);
    let written = within.update(&Through::new(2, "second")).await;
    assert_eq!(is_aborted(&written), was_dropped, "{written:?}");
    let (mut first, mut second) = ("old", "old");
    if commits {
        let committed = transaction.commit().await;
        assert_eq!(is_aborted(&committed), was_dropped, "{committed:?}");
        if committed.is_ok() {
            (first, second) = ("first", "second");
        }
    } else {
        transaction.rollback().await.unwrap();
    }
    assert_eq!(rows.agree(1).await.as_deref(), Some(first));
    assert_eq!(rows.agree(2).await.as_deref(), Some(second));
    was_dropped
}

/// At every step: when its savepoint begins, when its rows are written, when its savepoint ends.
async fn a_batch_dropped_half_way_is_undone_and_nothing_commits_by_itself<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Both::<Through, DB>::of(world).await;
    let mut drops = 0;
    for waits in 0..40 {
        // Each round has rows of its own, so that entries of another round do not hide a fault of this one.
        let base = 10 * i64::from(waits);
        let mut transaction = begun(world, &rows, base).await;
        let batch = [4, 5].map(|id| Through::new(base + id, "batch"));
        let mut within = rows.here.within(&mut transaction);
        let inserted = dropped_after(waits, within.insert_many(&batch)).await;
        let was_dropped = inserted.is_none();
        drops += u32::from(was_dropped);
        let written = rows
            .here
            .within(&mut transaction)
            .update(&Through::new(base + 3, "third"))
            .await;
        let early = rows.agree(base + 3).await;
        let committed = transaction.commit().await;
        let case = format!("{waits} waits, dropped {was_dropped}, {written:?}, {committed:?}");
        assert_eq!(early.as_deref(), Some("old"), "{case}");
        let expected = |is_applied: bool, name| Some(if is_applied { name } else { "old" });
        let is_committed = committed.is_ok();
        for (id, name) in [
            (1, expected(is_committed, "first")),
            (2, Some("old")),
            (3, expected(is_committed && written.is_ok(), "third")),
            (4, (is_committed && !was_dropped).then_some("batch")),
            (5, (is_committed && !was_dropped).then_some("batch")),
        ] {
            assert_eq!(rows.agree(base + id).await.as_deref(), name, "{id}: {case}");
        }
    }
    assert!(drops > 0, "none was dropped in time");
}

async fn a_transaction_that_a_trigger_has_rolled_back_cannot_continue(world: &World<Sqlite>) {
    world
        .raw("CREATE TRIGGER refuse BEFORE INSERT ON items WHEN NEW.name = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END")
        .await;
    let rows = Both::<Through, Sqlite>::of(world).await;
    let mut transaction = begun(world, &rows, 0).await;
    let mut within = rows.here.within(&mut transaction);
    within.insert(&Through::new(4, "bad")).await.unwrap_err();
    let written = within.update(&Through::new(2, "second")).await;
    assert!(is_aborted(&written), "{written:?}");
    let committed = transaction.commit().await;
    assert!(is_aborted(&committed), "{committed:?}");
    for id in 1..=3 {
        assert_eq!(rows.agree(id).await.as_deref(), Some("old"));
    }
}

/// How a transaction ends after the database has rolled it back.
#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    Rollback,
    Drop,
}

/// sqlx counts transactions, and does not notice that SQLite has ended one.
async fn a_connection_whose_transaction_a_trigger_has_rolled_back_is_as_good_as_before(
    world: &World<Sqlite>,
) {
    world
        .raw("CREATE TRIGGER refuse BEFORE INSERT ON items WHEN NEW.name = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END")
        .await;
    let rows = Both::<Through, Sqlite>::of(world).await;
    let pool = world.pool.options().clone().max_connections(1);
    let pool = pool.connect_lazy_with((*world.pool.connect_options()).clone());
    let bad = Through::new(4, "bad");
    // larder does not see a raw statement, and a transaction that is dropped returns nothing.
    for (is_raw, ends) in [
        (false, &[End::Commit, End::Rollback, End::Drop][..]),
        (true, &[End::Commit, End::Rollback]),
    ] {
        for in_savepoint in [false, true] {
            for end in ends {
                let case = format!("raw {is_raw}, in a savepoint {in_savepoint}, {end:?}");
                let mut transaction = Transaction::begin(&pool).await.unwrap();
                let first = Through::new(1, "first");
                let within = rows.here.within(&mut transaction).insert(&first).await;
                within.unwrap();
                if in_savepoint {
                    let mut savepoint = transaction.savepoint().await.unwrap();
                    fail(&mut savepoint, &rows, &bad, is_raw).await;
                    finish(savepoint, *end, &case).await;
                } else {
                    fail(&mut transaction, &rows, &bad, is_raw).await;
                }
                finish(transaction, *end, &case).await;
                let begun = Transaction::begin_with(&pool, "BEGIN IMMEDIATE").await;
                let mut begun = begun.expect(&case);
                let second = Through::new(2, &case);
                rows.here.within(&mut begun).save(&second).await.unwrap();
                begun.commit().await.unwrap();
                assert_eq!(rows.agree(1).await, None, "{case}");
                assert_eq!(rows.agree(2).await.as_ref(), Some(&case));
            }
        }
    }
    pool.close().await;
}

async fn fail(
    transaction: &mut Transaction<'_, Sqlite>,
    rows: &Both<Through, Sqlite>,
    bad: &Through,
    is_raw: bool,
) {
    if is_raw {
        let insert = "INSERT INTO items VALUES (4, 'bad', NULL, 1)";
        let insert = SqlStr::from_static(insert);
        let refused = Sqlite::run(transaction.connection(), insert).await;
        refused.unwrap_err();
    } else {
        let refused = rows.here.within(transaction).insert(bad).await;
        refused.unwrap_err();
    }
}

async fn finish(transaction: Transaction<'_, Sqlite>, end: End, case: &str) {
    match end {
        End::Commit => {
            let committed = transaction.commit().await;
            assert!(is_aborted(&committed), "{case}: {committed:?}");
        }
        End::Rollback => transaction.rollback().await.expect(case),
        End::Drop => drop(transaction),
    }
}

/// With snapshot isolation (the default from 11.6 on), MariaDB rolls back if a statement meets a row newer than its
/// snapshot.
async fn a_transaction_that_its_snapshot_has_ended_cannot_continue(world: &World<MySql>) {
    let rows = Both::<Through, MySql>::of(world).await;
    rows.here
        .insert_many(&[Through::new(1, "old"), Through::new(2, "old")])
        .await
        .unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    raw(
        &mut transaction,
        "SET SESSION innodb_snapshot_isolation = ON",
    )
    .await;
    let mut within = rows.here.within(&mut transaction);
    within.find(1).await.unwrap();
    rows.here.update(&Through::new(1, "other")).await.unwrap();
    within.update(&Through::new(1, "mine")).await.unwrap_err();
    let written = within.update(&Through::new(2, "second")).await;
    assert!(is_aborted(&written), "{written:?}");
    transaction.rollback().await.unwrap();
    assert_eq!(rows.agree(1).await.as_deref(), Some("other"));
    assert_eq!(rows.agree(2).await.as_deref(), Some("old"));
}

/// Returns a pool with one connection, which is open already.
pub(crate) async fn lone_connection(world: &World<MySql>) -> sqlx::Pool<MySql> {
    let pool = world.pool.options().clone().max_connections(1);
    let pool = pool.connect_with((*world.pool.connect_options()).clone());
    pool.await.unwrap()
}

/// Returns whether the pool's next connection is in a transaction.
pub(crate) async fn is_in_transaction(pool: &sqlx::Pool<MySql>) -> bool {
    let asked = sqlx::query_scalar::<_, i64>("SELECT CAST(@@in_transaction AS SIGNED)");
    asked.fetch_one(pool).await.unwrap() != 0
}

/// Otherwise the next user's writes on the connection would not be committed.
async fn a_beginning_that_is_dropped_leaves_no_transaction(world: &World<MySql>) {
    let pool = lone_connection(world).await;
    for own_words in [false, true] {
        let (mut drops, mut ends, mut waits) = (0, 0, 0);
        while ends < 3 || drops < 10 {
            let begun = async {
                let begun = if own_words {
                    Transaction::begin_with(&pool, "BEGIN").await
                } else {
                    Transaction::begin(&pool).await
                };
                begun.unwrap().rollback().await.unwrap();
            };
            match dropped_after(waits, begun).await {
                Some(()) => {
                    ends += 1;
                    waits = 0;
                }
                None => {
                    drops += 1;
                    waits += 1 + waits / 20;
                }
            }
            assert!(!is_in_transaction(&pool).await, "dropped {drops}");
        }
    }
    pool.close().await;
}

/// larder does not see that the raw statement failed, so the next write runs without a transaction.
async fn a_deadlock_of_a_raw_statement_leaves_no_row_that_the_database_does_not_hold(
    world: &World<MySql>,
) {
    let rows = Both::<Through, MySql>::of(world).await;
    let old: Vec<_> = (1..=9).map(|id| Through::new(id, "old")).collect();
    rows.here.insert_many(&old).await.unwrap();
    let mut victim = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut victim)
        .update(&Through::new(1, "victim"))
        .await
        .unwrap();
    // The database rolls back the transaction that has changed fewer rows, whichever causes the deadlock.
    let mut survivor = Transaction::begin(&world.pool).await.unwrap();
    let most: Vec<_> = (2..=8).map(|id| Through::new(id, "survivor")).collect();
    let mut within = rows.here.within(&mut survivor);
    within.update_many(&most).await.unwrap();
    let crossing = tokio::spawn({
        let here = rows.here.clone();
        async move {
            let mut within = here.within(&mut survivor);
            within.update(&Through::new(1, "survivor")).await.unwrap();
            survivor
        }
    });
    let text = SqlStr::from_static("UPDATE items SET name = 'victim' WHERE id = 2");
    MySql::run(victim.connection(), text).await.unwrap_err();
    crossing.await.unwrap().rollback().await.unwrap();
    let mut within = rows.here.within(&mut victim);
    let _written = within.update(&Through::new(9, "victim")).await;
    victim.rollback().await.unwrap();
    rows.agree(9).await;
    assert_eq!(rows.agree(1).await.as_deref(), Some("old"));
    assert_eq!(rows.agree(2).await.as_deref(), Some("old"));
}

/// A raw statement has succeeded, and one of larder has failed. Nothing is announced, and nothing was committed.
async fn a_commit_of_raw_statements_that_is_answered_with_a_rollback_is_an_error(
    world: &World<Postgres>,
) {
    let rows = Both::<Through, Postgres>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    raw(
        &mut transaction,
        "INSERT INTO items (id, name, quantity) VALUES (2, 'raw', 1)",
    )
    .await;
    let called = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&called);
    transaction.after_commit(async move {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let mut within = rows.here.within(&mut transaction);
    within.insert(&Through::new(1, "again")).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    assert_eq!(called.load(Ordering::SeqCst), 0);
    assert_eq!(rows.agree(2).await, None);
}

/// Nothing was written and nothing is announced, but the caller must get the right result.
async fn a_commit_after_nothing_but_a_failed_statement_is_an_error(world: &World<Postgres>) {
    let rows = Both::<Through, Postgres>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    world
        .raw("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'")
        .await;
    for what in ["insert", "find", "delete"] {
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        let mut within = rows.here.within(&mut transaction);
        match what {
            "insert" => drop(within.insert(&Through::new(1, "again")).await.unwrap_err()),
            "find" => {
                world.sql("ALTER TABLE items RENAME TO hidden").await;
                within.find(1).await.unwrap_err();
                world.sql("ALTER TABLE hidden RENAME TO items").await;
            }
            _ => {
                world
                    .sql("CREATE TRIGGER no BEFORE DELETE ON items EXECUTE FUNCTION no()")
                    .await;
                within.delete(1).await.unwrap_err();
            }
        }
        let committed = transaction.commit().await;
        let error = committed.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Database, "{what}: {error}");
    }
    // A savepoint that is rolled back takes the failed statement with it.
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    let mut within = rows.here.within(&mut savepoint);
    within.insert(&Through::new(1, "again")).await.unwrap_err();
    savepoint.rollback().await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    within.insert(&Through::new(2, "new")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(rows.agree(2).await.as_deref(), Some("new"));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items", strategy = "write_through")]
struct Noted {
    #[cached(id)]
    id: i64,
    name: String,
    note: String,
    quantity: i64,
}

/// The statement fails for its caller, but it was executed. The commit must not leave the old row in the cache.
async fn a_write_whose_row_cannot_be_read_drops_its_entry(world: &World<Postgres>) {
    world.sql("CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.note = ''bad'' THEN NEW.note := NULL; END IF; RETURN NEW; END'").await;
    world
        .sql("CREATE TRIGGER forget BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION forget()")
        .await;
    let rows = Noted::repository(&world.cache, world.pool.clone());
    let row = |name: &str, note: &str| Noted {
        id: 1,
        name: name.to_owned(),
        note: note.to_owned(),
        quantity: 1,
    };
    rows.insert(&row("old", "good")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.within(&mut transaction);
    let error = within.update(&row("new", "bad")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    transaction.commit().await.unwrap();
    assert_eq!(world.text("SELECT name FROM items").await, "new");
    let error = rows.find(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
}

/// A row that is read by column index, with one index too many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Cached)]
#[cached(table = "items", strategy = "write_through")]
struct ByIndex {
    #[cached(id)]
    id: i64,
    name: String,
    note: Option<String>,
    quantity: i64,
}

impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for ByIndex
where
    usize: sqlx::ColumnIndex<R>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            name: row.try_get(9)?,
            note: None,
            quantity: 1,
        })
    }
}

async fn a_row_that_cannot_be_read_by_index_was_written_all_the_same(world: &World<Sqlite>) {
    let rows = ByIndex::repository(&world.cache, world.pool.clone());
    let row = ByIndex {
        id: 1,
        name: "written".to_owned(),
        note: None,
        quantity: 1,
    };
    let error = rows.insert(&row).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    assert_eq!(world.text("SELECT name FROM items").await, "written");
    let error = rows.find(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
}
