//! Many rows in one call: what it costs, and that each row is as current as one that was read alone.

use std::sync::Arc;

use larder::{Cached, Origin, Transaction, store::faulty::Operation};
use serde::{Deserialize, Serialize};
use sqlx::SqlStr;

use crate::{
    entities::{Item, ItemRepository},
    world::{Tested, World, eventually, everywhere, filled, on_both_stores, on_postgres, on_redis},
};

everywhere!(
    rows_come_in_the_order_asked,
    more_rows_than_one_statement_or_pipeline_takes,
    an_id_in_another_spelling_is_another_id,
    composite_ids_are_read_in_one_statement,
    a_transaction_reads_many_rows_past_the_cache,
);
on_both_stores!(
    no_ids_need_no_store_and_no_database,
    what_is_cached_needs_no_statement,
    a_row_under_a_write_is_read_with_the_others_and_not_cached,
    a_row_read_before_an_update_is_not_stored_after_it,
    without_the_store_one_statement_reads_all,
    a_load_error_reaches_the_caller_and_leaves_nothing,
    rows_are_found_by_their_ids,
    rows_of_a_query_are_cached,
    a_row_that_changes_after_the_query_is_not_cached_as_it_was,
);
on_redis!(a_damaged_entry_does_not_hold_the_others_up);
on_postgres!(overlapping_batches_and_single_reads_share_their_loads);

async fn put<DB: Tested>(world: &World<DB>, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        world.put(&Item::new(id, &format!("row {id}"))).await;
    }
}

fn names(rows: &[Option<Arc<Item>>]) -> Vec<Option<&str>> {
    let rows = rows.iter();
    rows.map(|row| row.as_ref().map(|row| row.name.as_str()))
        .collect()
}

async fn rows_come_in_the_order_asked<DB: Tested>(world: &World<DB>) {
    put(world, [1, 2, 3]).await;
    let items = world.items();
    let asked = [3, 9, 1, 3, 9, 2];
    let expected = vec![
        Some("row 3"),
        None,
        Some("row 1"),
        Some("row 3"),
        None,
        Some("row 2"),
    ];
    let before = world.database.statements();
    assert_eq!(names(&items.find_many(&asked).await.unwrap()), expected);
    assert_eq!(world.database.statements() - before, 1);
    filled(|| items.stats()).await;
    assert_eq!(names(&items.find_many(&asked).await.unwrap()), expected);
    assert!(items.find(9).await.unwrap().is_none());
    assert_eq!(
        world.database.statements() - before,
        1,
        "all is cached, absences too"
    );
    let stats = items.stats();
    assert_eq!((stats.misses, stats.loads), (4, 4));
    assert_eq!((stats.hits, stats.negative_hits), (3, 2));
}

async fn more_rows_than_one_statement_or_pipeline_takes<DB: Tested>(world: &World<DB>) {
    const ROWS: i64 = 5_201;
    let items = world.items();
    let rows: Vec<_> = (0..ROWS).map(|id| Item::new(id, "many")).collect();
    items.insert_many(&rows).await.unwrap();
    let asked: Vec<_> = (-10..ROWS + 10).collect();
    for _ in 0..2 {
        let found = items.find_many(&asked).await.unwrap();
        for (id, row) in asked.iter().zip(&found) {
            assert_eq!(row.is_some(), (0..ROWS).contains(id), "{id}");
            assert!(row.as_ref().is_none_or(|row| row.id == *id));
        }
        filled(|| items.stats()).await;
    }
    assert_eq!(
        items.stats().loads,
        asked.len() as u64,
        "the second time all is cached"
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "spelled", ttl = "10m", jitter = 0)]
struct Spelled {
    #[cached(id)]
    id: String,
    number: i64,
}

