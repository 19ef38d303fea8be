//! Absences: they are cached, they expire, and they are never wrong.

use larder::{ErrorKind, store::faulty::Operation};

use crate::{
    entities::{Item, of_items},
    world::{Tested, World, everywhere, on_both_stores},
};

everywhere!(
    twenty_reads_of_an_absent_id_cost_one_statement,
    an_insert_is_visible_to_the_very_next_read_everywhere,
);

on_both_stores!(
    an_absence_found_late_does_not_overwrite_an_insert,
    a_database_error_is_never_cached_as_absence,
    absence_caching_can_be_switched_off,
    a_deleted_row_is_absent_at_once,
);

async fn twenty_reads_of_an_absent_id_cost_one_statement<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let before = world.database.statements();
    world.warm(&items, 404).await;
    for _ in 0..19 {
        assert_eq!(items.find(404).await.unwrap(), None);
    }
    assert_eq!(world.database.statements() - before, 1);
    assert_eq!(items.stats().negative_hits, 19);
}

async fn an_insert_is_visible_to_the_very_next_read_everywhere<DB: Tested>(world: &World<DB>) {
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    for id in 0..10 {
        assert_eq!(items.find(id).await.unwrap(), None);
        assert_eq!(elsewhere.find(id).await.unwrap(), None);
        let item = Item::new(id, "new");
        if id % 2 == 0 {
            items.insert(&item).await.unwrap();
        } else {
            items.save(&item).await.unwrap();
        }
        assert_eq!(elsewhere.find(id).await.unwrap().as_deref(), Some(&item));
        assert_eq!(items.find(id).await.unwrap().as_deref(), Some(&item));
    }
}

async fn an_absence_found_late_does_not_overwrite_an_insert<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let fill = world.faults.pause(Operation::Fill);
    assert_eq!(
        items.find(1).await.unwrap(),
        None,
        "the caller has its answer before the fill"
    );
    fill.reached().await;
    let elsewhere = world.items_elsewhere().await;
    elsewhere.insert(&Item::new(1, "inserted")).await.unwrap();
    fill.resume();
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "inserted");
    assert_eq!(elsewhere.find(1).await.unwrap().unwrap().name, "inserted");
}

async fn a_database_error_is_never_cached_as_absence<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    world.sql("ALTER TABLE items RENAME TO hidden").await;
    let items = world.items();
    for _ in 0..3 {
        assert_eq!(items.find(1).await.unwrap_err().kind(), ErrorKind::Database);
    }
    assert_eq!(items.stats().fills_accepted, 0);
    world.sql("ALTER TABLE hidden RENAME TO items").await;
    assert!(items.find(1).await.unwrap().is_some());
}

of_items! {
    #[cached(negative_ttl = false)]
    struct Positive
}

async fn absence_caching_can_be_switched_off<DB: Tested>(world: &World<DB>) {
    let positives = Positive::repository(&world.cache, world.pool.clone());
    for _ in 0..3 {
        assert_eq!(positives.find(1).await.unwrap(), None);
    }
    assert_eq!(
        positives.stats().loads,
        3,
        "every look-up of an absent row asks the database"
    );
    world.put(&Item::new(1, "one")).await;
    assert_eq!(
        positives.find(1).await.unwrap().unwrap().name,
        "one",
        "also for a row inserted past the repository"
    );
}

async fn a_deleted_row_is_absent_at_once<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let (items, elsewhere) = (world.items(), world.items_elsewhere().await);
    assert!(items.exists(1).await.unwrap() && elsewhere.exists(1).await.unwrap());
    items.delete(1).await.unwrap();
    assert_eq!(elsewhere.find(1).await.unwrap(), None);
    assert_eq!(items.find(1).await.unwrap(), None);
    assert_eq!(
        items.delete(1).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}
