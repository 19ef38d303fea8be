//! One flush in the database: which writes of a batch become dead letters, and what becomes of the others.
//!
//! Not here: what it costs to find the refused writes (`divided`).

use std::sync::Arc;

use larder::{
    Cached, Codec, DeadLetter, Repository,
    behind::{
        Batch, Image,
        apply::{ApplyError, Hooks},
        letter_seal::LetterSeals,
        letters,
        offsets::close,
    },
};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Sqlite};

use crate::{
    behind::desk::{
        LARGE, LARGE_ON_MYSQL, Parcel, batch, dead, desk, desk_with, large, parcel, queued,
        register_place, save, saves, spelled,
    },
    world::{Tested, World, on_all_databases, on_mysql},
};

on_all_databases!(
    what_the_database_refuses_dies_and_everything_else_is_applied,
    a_batch_of_refusals_alone_moves_the_queue,
    a_refusal_that_a_later_write_makes_pointless_kills_no_write,
    a_refused_write_leaves_the_one_before_it,
    a_row_that_another_unique_key_holds_off_touches_no_other_row,
    an_error_about_the_database_kills_no_write,
    a_column_that_the_struct_lacks_kills_no_write,
    a_write_that_cannot_be_read_is_kept_as_it_is,
    writes_of_a_closed_incarnation_die,
    dead_letters_larger_than_a_message_are_written,
    a_dead_letter_is_there_until_it_is_discarded,
    a_dead_letter_of_another_layout_is_read_only_by_the_names_of_its_fields,
);
on_mysql!(
    a_row_larger_than_a_message_kills_its_write_alone,
    a_write_that_is_too_large_even_for_a_dead_letter_waits,
);

// MySQL has no such triggers.
mod a_trigger_that_suppresses_a_row_kills_its_write {
    crate::world::case!(
        a_trigger_that_suppresses_a_row_kills_its_write,
        sqlite,
        Memory,
        Sqlite
    );
    crate::world::case!(
        a_trigger_that_suppresses_a_row_kills_its_write,
        postgres,
        Memory,
        Postgres
    );
}

mod a_refusal_at_the_commit_kills_its_write_alone {
    crate::world::case!(
        a_refusal_at_the_commit_kills_its_write_alone,
        sqlite,
        Memory,
        Sqlite
    );
    crate::world::case!(
        a_refusal_at_the_commit_kills_its_write_alone,
        postgres,
        Memory,
        Postgres
    );
}

mod a_trigger_that_rolls_back_kills_its_write_alone {
    crate::world::case!(
        a_trigger_that_rolls_back_kills_its_write_alone,
        sqlite,
        Memory,
        Sqlite
    );
}

async fn what_the_database_refuses_dies_and_everything_else_is_applied<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    desk.world
        .sql("INSERT INTO parcels VALUES (100, 'taken', 1, '')")
        .await;
    let mut images: Vec<_> = saves((1..=40).map(|id| parcel(id, &format!("name {id}"))));
    images[4] = save(parcel(5, "taken"));
    images[5] = save(Parcel {
        weight: -1,
        ..parcel(6, "light")
    });
    images[17] = save(Parcel {
        note: None,
        ..parcel(18, "silent")
    });
    images[29] = save(parcel(30, "a name that is far too long for its column"));
    images[39] = save(parcel(40, "forbidden"));
    let applied = desk.apply(images).await;
    assert_eq!(dead(&applied), [5, 6, 18, 30, 40]);
    assert_eq!(applied.rows, 35);
    let rows = desk.rows().await;
    assert_eq!(rows.len(), 36);
    assert_eq!(rows.last().unwrap(), "100 taken");
    assert!(!rows.iter().any(|row| row.starts_with("5 ")));
    assert_eq!(desk.position().await, 40);
    assert_eq!(desk.audited().await.len(), 36, "each was applied once");
    let letters = desk.letters().await;
    let numbers: Vec<_> = letters.iter().map(DeadLetter::number).collect();
    assert_eq!(numbers, [5, 6, 18, 30, 40]);
    assert_eq!(letters[1].row().unwrap().weight, -1);
    assert_eq!(letters[4].error(), "forbidden by a trigger");
    for (letter, dead) in letters.iter().zip(&applied.dead) {
        assert_eq!(letter.error(), dead.error);
    }
}