async fn an_id_in_another_spelling_is_another_id<DB: Tested>(world: &World<DB>) {
    let collation = match DB::NAME {
        "MySQL" => " COLLATE utf8mb4_general_ci",
        "SQLite" => " COLLATE NOCASE",
        _ => "",
    };
    world
        .sql(format!(
            "CREATE TABLE spelled (id VARCHAR(40){collation} NOT NULL PRIMARY KEY, number BIGINT NOT NULL)"
        ))
        .await;
    let spelled = Spelled::repository(&world.cache, world.pool.clone());
    for (number, id) in ["abc", "d%e", "", "x y"].into_iter().enumerate() {
        let id = id.to_owned();
        let number = i64::try_from(number).unwrap();
        spelled.insert(&Spelled { id, number }).await.unwrap();
    }
    let asked = ["ABC", "abc", "", "D%E", "d%e", "none", "x y"].map(str::to_owned);
    for _ in 0..2 {
        let found = spelled.find_many(&asked).await.unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|row| row.as_ref().map(|row| row.number))
            .collect();
        assert_eq!(
            found,
            [None, Some(0), Some(2), None, Some(1), None, Some(3)]
        );
    }
    let found = spelled.find_map(&["abc", "ABC", "d%e"]).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found["d%e"].number, 1);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", ttl = "10m", jitter = 0)]
struct Seat {
    #[cached(id)]
    flight: i64,
    #[cached(id)]
    number: String,
    holder: Option<String>,
}

async fn composite_ids_are_read_in_one_statement<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE seats (flight BIGINT NOT NULL, number VARCHAR(10) NOT NULL, holder VARCHAR(40), PRIMARY KEY (flight, number))")
        .await;
    let seats = Seat::repository(&world.cache, world.pool.clone());
    let id = |flight: i64, number: &str| (flight, number.to_owned());
    for (flight, number) in [(1, "1A"), (1, "1B"), (2, "1A")] {
        let number = number.to_owned();
        let holder = None;
        let seat = Seat {
            flight,
            number,
            holder,
        };
        seats.insert(&seat).await.unwrap();
    }
    let asked = [
        id(2, "1A"),
        id(2, "1B"),
        id(1, "1B"),
        id(1, "1A"),
        id(3, "1A"),
    ];
    let before = world.database.statements();
    let found = seats.find_many(&asked).await.unwrap();
    for (asked, found) in asked.iter().zip(&found) {
        let found = found
            .as_ref()
            .map(|seat| (seat.flight, seat.number.clone()));
        assert_eq!(found.is_some(), asked.0 < 3 && *asked != id(2, "1B"));
        assert!(found.is_none_or(|found| found == *asked));
    }
    assert_eq!(world.database.statements() - before, 1);
    // The text of an id can be borrowed.
    assert!(seats.find((1, "1B")).await.unwrap().is_some());
    let found = seats.find_map(&[(1, "1A"), (9, "1A")]).await.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), [&(1, "1A")]);
}

async fn a_transaction_reads_many_rows_past_the_cache<DB: Tested>(world: &World<DB>) {
    put(world, [1, 2]).await;
    let items = world.items();
    world.warm(&items, 1).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = items.within(&mut transaction);
    within.update(&Item::new(1, "changed")).await.unwrap();
    within.insert(&Item::new(3, "new")).await.unwrap();
    let gets = world.faults.calls(Operation::Get);
    let found = within.find_many(&[3, 1, 7, 2, 1]).await.unwrap();
    let expected = vec![
        Some("new"),
        Some("changed"),
        None,
        Some("row 2"),
        Some("changed"),
    ];
    assert_eq!(names(&found), expected);
    assert!(within.find_many(&[]).await.unwrap().is_empty());
    assert_eq!(world.faults.calls(Operation::Get), gets);
    transaction.rollback().await.unwrap();
    assert_eq!(
        names(&items.find_many(&[1, 3]).await.unwrap()),
        [Some("row 1"), None]
    );
}

async fn no_ids_need_no_store_and_no_database<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let _gate = world.close_gate().await;
    assert!(items.find_many(&[]).await.unwrap().is_empty());
    assert!(items.find_map::<i64>(&[]).await.unwrap().is_empty());
    for operation in [Operation::Get, Operation::Acquire, Operation::Bind] {
        assert_eq!(world.faults.calls(operation), 0);
    }
}

async fn what_is_cached_needs_no_statement<DB: Tested>(world: &World<DB>) {
    put(world, 1..=4).await;
    let items = world.items();
    items.find_many(&[1, 2, 3]).await.unwrap();
    filled(|| items.stats()).await;
    let gate = world.close_gate().await;
    assert_eq!(
        names(&items.find_many(&[2, 3]).await.unwrap()),
        [Some("row 2"), Some("row 3")]
    );
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
    drop(gate);
    let before = world.database.statements();
    items.find_many(&[1, 2, 3, 4]).await.unwrap();
    assert_eq!(world.database.statements() - before, 1);
    assert_eq!(items.stats().loads, 4, "only the missing row is read");
}

