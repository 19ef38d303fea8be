//! The operations of a repository in the builds that users get: without `internal-faults`, and with one database alone.
//!
//! Every other test runs with all features, where a store that injects faults stands in front of the real one. Here the types
//! are those of a release, so that what is compiled for users is also executed. `cargo xtask test` builds and runs this
//! binary once for each set of features.
//!
//! Not here: faults, races and outages (`tests/suite`).

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::time::Duration;

use larder::{Cache, Cached, ErrorKind, Origin, Repository, Transaction};
use larder_testing::database;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "things", ttl = "5m", lease(ttl = "30s", wait = "10s"))]
struct Aside {
    #[cached(id)]
    id: i64,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "things", strategy = "write_through")]
struct Through {
    #[cached(id)]
    id: i64,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "things", strategy = "write_behind", durability = "memory")]
struct Behind {
    #[cached(id)]
    id: i64,
    name: String,
}

const TABLE: &str =
    "CREATE TABLE things (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL UNIQUE)";

fn name_of<T>(row: Option<std::sync::Arc<T>>, name: fn(&T) -> &str) -> Option<String> {
    row.map(|row| name(&row).to_owned())
}

/// The caches of this build, each empty.
async fn caches() -> Vec<Cache> {
    let in_process = Cache::in_process();
    #[cfg(feature = "redis")]
    {
        let namespace = format!("shipped-{}", uuid::Uuid::new_v4().simple());
        let redis = Cache::builder()
            .redis(larder_testing::server_url("LARDER_REDIS_URL"))
            .namespace(namespace);
        vec![in_process, redis.connect().await.unwrap()]
    }
    #[cfg(not(feature = "redis"))]
    vec![in_process]
}

/// Reads until the answer comes from the cache: a fill ends after its reader has its answer.
async fn is_cached(read: impl AsyncFn() -> Origin) {
    let reads = async {
        while read().await != Origin::Cache {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), reads).await;
    in_time.expect("a row that is read again and again comes from the cache");
}

