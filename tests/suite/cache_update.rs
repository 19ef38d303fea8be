//! Which cache update a write may leave: the row as the database has it, and only if its intent was never interrupted.
//!
//! Each test ends with the same check: all readers get the row that the database has. A writer does not know that row if its
//! intent was lost, placed late, or restored by a server that has lost another write. It does not know the row either if
//! another statement has changed it.
//!
//! Not here: cache updates without interference (`write_through`), and which entries a write replaces (`redis::scripts`).

use std::sync::Arc;

use larder::{Cache, Cached, Error, Origin, Repository, Transaction, store::faulty::Operation};
use larder_testing::{
    proxy::{Point, Trap},
    redis_server::RedisServer,
};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};
use tokio::task::JoinHandle;

use crate::{
    entities::Through,
    transaction::Both,
    world::{Kind, Tested, World, eventually, on_both_stores, on_mysql, on_postgres, unique},
};

on_postgres!(
    a_write_whose_intent_was_placed_again_leaves_no_cache_update,
    a_batch_delete_caches_no_absence_of_a_row_inserted_since,
    a_row_changed_by_a_cascade_of_its_transaction_is_not_cached,
    a_trigger_that_changes_the_id_leaves_no_absence_at_the_new_one,
);
on_mysql!(
    an_update_that_changes_nothing_caches_no_row_of_the_snapshot,
    an_update_after_another_caches_no_row_of_the_snapshot,
    a_batch_caches_no_row_whose_id_a_trigger_has_changed,
);
on_both_stores!(two_repositories_of_one_entity_cache_the_last_row_once,);

mod a_write_announced_after_its_statement_leaves_no_cache_update {
    crate::world::case!(
        a_write_announced_after_its_statement_leaves_no_cache_update,
        redis,
        Redis,
        Postgres
    );
}

/// Returns the rows on a connection without the proxy that holds the first writer's reply.
async fn past_the_proxy(world: &World<Postgres>, cache: &Cache) -> Repository<Through, Postgres> {
    Repository::new(cache, world.database.outside_pool().await)
}

async fn name_in_database<DB: Tested>(rows: &Repository<Through, DB>) -> String {
    let row = rows.find_uncached(1).await.unwrap().unwrap();
    row.name.clone()
}

/// Starts the first writer. Its statement is committed, and its reply is held.
async fn first_writer(
    world: &World<Postgres>,
    here: &Repository<Through, Postgres>,
    other: &Repository<Through, Postgres>,
) -> (Trap, JoinHandle<Result<Arc<Through>, Error>>) {
    let held = world.database.proxy().hold(Point::BeforeReply, "first");
    let here = here.clone();
    let first = tokio::spawn(async move { here.update(&Through::new(1, "first")).await });
    held.sprung().await;
    eventually("the first write is committed", async || {
        name_in_database(other).await == "first"
    })
    .await;
    (held, first)
}

/// The intent is evicted while the reply is held. Another writer begins and ends before the intent is placed again.
async fn a_write_whose_intent_was_placed_again_leaves_no_cache_update(world: &World<Postgres>) {
    let rows = Both::<Through, Postgres>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    let other = past_the_proxy(world, &world.cache).await;
    let (held, first) = first_writer(world, &rows.here, &other).await;
    let begun = world.faults.calls(Operation::Begin);
    let key = rows.here.key(1).unwrap();
    world.cache.store().force(&key, None).await.unwrap();
    other.update(&Through::new(1, "second")).await.unwrap();
    eventually("the first writer renews its intent", async || {
        world.faults.calls(Operation::Begin) >= begun + 2
    })
    .await;
    held.release();
    first.await.unwrap().unwrap();
    assert_eq!(rows.agree(1).await.as_deref(), Some("second"));
}

/// The writer cannot reach the store when its statement runs. Another writer begins and ends in the meantime.
async fn a_write_announced_after_its_statement_leaves_no_cache_update(world: &World<Postgres>) {
    let rows = Both::<Through, Postgres>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    let other = past_the_proxy(world, &world.cache_elsewhere().await).await;
    world.faults.fail(Operation::Begin, u64::MAX);
    let (held, first) = first_writer(world, &rows.here, &other).await;
    other.update(&Through::new(1, "second")).await.unwrap();
    world.faults.fail(Operation::Begin, 0);
    let begun = world.faults.calls(Operation::Begin);
    eventually("it is announced", async || {
        world.faults.calls(Operation::Begin) > begun
    })
    .await;
    held.release();
    first.await.unwrap().unwrap();
    assert_eq!(rows.agree(1).await.as_deref(), Some("second"));
}

/// Redis comes back with the intent of one write, and without the write that followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_intent_was_restored_leaves_no_cache_update() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    let mut server = RedisServer::start().await;
    let cache = Cache::builder()
        .redis(server.url())
        .listed(false)
        .namespace(unique("cache-update"))
        .connect()
        .await
        .unwrap();
    let here = Repository::<Through, _>::new(&cache, world.pool.clone());
    let other = past_the_proxy(&world, &cache).await;
    here.insert(&Through::new(1, "old")).await.unwrap();
    let (held, first) = first_writer(&world, &here, &other).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SAVE")
        .exec_async(&mut connection)
        .await
        .unwrap();
    other.update(&Through::new(1, "second")).await.unwrap();
    server.kill().await;
    server.restart().await;
    let key = here.key(1).unwrap();
    eventually("the cache is connected again", async || {
        matches!(cache.store().remaining_ms(&key).await, Ok(Some(_)))
    })
    .await;
    held.release();
    first.await.unwrap().unwrap();
    assert_eq!(name_in_database(&other).await, "second");
    assert_eq!(other.find(1).await.unwrap().unwrap().name, "second");
    drop(other);
    world.database.close().await;
}