async fn a_row_under_a_write_is_read_with_the_others_and_not_cached<DB: Tested>(world: &World<DB>) {
    put(world, 1..=3).await;
    let items = world.items();
    let end = world.faults.pause(Operation::End);
    let writer = items.clone();
    let write = tokio::spawn(async move { writer.update(&Item::new(2, "new")).await });
    end.reached().await;
    let before = world.database.statements();
    assert_eq!(
        names(&items.find_many(&[1, 2, 3]).await.unwrap()),
        [Some("row 1"), Some("new"), Some("row 3")]
    );
    assert_eq!(world.database.statements() - before, 1);
    filled(|| items.stats()).await;
    let stats = items.stats();
    assert_eq!((stats.fills_accepted, stats.uncached_loads), (2, 1));
    end.resume();
    write.await.unwrap().unwrap();
    assert_eq!(
        names(&items.find_many(&[1, 2, 3]).await.unwrap()),
        [Some("row 1"), Some("new"), Some("row 3")]
    );
    assert_eq!(items.stats().loads, 4);
}

async fn a_damaged_entry_does_not_hold_the_others_up<DB: Tested>(world: &World<DB>) {
    put(world, 1..=3).await;
    let items = world.items();
    items.find_many(&[1, 2, 3]).await.unwrap();
    filled(|| items.stats()).await;
    let key = items.inner().key(2).unwrap();
    let store = world.cache.store();
    store.force_bytes(&key, b"damaged", 60_000).await.unwrap();
    for _ in 0..3 {
        assert_eq!(
            names(&items.find_many(&[1, 2, 3]).await.unwrap()),
            [Some("row 1"), Some("row 2"), Some("row 3")]
        );
    }
    eventually("the row is cached again", async || {
        items.find_outcome(2).await.unwrap().origin == Origin::Cache
    })
    .await;
}

async fn a_row_read_before_an_update_is_not_stored_after_it<DB: Tested>(world: &World<DB>) {
    put(world, 1..=2).await;
    let items = world.items();
    let elsewhere = world.items_elsewhere().await;
    let fill = world.faults.pause(Operation::Fill);
    assert_eq!(
        names(&items.find_many(&[1, 2]).await.unwrap()),
        [Some("row 1"), Some("row 2")]
    );
    fill.reached().await;
    elsewhere.update(&Item::new(1, "new")).await.unwrap();
    fill.resume();
    filled(|| items.stats()).await;
    let stats = items.stats();
    assert_eq!((stats.fills_accepted, stats.fills_refused), (1, 1));
    for repository in [&items, &elsewhere] {
        assert_eq!(
            names(&repository.find_many(&[1, 2]).await.unwrap()),
            [Some("new"), Some("row 2")]
        );
    }
}

async fn without_the_store_one_statement_reads_all<DB: Tested>(world: &World<DB>) {
    put(world, 1..=3).await;
    let items = world.items();
    items.find(7).await.unwrap();
    filled(|| items.stats()).await;
    world.faults.fail(Operation::Get, 1);
    let before = world.database.statements();
    assert_eq!(
        names(&items.find_many(&[1, 2, 3]).await.unwrap()),
        [Some("row 1"), Some("row 2"), Some("row 3")]
    );
    assert_eq!(world.database.statements() - before, 1);
    // The leases may have been granted although the reply was lost.
    world.faults.leave_unanswered(Operation::Acquire, 1);
    assert_eq!(
        names(&items.find_many(&[1, 2, 3]).await.unwrap()),
        [Some("row 1"), Some("row 2"), Some("row 3")]
    );
    assert_eq!(items.stats().fills_accepted, 1);
}

async fn a_load_error_reaches_the_caller_and_leaves_nothing<DB: Tested>(world: &World<DB>) {
    put(world, 1..=2).await;
    let items = world.items();
    world.warm(&items, 1).await;
    world.sql("ALTER TABLE items RENAME TO gone").await;
    let error = items.find_many(&[1, 2, 3]).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("failed to load 2 rows of Item: "),
        "{error}"
    );
    world.sql("ALTER TABLE gone RENAME TO items").await;
    assert_eq!(
        names(&items.find_many(&[1, 2, 3]).await.unwrap()),
        [Some("row 1"), Some("row 2"), None]
    );
    filled(|| items.stats()).await;
    assert_eq!(items.find_outcome(2).await.unwrap().origin, Origin::Cache);
}

