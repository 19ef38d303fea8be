//! Reads and fills that are paused at run time: rows come from the database, writes are still announced, and nothing is wrong when
//! the cache is used again.

use larder::{Cached, Origin};
use serde::{Deserialize, Serialize};

use crate::{
    entities::{Behind, Item, Through},
    world::{Tested, World, filled, on_both_stores, unique},
};

on_both_stores!(
    paused_reads_come_from_the_database_and_fill_nothing,
    paused_batches_and_lookups_come_from_the_database,
    a_write_while_reads_are_paused_is_seen_after_them,
    paused_fills_serve_what_is_cached_and_add_nothing,
    a_write_through_while_fills_are_paused_leaves_the_key_empty,
    an_entity_is_paused_alone,
    a_queued_write_is_read_while_reads_are_paused,
    an_entity_with_a_queue_reads_the_database_while_reads_are_paused,
    queued_writes_with_a_condition_are_made_while_all_is_paused,
);

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items", name = "Named")]
struct Named {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    name: String,
}

/// Renames a row without larder, so that the database and the cache can be told apart.
async fn rename<DB: Tested>(world: &World<DB>, id: i64, name: &str) {
    let text = format!("UPDATE items SET name = '{name}' WHERE id = {id}");
    world.sql(text).await;
}

async fn paused_reads_come_from_the_database_and_fill_nothing<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in [1, 2] {
        world.put(&Item::new(id, "old")).await;
    }
    world.warm(&items, 1).await;
    rename(world, 1, "new").await;
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "old", "cached");
    world.cache.pause_reads();
    let fills = items.stats().fills_accepted;
    for _ in 0..3 {
        assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
        assert_eq!(items.find(2).await.unwrap().unwrap().name, "old");
    }
    let stats = items.stats();
    assert_eq!(stats.fills_accepted, fills);
    assert_eq!(stats.paused_reads, 6);
    world.cache.resume_reads();
    assert_eq!(
        items.find(1).await.unwrap().unwrap().name,
        "old",
        "what was cached is served again"
    );
    world.warm(&items, 2).await;
}

async fn paused_batches_and_lookups_come_from_the_database<DB: Tested>(world: &World<DB>) {
    let named = Named::repository(&world.cache, world.pool.clone());
    for id in 1..=3 {
        world.put(&Item::new(id, "old")).await;
    }
    let ids = [1, 2, 3];
    for _ in 0..2 {
        assert_eq!(named.find_many(&ids).await.unwrap().len(), 3);
        assert_eq!(named.find_all_by_name("old").await.unwrap().rows.len(), 3);
    }
    filled(|| named.stats()).await;
    rename(world, 2, "new").await;
    named.pause_reads();
    let rows = named.find_many(&ids).await.unwrap();
    assert_eq!(rows[1].as_ref().unwrap().name, "new");
    assert_eq!(named.find_all_by_name("old").await.unwrap().rows.len(), 2);
    assert_eq!(named.find_all_by_name("new").await.unwrap().rows.len(), 1);
    named.resume_reads();
    let rows = named.find_many(&ids).await.unwrap();
    assert_eq!(rows[1].as_ref().unwrap().name, "old");
}

async fn a_write_while_reads_are_paused_is_seen_after_them<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    world.put(&Item::new(1, "old")).await;
    world.warm(&items, 1).await;
    world.cache.pause_reads();
    items.update(&Item::new(1, "new")).await.unwrap();
    world.cache.resume_reads();
    for _ in 0..3 {
        assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
    }
    world.warm(&items, 1).await;
}

async fn paused_fills_serve_what_is_cached_and_add_nothing<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in [1, 2] {
        world.put(&Item::new(id, "row")).await;
    }
    world.warm(&items, 1).await;
    world.cache.pause_fills();
    for _ in 0..3 {
        assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
        assert_eq!(
            items.find_outcome(2).await.unwrap().origin,
            Origin::Database
        );
    }
    assert_eq!(items.find(404).await.unwrap(), None);
    let stats = items.stats();
    assert_eq!(stats.fills_accepted, 1);
    world.cache.resume_fills();
    world.warm(&items, 2).await;
}

async fn a_write_through_while_fills_are_paused_leaves_the_key_empty<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Through::repository(&world.cache, world.pool.clone());
    world.put(&Item::new(1, "old")).await;
    rows.update(&Through::new(1, "cached")).await.unwrap();
    assert_eq!(rows.find_outcome(1).await.unwrap().origin, Origin::Cache);
    rows.pause_fills();
    rows.update(&Through::new(1, "new")).await.unwrap();
    let outcome = rows.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Database);
    assert_eq!(outcome.row.unwrap().name, "new");
    rows.resume_fills();
    rows.update(&Through::new(1, "last")).await.unwrap();
    assert_eq!(rows.find_outcome(1).await.unwrap().origin, Origin::Cache);
}

async fn an_entity_is_paused_alone<DB: Tested>(world: &World<DB>) {
    let cache = world.cache_elsewhere().await;
    let other = cache.with_namespace(unique("other")).unwrap();
    let (paused, other) = (
        Item::repository(&cache, world.pool.clone()),
        Through::repository(&other, world.pool.clone()),
    );
    world.put(&Item::new(1, "row")).await;
    for _ in 0..2 {
        paused.find(1).await.unwrap();
        other.find(1).await.unwrap();
    }
    paused.pause_reads();
    let origin = paused.find_outcome(1).await.unwrap().origin;
    assert_eq!(origin, Origin::Database);
    assert_eq!(other.stats().paused_reads, 0);
    let health = cache.health();
    assert_eq!(health.to_string(), "reads of Item are paused");
    paused.resume_reads();
    assert!(cache.health().is_ok(), "{}", cache.health());
}

async fn a_queued_write_is_read_while_reads_are_paused<DB: Tested>(world: &World<DB>) {
    let rows = Behind::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&Behind::new(1, "queued")).await.unwrap();
    rows.pause_reads();
    for _ in 0..3 {
        let row = rows.find(1).await.unwrap();
        assert_eq!(row.expect("it is in the queue").name, "queued");
    }
    assert_eq!(rows.find(1).bypass().await.unwrap(), None);
    assert_eq!(rows.pending().await.unwrap().count, 1);
}

async fn an_entity_with_a_queue_reads_the_database_while_reads_are_paused<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Behind::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&Behind::new(1, "flushed")).await.unwrap();
    rows.flush().await.unwrap();
    rename(world, 1, "new").await;
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "flushed");
    rows.pause_reads();
    for _ in 0..3 {
        assert_eq!(rows.find(1).await.unwrap().unwrap().name, "new");
    }
}

async fn queued_writes_with_a_condition_are_made_while_all_is_paused<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Behind::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    for id in [1, 2] {
        world.put(&Item::new(id, "old")).await;
    }
    world.cache.pause_reads();
    rows.pause_fills();
    rows.insert(&Behind::new(3, "inserted")).await.unwrap();
    rows.update(&Behind::new(1, "updated")).await.unwrap();
    let modified = rows.modify(1, |row| row.name.push('!')).await.unwrap();
    assert_eq!(modified.row.name, "updated!");
    rows.delete(2).await.unwrap();
    rows.update(&Behind::new(404, "none")).await.unwrap_err();
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "updated!");
    assert_eq!(rows.find(2).await.unwrap(), None);
    rows.flush().await.unwrap();
    assert_eq!(rows.find(3).await.unwrap().unwrap().name, "inserted");
    assert_eq!(
        rows.find(1).bypass().await.unwrap().unwrap().name,
        "updated!"
    );
    assert_eq!(rows.find(2).bypass().await.unwrap(), None);
}