async fn a_batch_of_refusals_alone_moves_the_queue<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let applied = desk
        .apply(saves((1..=150).map(|id| parcel(id, "forbidden"))))
        .await;
    assert_eq!(applied.dead.len(), 150);
    assert_eq!((applied.rows, desk.position().await), (0, 150));
    assert_eq!(desk.letters().await.len(), 100, "at most so many");
    assert_eq!(desk.rows().await, [""; 0]);
}

/// One by one the second write would have died, and its row would be the same in the end.
async fn a_refusal_that_a_later_write_makes_pointless_kills_no_write<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let applied = desk
        .apply(saves([
            parcel(1, "one"),
            parcel(2, "forbidden"),
            parcel(3, "three"),
            parcel(2, "allowed"),
        ]))
        .await;
    assert_eq!(dead(&applied), [0; 0]);
    assert_eq!(desk.rows().await, ["1 one", "2 allowed", "3 three"]);
}

async fn a_refused_write_leaves_the_one_before_it<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let applied = desk
        .apply(saves([
            parcel(1, "one"),
            parcel(2, "two"),
            parcel(1, "forbidden"),
        ]))
        .await;
    assert_eq!(dead(&applied), [3]);
    assert_eq!(desk.rows().await, ["1 one", "2 two"]);
}

async fn a_row_that_another_unique_key_holds_off_touches_no_other_row<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    desk.world
        .sql("INSERT INTO parcels VALUES (1, 'mine', 1, 'keep')")
        .await;
    let audited = desk.audited().await;
    let other = Parcel {
        weight: 9,
        ..parcel(2, "mine")
    };
    let applied = desk.apply(saves([other, parcel(3, "three")])).await;
    assert_eq!(dead(&applied), [1]);
    assert_eq!(desk.rows().await, ["1 mine", "3 three"]);
    let note = desk.listed("SELECT CONCAT(note, weight) FROM parcels WHERE id = 1");
    assert_eq!(note.await, ["keep1"]);
    assert_eq!(desk.audited().await.len(), audited.len() + 1);
}

async fn an_error_about_the_database_kills_no_write<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    world.sql("ALTER TABLE parcels RENAME TO hidden").await;
    let writes = desk.queued(saves([parcel(1, "one"), parcel(2, "forbidden")]));
    let batch = batch(&desk.place, &writes);
    let failed = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    assert!(matches!(failed, Err(ApplyError::Failed(_))), "{failed:?}");
    assert_eq!((desk.position().await, desk.letters().await.len()), (0, 0));
    world.sql("ALTER TABLE hidden RENAME TO parcels").await;
    let applied = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    assert_eq!(dead(&applied.unwrap()), [2]);
    assert_eq!(desk.rows().await, ["1 one"]);
}

/// A migration that came before the program it was made for.
async fn a_column_that_the_struct_lacks_kills_no_write<DB: Tested>(world: &World<DB>) {
    let desk = desk_with(
        world,
        "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, weight BIGINT NOT NULL, \
         note VARCHAR(20) NOT NULL, added BIGINT NOT NULL)",
    )
    .await;
    let writes = desk.queued(saves([parcel(1, "one")]));
    let batch = batch(&desk.place, &writes);
    let failed = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    assert!(matches!(failed, Err(ApplyError::Failed(_))), "{failed:?}");
    assert_eq!((desk.position().await, desk.letters().await.len()), (0, 0));
}

async fn a_write_that_cannot_be_read_is_kept_as_it_is<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let decode_error = Image::Unreadable {
        is_deletion: false,
        codec: 200,
        layout: 9,
        payload: vec![0, 255, 7],
        reason: "of another world".to_owned(),
    };
    let applied = desk.apply(vec![save(parcel(1, "one")), decode_error]).await;
    assert_eq!(dead(&applied), [2]);
    assert_eq!(desk.rows().await, ["1 one"]);
    let letters = desk.letters().await;
    assert!(letters[0].error().contains("of another world"));
    assert!(letters[0].decode_error().unwrap().contains("200"));
    assert!(letters[0].row().is_none() && letters[0].image().is_none());
    let payload = spelled::<DB>(
        "SELECT ENCODE(payload, 'hex') FROM larder_dead_letters",
        "SELECT LOWER(HEX(payload)) FROM larder_dead_letters",
        "SELECT LOWER(HEX(payload)) FROM larder_dead_letters",
    );
    assert_eq!(desk.listed(payload).await, ["00ff07"]);
}

