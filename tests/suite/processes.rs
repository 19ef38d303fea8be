//! The same claims for processes that share nothing but the servers.

use std::time::Duration;

use larder::{
    Cache, Cached, Origin,
    store::faulty::{Faults, Operation},
};
use larder_testing::process::{Worker, WorkerFn, hear, tell};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, postgres::PgPoolOptions};

use crate::world::{Kind, World, at_once, eventually, redis_url, unique, until};

/// The function that this file runs in other processes.
pub(crate) const CROWD: (&str, WorkerFn) = ("crowd", |arguments| Box::pin(crowd(arguments)));
pub(crate) const DOOMED: (&str, WorkerFn) = ("doomed", |arguments| Box::pin(doomed(arguments)));

const CALLERS: usize = 40;

/// Rows of a view. A statement on it waits for a lock that the test holds.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "gated", lease(ttl = "60s", wait = "50s"))]
struct Gated {
    #[cached(id)]
    id: i64,
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "rows", lease(ttl = "1500ms", wait = "20ms"))]
struct Row {
    #[cached(id)]
    id: i64,
    name: String,
}

async fn cache(namespace: &str, faults: &Faults) -> Cache {
    let builder = Cache::builder().namespace(namespace).faults(faults);
    builder
        .redis(redis_url())
        .listed(false)
        .connect()
        .await
        .unwrap()
}

async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(4)
        .connect(url)
        .await
        .unwrap()
}

/// Many callers of one cold key. Reports when all have missed, and at the end its counters.
async fn crowd(arguments: Vec<String>) {
    let [url, namespace] = &arguments[..] else {
        panic!("two arguments: {arguments:?}")
    };
    let gated = Gated::repository(&cache(namespace, &Faults::new()).await, pool(url).await);
    tell("ready");
    assert_eq!(hear().await, "go");
    let callers = tokio::spawn({
        let gated = gated.clone();
        async move {
            at_once(CALLERS, |_| {
                let gated = gated.clone();
                async move { gated.find(1).await.unwrap().unwrap().name.clone() }
            })
            .await
        }
    });
    until("all callers have missed", || {
        gated.stats().misses == CALLERS as u64
    })
    .await;
    tell("missed");
    assert!(callers.await.unwrap().iter().all(|name| name == "row"));
    tell(gated.stats().loads);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_load_for_all_callers_of_all_processes() {
    let world = World::<Postgres>::open(Kind::Redis).await;
    world
        .sql("CREATE TABLE hidden AS SELECT 1::bigint AS id, 'row'::text AS name")
        .await;
    world
        .sql(
            "CREATE VIEW gated AS SELECT id, name FROM \
             (SELECT id, name, pg_advisory_xact_lock_shared(4712) FROM hidden OFFSET 0) AS rows",
        )
        .await;
    let mut holder = world.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(4712)")
        .execute(&mut *holder)
        .await
        .unwrap();
    let namespace = unique("crowd");
    let url = world.database.url().to_owned();
    let mut workers: Vec<_> = (0..4)
        .map(|_| Worker::spawn("crowd", &[&url, &namespace]))
        .collect();
    for worker in &mut workers {
        worker.expect("ready").await;
    }
    for worker in &mut workers {
        worker.send("go");
    }
    for worker in &mut workers {
        worker.expect("missed").await;
    }
    sqlx::query("SELECT pg_advisory_unlock(4712)")
        .execute(&mut *holder)
        .await
        .unwrap();
    let mut loads = 0;
    for mut worker in workers {
        loads += worker.line().await.parse::<u64>().unwrap();
        worker.finish().await;
    }
    assert_eq!(loads, 1, "loads that the processes counted");
    assert_eq!(
        world.database.statement_log().count_on("gated"),
        1,
        "statements that the database saw"
    );
    drop(holder);
    world.database.close().await;
}

/// Loads a row, and stops before the fill.
async fn doomed(arguments: Vec<String>) {
    let [url, namespace] = &arguments[..] else {
        panic!("two arguments: {arguments:?}")
    };
    let faults = Faults::new();
    let fill = faults.pause(Operation::Fill);
    let rows = Row::repository(&cache(namespace, &faults).await, pool(url).await);
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "old");
    fill.reached().await;
    tell("loaded");
    // The parent kills this process here.
    hear().await;
}

/// A process dies with its lease. No caller waits longer than the wait budget. The key is cached again when a write ends the
/// lease, or when the lease expires.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_with_its_lease_blocks_no_caller() {
    let world = World::<Postgres>::open(Kind::Redis).await;
    world
        .sql("CREATE TABLE rows (id BIGINT PRIMARY KEY, name TEXT NOT NULL)")
        .await;
    world.sql("INSERT INTO rows VALUES (1, 'old')").await;
    let namespace = unique("doomed");
    let url = world.database.url().to_owned();
    let mut worker = Worker::spawn("doomed", &[&url, &namespace]);
    worker.expect("loaded").await;
    worker.kill();
    let rows = Row::repository(&cache(&namespace, &Faults::new()).await, world.pool.clone());
    let read = tokio::time::timeout(Duration::from_secs(20), rows.find(1)).await;
    assert_eq!(
        read.expect("the wait is bounded").unwrap().unwrap().name,
        "old"
    );
    rows.update(&Row {
        id: 1,
        name: "new".to_owned(),
    })
    .await
    .unwrap();
    eventually("the key is cached again", async || {
        let outcome = rows.find_outcome(1).await.unwrap();
        assert_eq!(outcome.row.unwrap().name, "new");
        outcome.origin == Origin::Cache
    })
    .await;
    world.database.close().await;
}
