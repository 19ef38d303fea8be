//! What a write does if it cannot be announced: `consistent` refuses it before any change, `available` executes it.
//!
//! Not here: the keys whose invalidation could not be delivered (`repair`).

use larder::{Error, ErrorKind, Transaction, store::faulty::Operation};

use crate::{
    entities::{Item, of_items},
    world::{Tested, World, everywhere},
};

everywhere!(
    a_consistent_write_that_cannot_be_announced_changes_nothing,
    an_available_write_that_cannot_be_announced_is_made,
    a_write_that_can_be_announced_again_just_before_its_statement_is_made,
);

of_items! {
    #[cached(on_outage = "consistent")]
    struct Careful
}

fn careful(id: i64, name: &str) -> Careful {
    Careful {
        id,
        name: name.to_owned(),
        note: None,
        quantity: 1,
    }
}

async fn a_consistent_write_that_cannot_be_announced_changes_nothing<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Careful::repository(&world.cache, world.pool.clone());
    rows.insert(&careful(1, "old")).await.unwrap();
    assert_eq!(rows.find(2).await.unwrap(), None);
    world.faults.fail(Operation::Begin, u64::MAX);
    let refused = |error: Error, verb: &str| {
        assert_eq!(error.kind(), ErrorKind::CacheUnavailable, "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(verb) && message.contains("Careful") && message.contains("on_outage"),
            "{message}"
        );
    };
    let statements = world.database.statement_log().count_on("items");
    refused(rows.update(&careful(1, "new")).await.unwrap_err(), "update");
    refused(rows.insert(&careful(2, "new")).await.unwrap_err(), "insert");
    refused(rows.save(&careful(2, "new")).await.unwrap_err(), "save");
    refused(rows.delete(1).await.unwrap_err(), "delete");
    let touched = world.database.statement_log().count_on("items") - statements;
    assert_eq!(touched, 0, "the database was not touched");
    refused(
        rows.update_many(&[careful(1, "new")]).await.unwrap_err(),
        "commit",
    );
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.within(&mut transaction)
        .update(&careful(1, "new"))
        .await
        .unwrap();
    refused(transaction.commit().await.unwrap_err(), "commit");
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    rows.within(&mut transaction).mark_all_changed().unwrap();
    refused(transaction.commit().await.unwrap_err(), "commit");
    assert_eq!(rows.find_uncached(1).await.unwrap().unwrap().name, "old");
    assert_eq!(rows.find_uncached(2).await.unwrap(), None);
    world.faults.fail(Operation::Begin, 0);
    rows.update(&careful(1, "new")).await.unwrap();
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "new");
}

async fn an_available_write_that_cannot_be_announced_is_made<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "old")).await.unwrap();
    world.warm(&items, 1).await;
    world.faults.fail(Operation::Begin, u64::MAX);
    items.update(&Item::new(1, "new")).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    items
        .within(&mut transaction)
        .insert(&Item::new(2, "new"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    for id in [1, 2] {
        assert_eq!(items.find(id).await.unwrap().unwrap().name, "new");
    }
}

/// The first attempt fails. The one just before the statement succeeds, which is enough.
async fn a_write_that_can_be_announced_again_just_before_its_statement_is_made<DB: Tested>(
    world: &World<DB>,
) {
    let rows = Careful::repository(&world.cache, world.pool.clone());
    rows.insert(&careful(1, "old")).await.unwrap();
    world.faults.fail(Operation::Begin, 1);
    rows.update(&careful(1, "new")).await.unwrap();
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "new");
}
