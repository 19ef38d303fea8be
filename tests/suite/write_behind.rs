//! Queued writes: acknowledged by the store, visible at once, in the database after a flush.

use std::time::Duration;

use larder::{Cached, ErrorKind, Origin};
use serde::{Deserialize, Serialize};

use crate::world::{Tested, World, everywhere};

/// The row of the items, written behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "items",
    strategy = "write_behind",
    durability = "memory",
    linger = "1ms",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0,
    lease(ttl = "20s", wait = "10s")
)]
pub(crate) struct Behind {
    #[cached(id)]
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) note: Option<String>,
    pub(crate) quantity: i64,
}

impl Behind {
    pub(crate) fn new(id: i64, name: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            note: None,
            quantity: 1,
        }
    }
}

/// The rows of a world, behind a queue with its tables.
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
    assert_eq!((stats.flushed, stats.dead_letters, stats.lost), (4, 0, 0));
}

async fn a_write_demands_what_its_name_says<DB: Tested>(world: &World<DB>) {
    let rows = behind(world).await;
    world.put(&crate::world::Item::new(1, "there")).await;
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
    world.put(&crate::world::Item::new(1, "counter")).await;
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
    a_write_demands_what_its_name_says,
    no_modification_is_lost,
}