async fn writes_of_a_closed_incarnation_die<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let writes = desk.queued(vec![save(parcel(1, "one")), Image::Deletion(8)]);
    assert!(close(&world.pool, &desk.place, 0).await.unwrap());
    let open = batch(&desk.place, &writes);
    let overtaken = desk.parcels.apply_queued(&open, &Hooks::default()).await;
    assert!(
        matches!(overtaken, Err(ApplyError::Overtaken)),
        "{overtaken:?}"
    );
    // Another number of its writes was counted as lost than this flusher knows of.
    let outdated = Batch {
        lost_counted_to: Some(1),
        ..batch(&desk.place, &writes)
    };
    let overtaken = desk
        .parcels
        .apply_queued(&outdated, &Hooks::default())
        .await;
    assert!(
        matches!(overtaken, Err(ApplyError::Overtaken)),
        "{overtaken:?}"
    );
    let late = Batch {
        lost_counted_to: Some(0),
        ..batch(&desk.place, &writes)
    };
    let applied = desk.parcels.apply_queued(&late, &Hooks::default()).await;
    assert_eq!(dead(&applied.unwrap()), [1, 2]);
    assert_eq!(desk.rows().await, [""; 0]);
    assert_eq!(desk.position().await, 2);
    let letters = desk.letters().await;
    assert_eq!(letters[0].row(), Some(&parcel(1, "one")));
    assert!(letters[1].is_deletion());
    assert_eq!(letters[1].id(), Some(8));
}

async fn dead_letters_larger_than_a_message_are_written<DB: Tested>(world: &World<DB>) {
    let desk = desk_with(world, spelled::<DB>(LARGE, LARGE_ON_MYSQL, LARGE)).await;
    assert!(close(&world.pool, &desk.place, 0).await.unwrap());
    let writes = desk.queued(large());
    let late = Batch {
        lost_counted_to: Some(0),
        ..batch(&desk.place, &writes)
    };
    let applied = desk.parcels.apply_queued(&late, &Hooks::default()).await;
    assert_eq!(applied.unwrap().dead.len(), 32);
    let listed = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(listed.await, ["32"]);
}

async fn a_dead_letter_is_there_until_it_is_discarded<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    desk.apply(saves([parcel(1, "forbidden"), parcel(2, "forbidden")]))
        .await;
    let letters = desk.letters().await;
    assert_eq!(letters[0].row(), Some(&parcel(1, "forbidden")));
    assert!(letters[0].key().ends_with(":1"), "{:?}", letters[0]);
    assert_eq!((letters[0].partition(), letters[0].epoch()), (2, 1));
    let second = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    assert_eq!(letters[0].failed_at(), second);
    assert!(letters::discard(&world.pool, &letters[0]).await.unwrap());
    assert!(!letters::discard(&world.pool, &letters[0]).await.unwrap());
    let left = desk.letters().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].number(), 2);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "crates")]
struct Crate {
    #[cached(id)]
    id: i64,
    #[sqlx(json)]
    content: Vec<String>,
}

/// As JSON each of its characters takes six bytes, and as a dead letter one.
async fn a_row_larger_than_a_message_kills_its_write_alone(world: &World<MySql>) {
    world
        .sql("CREATE TABLE crates (id BIGINT PRIMARY KEY, content LONGTEXT NOT NULL)")
        .await;
    let crates: Repository<Crate, MySql> = Repository::new(&world.cache, world.pool.clone());
    let place = register_place(world).await;
    let image = |id, length| {
        let content = vec!["\u{1}".repeat(length)];
        Image::Row(Arc::new(Crate { id, content }))
    };
    let writes = queued(
        |id| crates.key(id).unwrap(),
        vec![image(1, 9), image(2, 3_000_000), image(3, 9)],
    );
    let batch = batch(&place, &writes);
    let applied = crates.apply_queued(&batch, &Hooks::default()).await;
    let applied = applied.unwrap();
    assert_eq!((dead(&applied), applied.rows), (vec![2], 2));
    let why = &applied.dead[0].error;
    assert!(why.contains("max_allowed_packet"), "{why}");
}