macro_rules! shipped {
    ($feature:literal, $database:ident, $driver:ident) => {
        #[cfg(feature = $feature)]
        mod $database {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn reads_are_cached_and_writes_are_seen() {
                for cache in caches().await {
                    let database = database::$database().await;
                    sqlx::query(TABLE).execute(&database.pool()).await.unwrap();
                    let things = Repository::<Aside, sqlx::$driver>::new(&cache, database.pool());
                    things.check_schema().await.unwrap().into_result().unwrap();
                    let name = |row| name_of(row, |row: &Aside| &row.name);
                    let thing = |id, name: &str| Aside {
                        id,
                        name: name.to_owned(),
                    };

                    assert_eq!(things.find(1).await.unwrap(), None);
                    things.insert(&thing(1, "one")).await.unwrap();
                    assert_eq!(name(things.find(1).await.unwrap()), Some("one".to_owned()));
                    is_cached(async || things.find_outcome(1).await.unwrap().origin).await;
                    things.update(&thing(1, "uno")).await.unwrap();
                    assert_eq!(name(things.find(1).await.unwrap()), Some("uno".to_owned()));
                    let twice = things.insert(&thing(1, "other")).await.unwrap_err();
                    assert_eq!(twice.kind(), ErrorKind::Duplicate);

                    let rows = [thing(2, "two"), thing(3, "three")];
                    things.insert_many(&rows).await.unwrap();
                    assert_eq!(things.delete_many(&[2, 9]).await.unwrap(), 1);
                    assert!(!things.exists(2).await.unwrap());
                    things.delete(3).await.unwrap();
                    assert_eq!(
                        things.delete(3).await.unwrap_err().kind(),
                        ErrorKind::NotFound
                    );

                    let outside = database.outside_pool().await;
                    sqlx::query("UPDATE things SET name = 'raw' WHERE id = 1")
                        .execute(&outside)
                        .await
                        .unwrap();
                    things.invalidate(1).await.unwrap();
                    assert_eq!(name(things.find(1).await.unwrap()), Some("raw".to_owned()));
                    let stats = things.stats();
                    assert_eq!(
                        stats.misses,
                        stats.loads + stats.coalesced + stats.hits_after_wait
                    );
                    assert!(
                        stats
                            .hit_ratio()
                            .is_some_and(|ratio| ratio > 0.0 && ratio < 1.0),
                        "{stats:?}"
                    );
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn transaction_is_seen_when_it_commits() {
                for cache in caches().await {
                    let database = database::$database().await;
                    sqlx::query(TABLE).execute(&database.pool()).await.unwrap();
                    let things = Repository::<Aside, sqlx::$driver>::new(&cache, database.pool());
                    let thing = |id: i64| Aside {
                        id,
                        name: format!("thing {id}"),
                    };
                    assert_eq!(things.find(1).await.unwrap(), None);
                    let mut transaction = Transaction::begin(things.pool()).await.unwrap();
                    let mut within = things.within(&mut transaction);
                    within.insert(&thing(1)).await.unwrap();
                    transaction.rollback().await.unwrap();
                    assert_eq!(things.find(1).await.unwrap(), None);
                    let mut transaction = Transaction::begin(things.pool()).await.unwrap();
                    let mut within = things.within(&mut transaction);
                    within.save(&thing(1)).await.unwrap();
                    within.insert(&thing(2)).await.unwrap();
                    transaction.commit().await.unwrap();
                    assert!(things.exists(1).await.unwrap() && things.exists(2).await.unwrap());
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn written_row_is_in_the_cache() {
                for cache in caches().await {
                    let database = database::$database().await;
                    sqlx::query(TABLE).execute(&database.pool()).await.unwrap();
                    let things = Repository::<Through, sqlx::$driver>::new(&cache, database.pool());
                    let thing = Through {
                        id: 1,
                        name: "one".to_owned(),
                    };
                    things.insert(&thing).await.unwrap();
                    let found = things.find_outcome(1).await.unwrap();
                    assert_eq!(found.row.as_deref(), Some(&thing));
                    assert_eq!(found.origin, Origin::Cache);
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn queued_writes_reach_the_database_and_refused_ones_are_dead_letters() {
                for cache in caches().await {
                    let database = database::$database().await;
                    sqlx::query(TABLE).execute(&database.pool()).await.unwrap();
                    let things = Repository::<Behind, sqlx::$driver>::new(&cache, database.pool());
                    things.install().await.unwrap();
                    let thing = |id, name: &str| Behind {
                        id,
                        name: name.to_owned(),
                    };
                    for id in 1..=20 {
                        things
                            .save(&thing(id, &format!("thing {id}")))
                            .await
                            .unwrap();
                    }
                    things.modify(1, |row| row.name.push('!')).await.unwrap();
                    things.flush().await.unwrap();
                    // Another row has this name by now.
                    things.save(&thing(21, "thing 2")).await.unwrap();
                    assert!(things.pending().await.unwrap().count > 0);
                    let flusher = things.start_flushing().await.unwrap();
                    things.flush().await.unwrap();
                    assert_eq!(things.pending().await.unwrap().count, 0);
                    let first = things.find_uncached(1).await.unwrap().unwrap();
                    assert_eq!(first.name, "thing 1!");
                    let letters = things.dead_letters().list(10).await.unwrap();
                    assert_eq!(letters.len(), 1, "{letters:?}");
                    assert_eq!(letters[0].id(), Some(21));
                    assert_eq!(things.find(21).await.unwrap(), None);
                    things.dead_letters().discard(&letters[0]).await.unwrap();
                    flusher.shutdown(Duration::from_secs(20)).await.unwrap();
                    let stats = things.stats();
                    assert_eq!((stats.dead_letters, stats.lost_writes), (1, 0));
                }
            }
        }
    };
}

shipped!("postgres", postgres, Postgres);
shipped!("mysql", mysql, MySql);
shipped!("sqlite", sqlite, Sqlite);
