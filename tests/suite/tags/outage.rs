//! Writes of many rows that the store does not hear of, or whose process does not end them.

use larder::{
    Origin,
    key::Key,
    store::{Mechanism, faulty::Operation, tags::TagStore},
    tags::{Changed, Tag},
    token::Token,
};

use super::{RENAME_GERMAN, Scene, write_tagged};
use crate::world::{Tested, World, eventually, on_both_stores, on_redis};

on_both_stores!(
    after_a_change_that_was_not_announced_this_process_serves_no_old_row,
    without_repairs_it_serves_one,
);
on_redis!(a_write_that_nobody_forgets_stays_open);

/// Rows are changed together while the store accepts neither the announcement nor the end. Returns the name that this process
/// serves afterwards.
async fn after_an_unheard_change<DB: Tested>(world: &World<DB>, scene: &Scene<DB>) -> String {
    for operation in [Operation::BeginTagged, Operation::EndTagged] {
        world.faults.fail(operation, u64::MAX);
    }
    // `on_outage` is "available": the write is executed nevertheless.
    write_tagged(&scene.here, &["country:DE"], RENAME_GERMAN)
        .await
        .unwrap();
    let served = scene.here.find(1).await.unwrap().unwrap();
    served.name.clone()
}

async fn after_a_change_that_was_not_announced_this_process_serves_no_old_row<DB: Tested>(
    world: &World<DB>,
) {
    let scene = Scene::open(world).await;
    assert_eq!(after_an_unheard_change(world, &scene).await, "new");
    let rows = scene.here.find_many(&[1, 2, 3]).await.unwrap();
    let names = rows.iter().map(|row| row.as_ref().unwrap().name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["new", "new", "old"]);
    eventually("the invalidation was delivered", async || {
        world.cache.repairs().pending == 0
    })
    .await;
    scene.see(["new", "new", "old"]).await;
}

async fn without_repairs_it_serves_one<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    world.faults.leave_out(Mechanism::Repair);
    assert_eq!(after_an_unheard_change(world, &scene).await, "old");
}

/// Why a reader asks the store to forget the writes of processes that have died.
async fn a_write_that_nobody_forgets_stays_open<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    world.faults.fail(Operation::ExpireTagged, u64::MAX);
    let clock = Key::from_bytes(format!("{}:Airport@tags", world.namespace).as_bytes());
    let changed = Changed::Tags(vec![Tag::new("country:DE")]);
    let store = world.cache.store();
    store
        .begin_tagged(&clock, Token::draw(), &changed, 1)
        .await
        .unwrap();
    let origin = async || scene.here.find_outcome(1).await.unwrap().origin;
    let asked = || world.faults.calls(Operation::ExpireTagged);
    // Between two questions more time passes than the write had.
    eventually("the store was asked twice", async || {
        assert_eq!(origin().await, Origin::Database);
        asked() >= 2
    })
    .await;
    assert_eq!(origin().await, Origin::Database);
    world.faults.fail(Operation::ExpireTagged, 0);
    eventually("the row is cached again", async || {
        origin().await == Origin::Cache
    })
    .await;
    assert!(asked() >= 3);
}
