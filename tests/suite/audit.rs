//! An audit finds rows that are stale, and none that only a write is just changing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use larder::{AuditOptions, ErrorKind, store::Mechanism};

use tokio::time::Instant;

use crate::{
    entities::{Behind, Item, of_items},
    world::{Tested, World, eventually, everywhere, filled, on_both_stores},
};

everywhere!(a_row_that_was_changed_past_larder_is_found);
on_both_stores!(
    a_row_that_was_deleted_past_larder_is_found,
    rows_that_are_being_written_are_not_stale,
    without_the_second_look_rows_that_are_being_written_seem_stale,
    an_audit_changes_nothing,
    an_audit_is_bounded,
    an_entity_with_tags_is_audited_as_its_readers_see_it,
    an_entity_with_a_queue_is_refused,
);

of_items! {
    #[cached(ttl = "10m", tags("name:{name}"))]
    struct Labelled
}

fn all() -> AuditOptions {
    AuditOptions::default().rows(100_000).per_second(0)
}

async fn a_row_that_was_changed_past_larder_is_found<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in 1..=20 {
        world.put(&Item::new(id, "right")).await;
        items.find(id).await.unwrap();
    }
    filled(|| items.stats()).await;
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale, audit.changing), (20, 0, 0));
    assert!(audit.is_complete && audit.right() == Some(1.0));
    world
        .sql("UPDATE items SET name = 'other', quantity = 77 WHERE id = 7")
        .await;
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (20, 1));
    let stale = &audit.examples[0];
    assert_eq!(stale.key, items.inner().key(7).unwrap().to_string());
    assert_eq!(stale.columns.as_deref(), Some(&["name", "quantity"][..]));
    assert!(stale.age < Duration::from_secs(600));
    let stats = items.stats();
    assert_eq!((stats.audited_rows, stats.stale_rows), (40, 1));
    items.invalidate(7).await.unwrap();
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (19, 0));
}

async fn a_row_that_was_deleted_past_larder_is_found<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    world.put(&Item::new(1, "here")).await;
    world.warm(&items, 1).await;
    world.warm(&items, 404).await;
    world.sql("DELETE FROM items WHERE id = 1").await;
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (1, 1), "absences have no row");
    assert_eq!(audit.examples[0].columns, None);
}

async fn rows_that_are_being_written_are_not_stale<DB: Tested>(world: &World<DB>) {
    let (checked, stale) = audited_beside_writers(world, |checked, _| checked >= 500).await;
    assert_eq!(stale, 0, "of {checked}");
}

async fn without_the_second_look_rows_that_are_being_written_seem_stale<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::SecondLook);
    let (_, stale) = audited_beside_writers(world, |_, stale| stale > 0).await;
    assert!(stale > 0);
}

/// Audits while writers and readers are at work, until enough was checked. Returns how many rows were checked, and how many were
/// stale.
async fn audited_beside_writers<DB: Tested>(
    world: &World<DB>,
    is_enough: fn(u64, u64) -> bool,
) -> (u64, u64) {
    let items = world.items();
    for id in 0..8 {
        world.put(&Item::new(id, "0")).await;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..8)
        .map(|id| {
            let (items, is_over) = (items.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut round = 0;
                while !is_over.load(Ordering::SeqCst) {
                    round += 1;
                    items
                        .update(&Item::new(id, &round.to_string()))
                        .await
                        .unwrap();
                    for _ in 0..100 {
                        items.find(id).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    let (mut checked, mut stale) = (0, 0);
    eventually("enough was checked", async || {
        let audit = items.audit(all()).await.unwrap();
        (checked, stale) = (checked + audit.checked, stale + audit.stale);
        is_enough(checked, stale)
    })
    .await;
    is_over.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await.unwrap();
    }
    (checked, stale)
}

async fn an_audit_changes_nothing<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in [1, 2] {
        world.put(&Item::new(id, "row")).await;
        world.warm(&items, id).await;
    }
    world
        .sql("UPDATE items SET name = 'new' WHERE id = 1")
        .await;
    let before = items.stats();
    items.audit(all()).await.unwrap();
    let after = items.stats();
    assert_eq!(
        (after.hits, after.misses, after.loads, after.fills_accepted),
        (
            before.hits,
            before.misses,
            before.loads,
            before.fills_accepted
        )
    );
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "row");
}

async fn an_audit_is_bounded<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in 0..1_200 {
        world.put(&Item::new(id, "row")).await;
    }
    let ids: Vec<_> = (0..1_200).collect();
    items.find_many(&ids).await.unwrap();
    filled(|| items.stats()).await;
    let some = AuditOptions::default().rows(600).per_second(0);
    let audit = items.audit(some).await.unwrap();
    assert!((600..1_200).contains(&audit.checked), "{}", audit.checked);
    assert!(!audit.is_complete);
    let began = Instant::now();
    let slowly = AuditOptions::default().rows(1_000).per_second(1_000);
    let audit = items.audit(slowly).await.unwrap();
    assert!(audit.checked >= 1_000);
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

/// A row whose tag was invalidated is not served, so it is not stale.
async fn an_entity_with_tags_is_audited_as_its_readers_see_it<DB: Tested>(world: &World<DB>) {
    let rows = Labelled::repository(&world.cache, world.pool.clone());
    for id in [1, 2] {
        world.put(&Item::new(id, "a")).await;
        for _ in 0..2 {
            rows.find(id).await.unwrap();
        }
        filled(|| rows.stats()).await;
    }
    world.sql("UPDATE items SET quantity = 5").await;
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!(audit.stale, audit.checked);
    assert!(audit.checked > 0);
    rows.invalidate_tag("name:a").await.unwrap();
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (0, 0));
}

async fn an_entity_with_a_queue_is_refused<DB: Tested>(world: &World<DB>) {
    let rows = Behind::repository(&world.cache, world.pool.clone());
    let refused = rows.audit(all()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    assert!(refused.to_string().contains("write_behind"), "{refused}");
}
