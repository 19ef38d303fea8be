//! Write-through: when the write returns, the row is in the cache as the database has it, and never an older one.

use larder::{
    Cached, ErrorKind, Origin, Transaction,
    store::{Mechanism, faulty::Operation},
};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres};

use crate::{
    entities::{Item, Through, ThroughRepository, of_items},
    world::{Tested, World, everywhere, on_both_stores, on_mysql},
};

everywhere!(
    a_written_row_is_served_from_the_cache_to_everybody,
    a_deleted_row_is_known_to_be_absent,
    what_the_database_computes_is_what_is_cached,
    a_committed_transaction_leaves_its_last_rows_in_the_cache,
    a_batch_leaves_its_rows_in_the_cache,
    a_failed_write_leaves_the_old_row_and_a_typed_error,
);
on_both_stores!(
    a_write_that_matches_no_row_changes_nothing_that_is_read,
    two_writers_that_end_in_the_wrong_order_leave_no_older_row,
    without_the_rule_for_contended_writers_the_older_row_stays,
    a_writer_that_lost_its_intent_leaves_no_cache_update,
    without_the_rule_for_lost_intents_the_older_row_stays,
    without_its_end_a_writer_that_lost_its_intent_leaves_the_old_row,
    rows_that_triggers_change_later_are_dropped,
    without_after_triggers_an_entity_is_cached_as_it_was_returned,
    a_cache_update_expires_like_a_loaded_row,
);

on_mysql!(a_save_that_has_waited_for_a_lock_in_vain_is_not_begun_again);

fn rows<DB: Tested>(world: &World<DB>) -> ThroughRepository<DB> {
    Through::repository(&world.cache, world.pool.clone())
}

async fn elsewhere<DB: Tested>(world: &World<DB>) -> ThroughRepository<DB> {
    Through::repository(&world.cache_elsewhere().await, world.pool.clone())
}

/// Returns the row that a reader in another process gets, which must come from the cache.
async fn cached<DB: Tested>(rows: &ThroughRepository<DB>, id: i64) -> Option<String> {
    let outcome = rows.find_outcome(id).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache, "row {id}");
    outcome.row.map(|row| row.name.clone())
}

async fn a_written_row_is_served_from_the_cache_to_everybody<DB: Tested>(world: &World<DB>) {
    let (here, there) = (rows(world), elsewhere(world).await);
    here.insert(&Through::new(1, "inserted")).await.unwrap();
    assert_eq!(cached(&there, 1).await.as_deref(), Some("inserted"));
    there.update(&Through::new(1, "updated")).await.unwrap();
    assert_eq!(cached(&here, 1).await.as_deref(), Some("updated"));
    here.save(&Through::new(1, "saved")).await.unwrap();
    assert_eq!(cached(&there, 1).await.as_deref(), Some("saved"));
    here.save(&Through::new(2, "new")).await.unwrap();
    assert_eq!(cached(&there, 2).await.as_deref(), Some("new"));
    assert_eq!(here.stats().loads + there.stats().loads, 0);
}

async fn a_deleted_row_is_known_to_be_absent<DB: Tested>(world: &World<DB>) {
    let (here, there) = (rows(world), elsewhere(world).await);
    here.insert(&Through::new(1, "doomed")).await.unwrap();
    here.delete(1).await.unwrap();
    assert_eq!(cached(&there, 1).await, None);
    there.insert(&Through::new(1, "again")).await.unwrap();
    assert_eq!(cached(&here, 1).await.as_deref(), Some("again"));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "prices", strategy = "write_through")]
struct Price {
    #[cached(id)]
    id: i64,
    net: i64,
    #[cached(generated)]
    gross: i64,
    #[cached(generated)]
    currency: String,
    label: String,
}