async fn a_write_that_is_too_large_even_for_a_dead_letter_waits(world: &World<MySql>) {
    let desk = desk_with(world, LARGE_ON_MYSQL).await;
    let huge = Parcel {
        note: Some("x".repeat(17_000_000)),
        ..parcel(2, "huge")
    };
    let writes = desk.queued(saves([parcel(1, "one"), huge, parcel(3, "three")]));
    let batch = batch(&desk.place, &writes);
    let failed = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    let Err(ApplyError::Failed(error)) = failed else {
        panic!("{failed:?}");
    };
    let why = error.to_string();
    assert!(
        why.contains("dead letter of write 2") && why.contains("max_allowed_packet"),
        "{why}"
    );
    assert_eq!((desk.position().await, desk.letters().await.len()), (0, 0));
    assert_eq!(desk.rows().await, [""; 0]);
}

async fn a_trigger_that_suppresses_a_row_kills_its_write<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let trigger = spelled::<DB>(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.name = 'suppressed' THEN RETURN NULL; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER skip BEFORE INSERT ON parcels FOR EACH ROW EXECUTE FUNCTION skip()",
        "",
        "CREATE TRIGGER skip BEFORE INSERT ON parcels WHEN NEW.name = 'suppressed' BEGIN SELECT RAISE(IGNORE); END",
    );
    world.raw(trigger).await;
    let applied = desk
        .apply(saves([
            parcel(1, "one"),
            parcel(2, "suppressed"),
            parcel(3, "three"),
        ]))
        .await;
    assert_eq!(dead(&applied), [2]);
    assert!(applied.dead[0].error.contains("suppressed"), "{applied:?}");
    assert_eq!(desk.rows().await, ["1 one", "3 three"]);
}

/// A constraint that is looked at when the transaction ends, and not when the row is written.
async fn a_refusal_at_the_commit_kills_its_write_alone<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE scales (weight BIGINT NOT NULL PRIMARY KEY)")
        .await;
    world.sql("INSERT INTO scales VALUES (1), (2)").await;
    let desk = desk_with(
        world,
        "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, note VARCHAR(20) NOT NULL, \
         weight BIGINT NOT NULL REFERENCES scales (weight) DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let heavy = Parcel {
        weight: 99,
        ..parcel(2, "two")
    };
    let images = saves([parcel(1, "one"), heavy, parcel(3, "three")]);
    let applied = desk.apply(images).await;
    assert_eq!(dead(&applied), [2]);
    assert_eq!(desk.rows().await, ["1 one", "3 three"]);
    assert_eq!(desk.position().await, 3);
    assert_eq!(desk.letters().await.len(), 1);
}

/// It takes the transaction with it, savepoints and all.
async fn a_trigger_that_rolls_back_kills_its_write_alone(world: &World<Sqlite>) {
    let desk = desk(world).await;
    world
        .raw("CREATE TRIGGER harsh BEFORE INSERT ON parcels WHEN NEW.name = 'harsh' BEGIN SELECT RAISE(ROLLBACK, 'harshly'); END")
        .await;
    let images = saves([
        parcel(1, "one"),
        parcel(2, "harsh"),
        parcel(3, "three"),
        parcel(4, "forbidden"),
    ]);
    let applied = desk.apply(images).await;
    assert_eq!(dead(&applied), [2, 4]);
    assert_eq!(desk.rows().await, ["1 one", "3 three"]);
    assert_eq!(desk.audited().await.len(), 2, "each was applied once");
    assert_eq!(desk.position().await, 4);
}

/// A codec without names would read the fields of an earlier struct as others.
async fn a_dead_letter_of_another_layout_is_read_only_by_the_names_of_its_fields<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let rows = [parcel(1, "forbidden"), parcel(2, "forbidden")];
    let writes = desk.queued(saves(rows.clone()));
    for (from, codec) in (0..).zip([Codec::Postcard, Codec::MessagePack]) {
        let one = Batch {
            from,
            to: from + 1,
            codec,
            ..batch(&desk.place, &writes[from as usize..][..1])
        };
        let applied = desk.parcels.apply_queued(&one, &Hooks::default()).await;
        assert_eq!(dead(&applied.unwrap()), [from + 1]);
    }
    assert_eq!(
        desk.letters()
            .await
            .iter()
            .filter_map(DeadLetter::row)
            .cloned()
            .collect::<Vec<_>>(),
        rows
    );
    let elsewhere =
        letters::list::<Parcel, DB>(&world.pool, &desk.place.queue, 8, LetterSeals::default(), 9);
    let elsewhere = elsewhere.await.unwrap();
    let error = elsewhere[0].decode_error().unwrap();
    assert!(error.contains("another layout"), "{error}");
    assert_eq!(elsewhere[1].row(), Some(&rows[1]));
}
