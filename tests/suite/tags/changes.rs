//! Changes of all rows that have the values of a tag (`modify_by_..`, `delete_by_..`), where there is no index of them.

use larder::{Cached, Origin, Transaction};
use serde::{Deserialize, Serialize};

use crate::world::{Tested, World, eventually, everywhere, on_both_stores};

everywhere!(
    rows_with_the_values_of_a_tag_are_changed,
    rows_with_the_values_of_a_tag_are_deleted,
);
on_both_stores!(
    a_transaction_changes_and_deletes_them,
    a_tag_of_several_fields_finds_rows_by_all_of_them,
);

/// The tags name fields that no index has, one that an index has, and the id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "parts",
    ttl = "10m",
    jitter = 0,
    lease(ttl = "20s", wait = "10s"),
    tags(
        "parts",
        "country:{country}",
        "{country}/{bin}",
        "bin:{bin}",
        "part:{id}"
    ),
    index(bin)
)]
struct Part {
    #[cached(id)]
    id: i64,
    country: Option<String>,
    bin: i64,
    price: i64,
}

struct Stage<'w, DB: Tested> {
    world: &'w World<DB>,
    parts: PartRepository<DB>,
}

impl<'w, DB: Tested> Stage<'w, DB> {
    /// Begins with parts 1 to 4 of DE, 5 and 6 of FR, and 7 without a country; all are cached.
    async fn open(world: &'w World<DB>) -> Self {
        world
            .sql("CREATE TABLE parts (id BIGINT NOT NULL PRIMARY KEY, country VARCHAR(40), bin BIGINT NOT NULL, price BIGINT NOT NULL)")
            .await;
        let parts = Part::repository(&world.cache, world.pool.clone());
        for id in 1..=7 {
            parts.insert(&part(id)).await.unwrap();
        }
        let stage = Self { world, parts };
        stage.warm().await;
        stage
    }

    /// Reads all parts until they come from the cache.
    async fn warm(&self) {
        for id in 1..=7 {
            eventually("the part comes from the cache", async || {
                self.parts.find_outcome(id).await.unwrap().origin == Origin::Cache
            })
            .await;
        }
    }

    /// Returns the prices, as this and as another process sees them.
    async fn prices(&self) -> Vec<Option<i64>> {
        let there = self.world.cache_elsewhere().await;
        let there = Part::repository(&there, self.world.pool.clone());
        let mut prices = Vec::new();
        for id in 1..=7 {
            let here = self.parts.find(id).await.unwrap();
            assert_eq!(here, there.find(id).await.unwrap());
            prices.push(here.map(|part| part.price));
        }
        prices
    }
}

fn part(id: i64) -> Part {
    let country = match id {
        1..=4 => Some("DE"),
        5 | 6 => Some("FR"),
        _ => None,
    };
    Part {
        id,
        country: country.map(str::to_owned),
        bin: id % 2,
        price: 10,
    }
}

const ALL: [Option<i64>; 7] = [Some(10); 7];

async fn rows_with_the_values_of_a_tag_are_changed<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let changed = stage
        .parts
        .modify_by_country("DE", |part| part.price += part.id);
    let changed = changed.await.unwrap();
    let prices: Vec<_> = changed.iter().map(|part| (part.id, part.price)).collect();
    assert_eq!(prices, [(1, 11), (2, 12), (3, 13), (4, 14)]);
    let expected = [11, 12, 13, 14, 10, 10, 10].map(Some);
    assert_eq!(stage.prices().await, expected);
    let none = stage.parts.modify_by_country("IT", |part| part.price = 0);
    assert!(none.await.unwrap().is_empty());
    // A row leaves the tag, and is in the list of its index where it was.
    stage
        .parts
        .modify_by_country("FR", |part| part.country = None)
        .await
        .unwrap();
    let left = stage.parts.modify_by_country("FR", |part| part.price = 0);
    assert!(left.await.unwrap().is_empty());
    assert_eq!(stage.parts.find_all_by_bin(1).await.unwrap().len(), 4);
    let refused = stage.parts.modify_by_country("DE", |_| Err::<(), _>("no"));
    refused.await.unwrap_err();
    assert_eq!(stage.prices().await, expected);
}

async fn rows_with_the_values_of_a_tag_are_deleted<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    assert_eq!(stage.parts.find_all_by_bin(1).await.unwrap().len(), 4);
    assert_eq!(stage.parts.delete_by_country("DE").await.unwrap(), 4);
    let expected = [None, None, None, None, Some(10), Some(10), Some(10)];
    assert_eq!(stage.prices().await, expected);
    let left = stage.parts.find_all_by_bin(1).await.unwrap();
    assert_eq!(left.iter().map(|part| part.id).collect::<Vec<_>>(), [5, 7]);
    assert_eq!(stage.parts.delete_by_country("DE").await.unwrap(), 0);
}

async fn a_transaction_changes_and_deletes_them(world: &World<sqlx::Sqlite>) {
    let stage = Stage::open(world).await;
    for commits in [false, true] {
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        let mut within = stage.parts.within(&mut transaction);
        let changed = within.modify_by_country("FR", |part| part.price = 20);
        assert_eq!(changed.await.unwrap().len(), 2);
        assert_eq!(within.delete_by_country("DE").await.unwrap(), 4);
        assert_eq!(within.find(5).await.unwrap().unwrap().price, 20);
        match commits {
            true => transaction.commit().await.unwrap(),
            false => {
                transaction.rollback().await.unwrap();
                assert_eq!(stage.prices().await, ALL);
            }
        }
    }
    let expected = [None, None, None, None, Some(20), Some(20), Some(10)];
    assert_eq!(stage.prices().await, expected);
}

async fn a_tag_of_several_fields_finds_rows_by_all_of_them(world: &World<sqlx::Sqlite>) {
    let stage = Stage::open(world).await;
    let changed = stage
        .parts
        .modify_by_country_and_bin("DE", 1, |part| part.price = 20);
    let ids: Vec<_> = changed.await.unwrap().iter().map(|part| part.id).collect();
    assert_eq!(ids, [1, 3]);
    assert_eq!(
        stage
            .parts
            .delete_by_country_and_bin("FR", 0)
            .await
            .unwrap(),
        1
    );
    let expected = [20, 10, 20, 10, 10].map(Some);
    assert_eq!(stage.prices().await[..5], expected);
    assert_eq!(stage.prices().await[5..], [None, Some(10)]);
    // By the index, as without tags.
    assert_eq!(stage.parts.delete_by_bin(1).await.unwrap(), 4);
}