/// A default, a generated column, and a column that a BEFORE trigger rewrites (not in SQLite, whose triggers cannot).
async fn what_the_database_computes_is_what_is_cached<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE prices (id BIGINT NOT NULL PRIMARY KEY, net BIGINT NOT NULL, gross BIGINT GENERATED ALWAYS AS (net * 2) STORED, currency VARCHAR(3) NOT NULL DEFAULT 'EUR', label VARCHAR(40) NOT NULL)")
        .await;
    let rewrites = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => {
            world
                .sql("CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.label := upper(NEW.label); RETURN NEW; END'")
                .await;
            world
                .sql("CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON prices FOR EACH ROW EXECUTE FUNCTION shout()")
                .await;
            true
        }
        name if name == <MySql as sqlx::Database>::NAME => {
            for event in ["INSERT", "UPDATE"] {
                world
                    .raw(format!("CREATE TRIGGER shout_{event} BEFORE {event} ON prices FOR EACH ROW SET NEW.label = UPPER(NEW.label)"))
                    .await;
            }
            true
        }
        _ => false,
    };
    let label = |text: &str| {
        if rewrites {
            text.to_uppercase()
        } else {
            text.to_owned()
        }
    };
    let here = Price::repository(&world.cache, world.pool.clone());
    let there = Price::repository(&world.cache_elsewhere().await, world.pool.clone());
    let price = |net: i64, text: &str| Price {
        id: 1,
        net,
        gross: -1,
        currency: "???".to_owned(),
        label: text.to_owned(),
    };
    let written = here.insert(&price(10, "new")).await.unwrap();
    let expected = |net: i64, text: &str| Price {
        gross: net * 2,
        currency: "EUR".to_owned(),
        label: label(text),
        ..price(net, text)
    };
    assert_eq!(*written, expected(10, "new"));
    for net in [20, 30] {
        let written = if net == 20 {
            here.update(&price(net, "changed")).await.unwrap()
        } else {
            here.save(&price(net, "changed")).await.unwrap()
        };
        assert_eq!(*written, expected(net, "changed"));
        let outcome = there.find_outcome(1).await.unwrap();
        assert_eq!(outcome.origin, Origin::Cache);
        assert_eq!(outcome.row, Some(written));
        assert_eq!(there.find_uncached(1).await.unwrap(), outcome.row);
    }
}