/// A delete that matches no row locks nothing, so another writer can insert the row before the commit.
async fn a_batch_delete_caches_no_absence_of_a_row_inserted_since(world: &World<Postgres>) {
    let rows = Both::<Through, Postgres>::of(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let deleted = rows.here.within(&mut transaction).delete_many(&[9]).await;
    assert_eq!(deleted.unwrap(), 0);
    rows.here
        .insert(&Through::new(9, "inserted"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(rows.agree(9).await.as_deref(), Some("inserted"));
}

/// If an update does not change a row, MySQL returns the row from the snapshot, which may be older than the row it has
/// matched.
async fn an_update_that_changes_nothing_caches_no_row_of_the_snapshot(world: &World<MySql>) {
    let rows = Both::<Through, MySql>::of(world).await;
    rows.here.insert(&Through::new(1, "open")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    assert_eq!(within.find(1).await.unwrap().unwrap().name, "open");
    rows.here.update(&Through::new(1, "done")).await.unwrap();
    let row = within.update(&Through::new(1, "done")).await.unwrap();
    assert_eq!(row.name, "done");
    transaction.commit().await.unwrap();
    assert_eq!(rows.agree(1).await.as_deref(), Some("done"));
}

/// The snapshot is taken when the first written row is read back.
async fn an_update_after_another_caches_no_row_of_the_snapshot(world: &World<MySql>) {
    let rows = Both::<Through, MySql>::of(world).await;
    rows.here
        .insert_many(&[Through::new(1, "open"), Through::new(2, "open")])
        .await
        .unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = rows.here.within(&mut transaction);
    within.update(&Through::new(2, "two")).await.unwrap();
    rows.here.update(&Through::new(1, "done")).await.unwrap();
    let row = within.update(&Through::new(1, "done")).await.unwrap();
    assert_eq!(row.name, "done");
    transaction.commit().await.unwrap();
    assert_eq!(rows.agree(1).await.as_deref(), Some("done"));
    assert_eq!(rows.agree(2).await.as_deref(), Some("two"));
}

/// Both have the same keys, so each key is recorded once, and the last write counts.
async fn two_repositories_of_one_entity_cache_the_last_row_once(world: &World<Sqlite>) {
    let rows = Both::<Through, Sqlite>::of(world).await;
    let second = Both::<Through, Sqlite>::repository(world, &world.cache);
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    let ends = world.faults.calls(Operation::End);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.here
        .within(&mut transaction)
        .update(&Through::new(1, "never committed"))
        .await
        .unwrap();
    second
        .within(&mut transaction)
        .update(&Through::new(1, "new"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(world.faults.calls(Operation::End), ends + 1);
    let outcome = rows.there.find_outcome(1).await.unwrap();
    assert_eq!(
        (outcome.origin, outcome.row.unwrap().name.as_str()),
        (Origin::Cache, "new")
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "children", strategy = "write_through")]
struct Child {
    #[cached(id)]
    id: i64,
    parent: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "parents", strategy = "write_through")]
struct Parent {
    #[cached(id)]
    id: i64,
    name: String,
}

async fn a_row_changed_by_a_cascade_of_its_transaction_is_not_cached(world: &World<Postgres>) {
    world
        .sql("CREATE TABLE parents (id BIGINT PRIMARY KEY, name TEXT NOT NULL)")
        .await;
    world
        .sql("CREATE TABLE children (id BIGINT PRIMARY KEY, parent BIGINT REFERENCES parents ON DELETE SET NULL)")
        .await;
    let parents = Parent::repository(&world.cache, world.pool.clone());
    let children = Child::repository(&world.cache, world.pool.clone());
    let parent = Parent {
        id: 1,
        name: "one".to_owned(),
    };
    parents.insert(&parent).await.unwrap();
    let child = Child {
        id: 7,
        parent: Some(1),
    };
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = children.within(&mut transaction);
    assert_eq!(*within.insert(&child).await.unwrap(), child);
    parents.within(&mut transaction).delete(1).await.unwrap();
    transaction.commit().await.unwrap();
    let orphan = Child {
        parent: None,
        ..child
    };
    assert_eq!(children.find(7).await.unwrap().as_deref(), Some(&orphan));
}

async fn a_trigger_that_changes_the_id_leaves_no_absence_at_the_new_one(world: &World<Postgres>) {
    world.sql("CREATE FUNCTION renumber() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := NEW.id + 100; RETURN NEW; END'").await;
    world.sql("CREATE TRIGGER renumber BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION renumber()").await;
    let rows = Both::<Through, Postgres>::of(world).await;
    rows.see(101, None).await;
    rows.are_warm(101).await;
    let row = rows.here.insert(&Through::new(1, "one")).await.unwrap();
    assert_eq!(row.id, 101);
    assert_eq!(rows.agree(101).await.as_deref(), Some("one"));
    assert_eq!(rows.agree(1).await, None);
}

async fn a_batch_caches_no_row_whose_id_a_trigger_has_changed(world: &World<MySql>) {
    let rows = Both::<Through, MySql>::of(world).await;
    rows.here.insert(&Through::new(1, "old")).await.unwrap();
    world
        .raw(
            "CREATE TRIGGER renumber BEFORE UPDATE ON items FOR EACH ROW SET NEW.id = NEW.id + 100",
        )
        .await;
    rows.here
        .update_many(&[Through::new(1, "new")])
        .await
        .unwrap();
    assert_eq!(rows.agree(1).await, None);
}