async fn rows_are_found_by_their_ids<DB: Tested>(world: &World<DB>) {
    put(world, 1..=2).await;
    let items = world.items();
    let found = items.find_map(&[2, 5, 1, 2]).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&2].name, "row 2");
}

async fn overlapping_batches_and_single_reads_share_their_loads<DB: Tested>(world: &World<DB>) {
    put(world, 1..=8).await;
    let items = world.items();
    items.find(100).await.unwrap();
    let gate = world.close_gate().await;
    let batch = |ids: std::ops::RangeInclusive<i64>| {
        let items = items.clone();
        tokio::spawn(async move {
            let ids: Vec<_> = ids.collect();
            let found = items.find_many(&ids).await.unwrap();
            for (id, row) in ids.iter().zip(found) {
                assert_eq!(row.unwrap().id, *id);
            }
        })
    };
    let misses = |count: u64| {
        let items = items.clone();
        async move {
            eventually("the reads have missed", async || {
                items.stats().misses == count
            })
            .await;
        }
    };
    let first = batch(1..=5);
    misses(6).await;
    let second = batch(4..=8);
    misses(11).await;
    let single = batch(5..=5);
    misses(12).await;
    let before = world.database.statements();
    drop(gate);
    for task in [first, second, single] {
        task.await.unwrap();
    }
    assert_eq!(world.database.statements() - before, 2);
    let stats = items.stats();
    assert_eq!((stats.loads, stats.coalesced), (9, 3));
}

/// Reads the items with a query of the user, which says only which rows there are. `before_it_returns` runs after the query.
async fn queried<DB: Tested>(
    items: &ItemRepository<DB>,
    before_it_returns: impl Future<Output = ()> + Send + 'static,
) -> Result<Vec<(i64, String)>, larder::Error> {
    let found = items.fill_from(move |connection| {
        Box::pin(async move {
            let text =
                SqlStr::from_static("SELECT id FROM items WHERE quantity = 1 ORDER BY id DESC");
            let rows = DB::fetch_all(connection, text, DB::Arguments::default()).await?;
            before_it_returns.await;
            let rows = rows.iter();
            rows.map(|row| Ok(Item::new(DB::integer(row, 0)?, "of the query")))
                .collect()
        })
    });
    let found = found.await?.into_iter();
    Ok(found.map(|item| (item.id, item.name.clone())).collect())
}

async fn rows_of_a_query_are_cached<DB: Tested>(world: &World<DB>) {
    put(world, 1..=3).await;
    let items = world.items();
    let expected = [3, 2, 1].map(|id| (id, format!("row {id}")));
    for statements in [2, 1] {
        let before = world.database.statements();
        assert_eq!(queried(&items, async {}).await.unwrap(), expected);
        assert_eq!(
            world.database.statements() - before,
            statements,
            "the query, and the rows that the cache lacks"
        );
        filled(|| items.stats()).await;
    }
    let before = world.database.statements();
    assert_eq!(items.find(2).await.unwrap().unwrap().name, "row 2");
    assert_eq!(world.database.statements(), before);
    world.sql("ALTER TABLE items RENAME TO gone").await;
    let error = queried(&items, async {}).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("failed to load rows of Item with a query: "),
        "{text}"
    );
    assert!(error.database_error().is_some(), "{error:?}");
    world.sql("ALTER TABLE gone RENAME TO items").await;
}

async fn a_row_that_changes_after_the_query_is_not_cached_as_it_was<DB: Tested>(world: &World<DB>) {
    put(world, 1..=3).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    let changed = async move {
        elsewhere.update(&Item::new(2, "changed")).await.unwrap();
        elsewhere.delete(1).await.unwrap();
    };
    let expected = [(3, "row 3".to_owned()), (2, "changed".to_owned())];
    assert_eq!(queried(&items, changed).await.unwrap(), expected);
    filled(|| items.stats()).await;
    assert_eq!(items.find(2).await.unwrap().unwrap().name, "changed");
    assert!(items.find(1).await.unwrap().is_none());
}