async fn a_committed_transaction_leaves_its_last_rows_in_the_cache<DB: Tested>(world: &World<DB>) {
    let (here, there) = (rows(world), elsewhere(world).await);
    here.insert(&Through::new(1, "old")).await.unwrap();
    here.insert(&Through::new(2, "old")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = here.within(&mut transaction);
    within.delete(2).await.unwrap();
    within.update(&Through::new(1, "first")).await.unwrap();
    within.update(&Through::new(1, "last")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(cached(&there, 1).await.as_deref(), Some("last"));
    assert_eq!(cached(&there, 2).await, None);
}

/// A batch that fails half-way does not change the cache.
async fn a_batch_leaves_its_rows_in_the_cache<DB: Tested>(world: &World<DB>) {
    let (here, there) = (rows(world), elsewhere(world).await);
    let batch = |name: &str| [Through::new(1, name), Through::new(2, name)];
    here.insert_many(&batch("one")).await.unwrap();
    here.update_many(&batch("two")).await.unwrap();
    let refused = [Through::new(3, "three"), Through::new(2, "three")];
    here.insert_many(&refused).await.unwrap_err();
    assert_eq!(cached(&there, 1).await.as_deref(), Some("two"));
    assert_eq!(cached(&there, 2).await.as_deref(), Some("two"));
    assert_eq!(there.find(3).await.unwrap(), None);
    here.delete_many(&[1, 2]).await.unwrap();
    assert_eq!(cached(&there, 1).await, None);
}

async fn a_failed_write_leaves_the_old_row_and_a_typed_error<DB: Tested>(world: &World<DB>) {
    let (here, there) = (rows(world), elsewhere(world).await);
    world.sql("CREATE UNIQUE INDEX names ON items (name)").await;
    here.insert(&Through::new(1, "one")).await.unwrap();
    here.insert(&Through::new(2, "two")).await.unwrap();
    let error = here.update(&Through::new(1, "two")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    let error = here.insert(&Through::new(3, "two")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert_eq!(there.find(1).await.unwrap().unwrap().name, "one");
    assert_eq!(there.find(3).await.unwrap(), None);
    assert_eq!(here.stats().write_errors, 2);
}

async fn a_write_that_matches_no_row_changes_nothing_that_is_read<DB: Tested>(world: &World<DB>) {
    let (here, there) = (rows(world), elsewhere(world).await);
    assert_eq!(there.find(1).await.unwrap(), None);
    let error = here.update(&Through::new(1, "nobody")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        here.delete(1).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        there.find(1).await.unwrap(),
        None,
        "the refused row was stored nowhere"
    );
}

/// The first writer commits first and ends last, so the second writer's commit is the later one.
async fn end_in_the_wrong_order<DB: Tested>(world: &World<DB>) -> String {
    let (here, there) = (rows(world), elsewhere(world).await);
    here.insert(&Through::new(1, "old")).await.unwrap();
    let pause = world.faults.pause(Operation::End);
    let first = tokio::spawn({
        let here = here.clone();
        async move { here.update(&Through::new(1, "first")).await }
    });
    pause.reached().await;
    there.update(&Through::new(1, "second")).await.unwrap();
    pause.resume();
    first.await.unwrap().unwrap();
    there.find(1).await.unwrap().unwrap().name.clone()
}

async fn two_writers_that_end_in_the_wrong_order_leave_no_older_row<DB: Tested>(world: &World<DB>) {
    assert_eq!(end_in_the_wrong_order(world).await, "second");
}

async fn without_the_rule_for_contended_writers_the_older_row_stays<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Contended);
    assert_eq!(end_in_the_wrong_order(world).await, "first");
}

/// The intent of a writer is lost after its commit. Another writer begins and ends before the first one ends.
async fn lose_the_intent<DB: Tested>(world: &World<DB>) -> String {
    let (here, there) = (rows(world), elsewhere(world).await);
    here.insert(&Through::new(1, "old")).await.unwrap();
    let key = here.inner().key(1).unwrap();
    let pause = world.faults.pause(Operation::End);
    let first = tokio::spawn({
        let here = here.clone();
        async move { here.update(&Through::new(1, "first")).await }
    });
    pause.reached().await;
    world.cache.store().force(&key, None).await.unwrap();
    there.update(&Through::new(1, "second")).await.unwrap();
    pause.resume();
    first.await.unwrap().unwrap();
    there.find(1).await.unwrap().unwrap().name.clone()
}

async fn a_writer_that_lost_its_intent_leaves_no_cache_update<DB: Tested>(world: &World<DB>) {
    assert_eq!(lose_the_intent(world).await, "second");
}

async fn without_the_rule_for_lost_intents_the_older_row_stays<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Contended);
    assert_eq!(lose_the_intent(world).await, "first");
}

/// The intent is lost before the commit, and a reader caches the row from before it.
async fn without_its_end_a_writer_that_lost_its_intent_leaves_the_old_row<DB: Tested>(
    world: &World<DB>,
) {
    for (broken, expected) in [(false, "new"), (true, "old")] {
        world.sql("DELETE FROM items").await;
        world.put(&Item::new(1, "old")).await;
        let (here, there) = (rows(world), elsewhere(world).await);
        here.invalidate(1).await.unwrap();
        let key = here.inner().key(1).unwrap();
        if broken {
            world.faults.leave_out(Mechanism::End);
        }
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        here.within(&mut transaction)
            .update(&Through::new(1, "new"))
            .await
            .unwrap();
        let (begun, faults) = (
            std::sync::Arc::new(std::sync::Barrier::new(2)),
            &world.faults,
        );
        let (lost, waiting) = (begun.clone(), begun.clone());
        // Another thread takes over what this one would have polled.
        faults.at(larder::store::Point::BeforeCommit, move || {
            tokio::task::block_in_place(|| {
                waiting.wait();
                waiting.wait();
            });
        });
        let commit = tokio::spawn(transaction.commit());
        tokio::task::spawn_blocking({
            let lost = lost.clone();
            move || lost.wait()
        })
        .await
        .unwrap();
        world.cache.store().force(&key, None).await.unwrap();
        assert_eq!(there.find(1).await.unwrap().unwrap().name, "old");
        crate::world::eventually("the old row is stored", async || {
            there.find_outcome(1).await.unwrap().origin == Origin::Cache
        })
        .await;
        tokio::task::spawn_blocking(move || lost.wait())
            .await
            .unwrap();
        commit.await.unwrap().unwrap();
        assert_eq!(there.find(1).await.unwrap().unwrap().name, expected);
    }
}

of_items! {
    #[cached(strategy = "write_through", after_triggers)]
    struct Triggered
}

async fn add_after_trigger<DB: Tested>(world: &World<DB>) {
    world
        .raw("CREATE TRIGGER later AFTER INSERT ON items FOR EACH ROW BEGIN UPDATE items SET name = 'triggered' WHERE id = NEW.id; END")
        .await;
}

async fn rows_that_triggers_change_later_are_dropped<DB: Tested>(world: &World<DB>) {
    add_after_trigger(world).await;
    let here = Triggered::repository(&world.cache, world.pool.clone());
    let row = Triggered {
        id: 1,
        name: "written".to_owned(),
        note: None,
        quantity: 1,
    };
    here.insert(&row).await.unwrap();
    let outcome = here.find_outcome(1).await.unwrap();
    assert_eq!(outcome.row.unwrap().name, "triggered");
    assert_eq!(outcome.origin, Origin::Database);
}

/// Only `after_triggers` makes the difference, as the documentation says.
async fn without_after_triggers_an_entity_is_cached_as_it_was_returned<DB: Tested>(
    world: &World<DB>,
) {
    add_after_trigger(world).await;
    let here = rows(world);
    here.insert(&Through::new(1, "written")).await.unwrap();
    assert_eq!(cached(&here, 1).await.as_deref(), Some("written"));
    assert_eq!(
        here.find_uncached(1).await.unwrap().unwrap().name,
        "triggered"
    );
}

async fn a_cache_update_expires_like_a_loaded_row<DB: Tested>(world: &World<DB>) {
    let here = rows(world);
    here.insert(&Through::new(1, "one")).await.unwrap();
    here.insert(&Through::new(2, "two")).await.unwrap();
    here.delete(2).await.unwrap();
    let left = async |id: i64| {
        let key = here.inner().key(id).unwrap();
        world
            .cache
            .store()
            .remaining_ms(&key)
            .await
            .unwrap()
            .unwrap()
    };
    assert!((590_000..=600_000).contains(&left(1).await));
    assert!((20_000..=30_000).contains(&left(2).await));
}

/// Unlike after a deadlock: a write that has waited for the whole lock timeout must not wait ten times.
async fn a_save_that_has_waited_for_a_lock_in_vain_is_not_begun_again(world: &World<MySql>) {
    let impatient = world.pool.options().clone();
    let impatient = impatient.after_connect(|connection, _| {
        let set = sqlx::query("SET SESSION innodb_lock_wait_timeout = 1");
        Box::pin(async move { set.execute(connection).await.map(drop) })
    });
    let pool = impatient.connect_lazy_with((*world.pool.connect_options()).clone());
    let rows = Through::repository(&world.cache, pool.clone());
    rows.insert(&Through::new(1, "old")).await.unwrap();
    let mut holder = world.pool.begin().await.unwrap();
    sqlx::query("UPDATE items SET name = 'held' WHERE id = 1")
        .execute(&mut *holder)
        .await
        .unwrap();
    let before = world.database.statement_log().texts().len();
    let error = rows.save(&Through::new(1, "new")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    let texts = world.database.statement_log().texts();
    let writes: Vec<_> = texts[before..]
        .iter()
        .filter(|text| text.contains("items") && !text.starts_with("SELECT"))
        .collect();
    assert_eq!(writes.len(), 1, "{writes:?}");
    holder.rollback().await.unwrap();
    let row = rows.find(1).await.unwrap().unwrap();
    assert_eq!(row.name, "old");
    rows.save(&Through::new(1, "new")).await.unwrap();
    assert_eq!(cached(&rows, 1).await.as_deref(), Some("new"));
    pool.close().await;
}
